"""Films made as a whole from a prompt or a story: jobs, done one after the other.

Who wants to watch and direct opens a film; who wants a file asks for a video. Both are made by the
server's one model.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Literal

from ..errors import ShotStreamError
from ..film.turn import Turn
from ..loading.load_model import Model
from ..session import Session
from ..story import Story
from ..types import Frame
from .films import Films
from .fragments import FragmentEncoder, Head
from .limits import Limits
from .problems import FullError, NotFoundError, Problem, problem_of
from .recording import Recording
from .samples import TemporarySamples

Status = Literal["queued", "in_progress", "completed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOrder:
    """What a video is to be.

    Attributes:
        content: caption of its only shot, or a story.
        seconds: length of a video of one shot; default: the trained length.
        seed: noise seed; default: the server's.
    """

    content: str | Story
    seconds: int | None = None
    seed: int | None = None


class Video:
    """One job and what has come of it. ``make`` runs on a thread; the rest is read on the loop's.

    Args:
        order: what it is to be.
        limits: of the server.
    """

    def __init__(self, order: VideoOrder, limits: Limits) -> None:
        self.id = f"video_{secrets.token_hex(8)}"
        self.created_at = int(time.time())
        self.completed_at: int | None = None
        self.status: Status = "queued"
        self.problem: Problem | None = None
        self.size: tuple[int, int] | None = None
        self.seconds: float | None = None
        self.dropped = False
        self._order, self._limits = order, limits
        self._frames, self._expected = 0, 1
        self._session: Session | None = None
        self._recording: Recording | None = None
        self._head: Head | None = None

    @property
    def progress(self) -> int:
        """How much is made, in percent."""
        return 100 if self.status == "completed" else min(99, 100 * self._frames // self._expected)

    @property
    def expires_at(self) -> int | None:
        """Unix time in seconds at which it is deleted; None while it is being made."""
        return None if self.completed_at is None else self.completed_at + self._limits.video_keep_s

    def file(self) -> tuple[int, Iterator[bytes]] | None:
        """Return size in bytes and contents of the MP4 file; None as long as it is not whole."""
        if self.status != "completed" or self._recording is None or self._head is None:
            return None
        return self._recording.file(self._head)

    def make(self, model: Model, turn: Turn, *, seed: int, threads: int | None) -> None:
        """Make it, and note how that ended. Returns early where ``drop`` is called.

        Args:
            model: makes it.
            turn: asked before each chunk.
            seed: noise seed where the order has none.
            threads: CPU threads; default: torch's own choice.
        """
        if self.dropped:
            return
        self.status = "in_progress"
        try:
            seed = seed if self._order.seed is None else self._order.seed
            with model.session(seed=seed, at_end="extend", threads=threads, turn=turn) as session:
                self._session = session
                if not self.dropped:
                    self._record(session)
            self.status = "completed"
        except Exception as error:
            self.status = "failed"
            self.problem = problem_of(error)
        finally:
            self._session = None
            self.completed_at = int(time.time())

    def drop(self) -> None:
        """End the making of it, if that is under way; what was made is gone."""
        self.dropped = True
        if self._session is not None:
            self._session.close()
        self._recording = None

    def _record(self, session: Session) -> None:
        height, width = self.size = session.size
        rate_hz = session.frame_rate_hz
        encoder = FragmentEncoder(height=height, width=width, frame_rate_hz=rate_hz)
        try:
            recording = Recording(TemporarySamples(self._limits.recording_bytes))
            self._recording, self._head = recording, encoder.head
            for frame in self._frames_of(session):
                change = recording.place(frame)
                sample = encoder.encode(frame.pixels, key=not change.follows)
                recording.add(frame, sample, self._frames)
                if recording.full:
                    raise FullError("disk: there is no room for the video")
                self._frames += 1
        finally:
            encoder.close()

    def _frames_of(self, session: Session) -> Iterator[Frame]:
        """Ask for the shots and yield the frames that the video is to have."""
        content, rate_hz = self._order.content, session.frame_rate_hz
        if isinstance(content, Story):
            self._expected = len(content.shots) * session.shot_frames
            frames = session.story(content)
        else:
            seconds = self._order.seconds
            self._expected = session.shot_frames if seconds is None else seconds * rate_hz
            session.cut(content)
            frames = session.stream()
        self.seconds = self._expected / rate_hz
        return islice(frames, self._expected)


class Videos:
    """The videos of one server. Used on the event loop's thread.

    Args:
        films: have the model.
        limits: of the server.
    """

    def __init__(self, films: Films, limits: Limits) -> None:
        self._films, self._limits = films, limits
        self._videos: dict[str, Video] = {}
        self._waiting: asyncio.Queue[Video] = asyncio.Queue()
        self._working: asyncio.Task[None] | None = None

    def order(self, order: VideoOrder) -> Video:
        """Take an order.

        Raises:
            FullError: there are as many videos as may be.
        """
        self._expire()
        if len(self._videos) >= self._limits.videos:
            raise FullError(
                f"videos: {self._limits.videos} are kept, which is as many as may be; delete one"
            )
        video = Video(order, self._limits)
        self._videos[video.id] = video
        self._waiting.put_nowait(video)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return video

    def find(self, id: str) -> Video:
        """Return a video.

        Raises:
            NotFoundError: there is no such video.
        """
        self._expire()
        video = self._videos.get(id)
        if video is None:
            raise NotFoundError(f"video: there is none {id!r}; it was deleted, or never ordered")
        return video

    def all(self) -> tuple[Video, ...]:
        """Return every video, the newest first."""
        self._expire()
        return tuple(reversed(self._videos.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all that are kept; may be asked for from any thread."""
        return tuple(self._videos)

    async def delete(self, id: str) -> None:
        """Delete a video, also one that is being made.

        Raises:
            NotFoundError: there is no such video.
        """
        video = self.find(id)
        del self._videos[id]
        await asyncio.to_thread(video.drop)

    async def close(self) -> None:
        """Delete every video."""
        if self._working is not None:
            self._working.cancel()
        for id in tuple(self._videos):
            with suppress(NotFoundError):  # it has just ended by itself
                await self.delete(id)
        if self._working is not None:
            await asyncio.gather(self._working, return_exceptions=True)

    def _expire(self) -> None:
        now = time.time()
        for id, video in tuple(self._videos.items()):
            if video.expires_at is not None and video.expires_at <= now:
                del self._videos[id]
                video.drop()

    async def _work(self) -> None:
        settings = self._films.settings
        while True:
            video = await self._waiting.get()
            try:
                model = await self._films.model.get()
            except ShotStreamError:
                return  # the server ends: it has no model
            # Nobody watches it being made, so it takes what the films leave of the device.
            turn = self._films.scheduler.turn(lambda: inf, frame_rate_hz=model.frame_rate_hz)
            await asyncio.to_thread(
                video.make, model, turn, seed=settings.seed, threads=settings.threads
            )
