"""Shots and prompts as they are asked for: the directing half of a session."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .checks import check_range, check_seed, check_text
from .crew import Crew
from .errors import ConfigError
from .shots import ShotRequest
from .story import Story, story_prefix
from .streaming import FrameStream
from .types import Frame


class Direction(FrameStream):
    """What a director may do with a session; attributes are set by the session."""

    _crew: Crew
    _seed: int

    def cut(
        self,
        text: str,
        *,
        global_caption: str | None = None,
        seed: int | None = None,
        take: int = 0,
        now: bool = False,
    ) -> tuple[str, ...]:
        """Queue a shot.

        It begins when the shots before it have reached their trained length (at once, if nothing
        runs), or at the next chunk boundary with ``now``; then the shots queued before it follow
        it. Frames already made are still delivered.

        Args:
            text: what the shot shows. Longer texts than the model's limit (512 tokens for the
                released one) are cut at the end, with a note, as the original does.
            global_caption: what holds for the whole film; the caption then takes the form of a
                story's, with the shot's number in the film.
            seed: noise seed of this shot; default: the session's.
            take: another number gives another picture of the same caption.
            now: do not wait for the running shot's end.

        Returns:
            Notes on the caption: words the model does not know, text that was cut off.

        Raises:
            ConfigError: an argument is not usable.
            SessionClosedError: the session is closed.
        """
        self._reader.check()
        check_text(text)
        check_range("take", take, 0, 2**31 - 1)
        prefix = ""
        if global_caption is not None:
            if not isinstance(global_caption, str):
                got = type(global_caption).__name__
                raise ConfigError(f"global_caption: got {got}, wanted a text")
            prefix = story_prefix(global_caption, self._generator.upcoming_shot())
        request = ShotRequest(
            text=text,
            prefix=prefix,
            seed=self._seed if seed is None else check_seed(seed),
            take=take,
            now=now,
            requested_ns=time.perf_counter_ns(),
        )
        notes = self.check(request.caption)
        self._generator.ask([request])
        return notes

    def story(self, story: Story) -> Iterator[Frame]:
        """Queue all shots of a story and return ``stream()``.

        Raises:
            ConfigError: not a ``Story``.
            SessionClosedError: the session is closed.
        """
        self._reader.check()
        if not isinstance(story, Story):
            raise ConfigError(
                f"story: got {type(story).__name__}, wanted a Story (Story.from_json reads one)"
            )
        asked_ns = time.perf_counter_ns()
        requests = [
            ShotRequest(
                text=text,
                prefix=story_prefix(story.global_caption, index),
                seed=self._seed,
                requested_ns=asked_ns,
            )
            for index, text in enumerate(story.shots)
        ]
        self._generator.ask(requests)
        return self.stream()

    def prompt(self, text: str) -> tuple[str, ...]:
        """Change what the running shot shows, from the next chunk boundary on.

        Its caption is replaced, everything it remembers is kept. When no shot is running, the
        next queued one is reworded instead.

        Returns:
            Notes on the caption, as ``cut``.

        Raises:
            ConfigError: the text is not usable, or nothing is running or queued.
            SessionClosedError: the session is closed.
        """
        self._reader.check()
        notes = self.check(check_text(text))
        self._generator.steer(text)
        return notes

    def retake(self, shot: int | None = None) -> None:
        """Make the last shot begun once more: same caption and context, other noise.

        A shot that is still running is dropped at the next chunk boundary. The new take carries
        the same shot number and takes the old one's place in the context of later shots.

        Args:
            shot: its number, as a safeguard; default: the last one begun.

        Raises:
            ConfigError: no shot was begun, or another one than ``shot`` was begun last.
            SessionClosedError: the session is closed.
        """
        self._reader.check()
        self._generator.retake(shot)

    def check(self, text: str) -> tuple[str, ...]:
        """Return what the model will not understand of a caption: unknown words, a cut-off end.

        Raises:
            ConfigError: the text is not usable.
            SessionClosedError: the session is closed.
        """
        self._reader.check()
        return self._crew.book.notes(check_text(text))
