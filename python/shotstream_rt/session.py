"""The session: prompts in, frames out.

The public face of the runtime: opens a film, takes shots and prompts for it, hands out its frames
and closes it. Behind it run three threads: ``caption_encoder.py`` encodes captions,
``generator.py`` makes latents, ``decode_thread.py`` decodes them; finished chunks wait in
``frame_queue.py``. ``film.py`` holds them together and ends them.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import is_not
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from .checks import check_flag, check_range, check_seed, check_text
from .device.host_settings import own_torch_settings
from .device.shortage import shortage_told
from .errors import ConfigError, SessionClosedError
from .film import snapshot as snapshots
from .film.film import Film
from .film.frame_queue import QueuePolicy
from .film.options import SessionOptions
from .film.own_thread import on_own_thread
from .film.places import expected_place
from .film.reading import AsyncReading, Reading
from .film.reference import ReferencePicture
from .film.replay import VERSION as FILM_VERSION
from .film.replay import film_of, sealed
from .film.shots import AtEnd, ResumePoint, ShotRequest
from .film.snapshot_model import SnapshotModel
from .film.start import Start, check_strength, encode_start, start_lengths
from .film.status import directions, resume_point, session_state
from .film.turn import Turn
from .nvtx import annotate
from .plan.noise import NoiseSource, PhiloxNoise
from .plan.planner import planner_of
from .printable import listed
from .story import Story, story_prefix
from .types import Choose, Chunk, Event, Frame, MemoryFrame, Receipt, SessionState, Standing

Reread = int | Literal["none", "shot"]
"""What a prompt computes anew; see ``Session.prompt``."""

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .loading.load_model import Model


class Session:
    """A film being made.

    Use ``Session.open``. What asks for something (``cut``, ``prompt``, ``retake``, ``undo``), saves
    or closes may be called from any thread; frames are meant for one reader. Computing begins with
    the first ``cut`` and runs ahead of the reader by at most ``queue_chunks`` chunks.

    Every method raises ``SessionClosedError`` when the session is closed, an iterator at its next
    item, and ``ConfigError`` for an argument that is not usable; what else may be raised is said
    there. A closed session still tells ``stats``, ``directions``, ``failed``, its sizes and its
    rate, and may be closed again.

    Args:
        model: the loaded model, shared with its other sessions; held until the session is closed.
        seed: noise seed of the film, 0 to 2**63 - 1.
        at_end: what a shot of trained length does when nothing is queued. ``hold``: it ends, and
            so does ``stream``, until the next ``cut``. ``extend``: it goes on with a rolling
            cache until a cut (the student has positions for 1018 latent frames, four minutes of
            film; then it goes on as a new shot with the same caption). ``loop``: a new shot with
            the same caption begins.
        queue_chunks: chunks that may wait for the reader, at least 1.
        queue_policy: what happens when they all wait. ``block``: computing pauses, every frame
            is delivered. ``drop_oldest``, ``latest``: computing never pauses, and the oldest
            chunk, or all waiting chunks, are dropped.
        threads: CPU threads of the film (not of the process); default: torch's own choice. Of two,
            one makes latents and one decodes.
        keep_on_device: chunks carry torch tensors on the model's device instead of NumPy arrays.
            Frames are NumPy arrays on the host either way.
        choose: picks the frames of past shots that a new shot sees, instead of the model's own
            rule. Called on a thread of the session when a shot begins, with the frames that are
            kept, how many are wanted, and the shot's caption; returns some of them.
        noise: returns the noise source of a seed. Tests pass another one than the default to
            replay recorded noise.
        stats_path: file that gets one JSON line per chunk: how long each stage of it took, when it
            was made, the memory then. A line comes with the next chunk, the last one with
            ``close``; nothing waits for the device, see ``docs/profiling.md``.
        turn: asked before each chunk whether this film may compute it, and told when it is made,
            so that films that share a device take turns; see ``film.turn.Turn``. One object per
            session. Default: the film waits for no other one.

    Raises:
        ConfigError: an argument is out of range.
        ModelClosedError: the model is closed.
        OutputError: ``stats_path`` cannot be written.
    """

    def __init__(
        self, model: Model, *, seed: int = 0, at_end: AtEnd = "hold", queue_chunks: int = 2,
        queue_policy: QueuePolicy = "block", threads: int | None = None,
        keep_on_device: bool = False, choose: Choose | None = None,
        noise: Callable[[int], NoiseSource] = PhiloxNoise, stats_path: str | Path | None = None,
        turn: Turn | None = None, _beside: Film | None = None,
    ) -> None:  # fmt: skip
        options = SessionOptions.checked(
            seed=seed, at_end=at_end, queue_chunks=queue_chunks, queue_policy=queue_policy,
            threads=threads, keep_on_device=keep_on_device, choose=choose, stats_path=stats_path,
        )  # fmt: skip
        self._model: Model | None = model
        self._options, self._noise, self._seed = options, noise, options.seed
        self._threads = options.threads or torch.get_num_threads()
        # What a closed session still tells is kept apart from the model, which is freed.
        self._info, self._size = dict(model.info), model.size
        self._frame_rate_hz = model.frame_rate_hz
        self._config = model.config
        self._snapshot_model = SnapshotModel.of(model)
        with shortage_told("opening the session"), own_torch_settings():
            self._film = Film(
                model, options, threads=self._threads, noise=noise, turn=turn, beside=_beside
            )
        self._film.workers.selector.picker.choose = choose
        self._expected = partial(expected_place, self._film.timeline)
        # Runs when the session is freed; at interpreter exit the film is closed by itself.
        self._abandoned = weakref.finalize(self, self._film.abandon)
        self._abandoned.atexit = False

    @classmethod
    def open(
        cls, model: str | Path = "nano", *, seed: int = 0, device: str = "auto",
        backend: str = "auto", kernels: str | None = None, profile: str = "exact",
        size: tuple[int, int] | str | None = None, dtype: str | None = None,
        lora: str | Path | None = None, ema: bool = False, engines: str | Path | None = None,
        at_end: AtEnd = "hold", queue_chunks: int = 2, queue_policy: QueuePolicy = "block",
        threads: int | None = None, keep_on_device: bool = False, choose: Choose | None = None,
        stats_path: str | Path | None = None, student: str | None = None,
        progress: Callable[[str, int, int], object] | None = None,
    ) -> Session:  # fmt: skip
        """Load a model and open a session on it.

        Args:
            model: ``nano`` (inside the package), a folder with ``student.json``, a folder with a
                released student and the base model's files, or the path of a student's file.
            seed: see ``Session``.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            backend: ``auto`` or a name that ``python -m shotstream_rt info`` lists.
            kernels: likewise; default: ``SHOTSTREAM_KERNEL_SET``, else ``auto``.
            profile: ``exact``, or a lossy one: ``tiny`` (frames from a tiny decoder), ``fp8``
                (8-bit linear layers), ``fp8-keys`` and ``fp8-attention`` (8-bit attention),
                ``fp8-all``, ``fp8-fused``, ``fp8-tiny``, ``fast``. See ``profiles``.
            size: ``(height, width)`` or ``"HxW"`` in pixels, multiples of 16; default: the model's.
            dtype: ``float32`` or ``bfloat16``; default: the model's choice for the device.
            lora: a LoRA file (PEFT's names, or a trainer's checkpoint with ``generator_lora``) or a
                folder that PEFT wrote; merged into the student's weights in float32.
            ema: take the running average (``generator_ema``) that a trainer's checkpoint has beside
                its weights. The released file and project folders have none.
            engines: folder that ``python -m shotstream_rt export`` wrote, for the backends
                ``onnxruntime`` and ``openvino``; default: ``engines`` in the model's folder.
            at_end: see ``Session``.
            queue_chunks: see ``Session``.
            queue_policy: see ``Session``.
            threads: see ``Session``.
            keep_on_device: see ``Session``.
            choose: see ``Session``.
            stats_path: see ``Session``.
            student: whose settings a student's file is run with; default: what its name, or a
                configuration beside it, tells.
            progress: called while files are read; see ``Model.open``.

        Returns:
            The session; close it, or use it in a ``with`` block.

        Raises:
            ConfigError: an argument is not usable, or the model has no such profile.
            WeightsError: a checkpoint file is missing or broken, it has no running average, or the
                LoRA was made for another model.
            BackendUnavailableError: the named backend or kernels cannot run here.
            DeviceError: there is not enough memory.
        """
        from .loading.load_model import Model

        options = SessionOptions.checked(  # before anything is read
            seed=seed, at_end=at_end, queue_chunks=queue_chunks, queue_policy=queue_policy,
            threads=threads, keep_on_device=keep_on_device, choose=choose, stats_path=stats_path,
        )  # fmt: skip
        with annotate("session.open"), own_torch_settings():
            begun_ns = time.perf_counter_ns()
            opened = Model.open(
                model, device=device, backend=backend, kernels=kernels, profile=profile, size=size,
                dtype=dtype, lora=lora, ema=ema, engines=engines, threads=threads,
                student=student, progress=progress)  # fmt: skip
            with opened:  # from here on only the session holds it
                session = cls(opened, **options.shared(), stats_path=options.stats_path)
            session._film.stats.add("open", begun_ns)
        return session

    @classmethod
    async def aopen(cls, model: str | Path = "nano", **options: Any) -> Session:
        """Open a session without blocking the event loop; arguments and errors as for ``open``.

        Loading runs on a thread of its own, not on the loop's, and ``progress`` is called there. If
        the wait is cancelled, loading stops before the next tensor, and what was loaded is freed.
        """
        from .loading.progress import Cancellation

        wanted = Cancellation(options.pop("progress", None))
        try:
            return await on_own_thread(
                lambda: cls.open(model, progress=wanted.tell, **options), undo=cls.close
            )
        except asyncio.CancelledError:
            wanted.cancel()
            raise

    # Asking for shots.

    def cut(
        self, text: str, *, global_caption: str | None = None, seed: int | None = None,
        take: int = 0, now: bool = False, chunks: int | None = None, flush: bool = False,
        start: Any = None, strength: float | None = None, images: Sequence[NDArray[np.uint8]] = (),
    ) -> Receipt:  # fmt: skip
        """Queue a shot; it begins when those before it have their length, at once if none runs.

        After a failure, the film goes on. ``docs/live.md`` says more of each argument.

        Args:
            text: what the shot shows; what is longer than the model reads is cut off, with a note.
            global_caption: of the whole film; the caption is this, the shot's number, and the text.
            seed: noise seed of this shot; default: the session's.
            take: another number gives other noise, so another picture of the same caption.
            now: interrupt the running shot at the next chunk boundary, before all that is queued.
            chunks: length of the shot in chunks; default: the trained length.
            flush: interrupt the film where it is read; what is made and not read is dropped.
            start: frames that it begins with, uint8 ``[P, H, W, 3]`` or ``[H, W, 3]`` of the film's
                size, for students made for it; ``start_lengths`` tells how many.
            strength: share of the denoising steps that ``start`` goes through instead of being
                kept, above 0 and up to 1; 1 leaves nothing of it.
            images: what it sees as context beside past shots, uint8 ``[H, W, 3]`` RGB of up to 4096
                pixels on a side; at most ``context_frames``.

        Returns:
            What becomes of it; as a tuple, notes: words the model does not know, text cut off.

        Raises:
            ConfigError: an argument is not usable.
            SessionClosedError: the session is closed.
        """
        film = self._film
        film.frames.check()
        caption = check_text(text)
        seed = self._seed if seed is None else check_seed(seed)
        request = ShotRequest(text=text, seed=seed, requested_ns=time.perf_counter_ns())
        rest = (global_caption, take, now, chunks, flush, start, strength, images)
        if any(map(is_not, rest, (None, 0, False, None, False, None, None, ()))):  # the defaults
            request, caption = self._detailed(request, *rest)
        receipt = Receipt("cut", film.captions.notes(caption), self._expected)
        if film.marked:
            film.asked(receipt)
        request = replace(request, receipt=receipt)
        if flush:
            film.director.cut(request)
        else:
            film.timeline.queue([request])
        return receipt

    def _detailed(
        self, request: ShotRequest, global_caption: str | None, take: int, now: bool,
        chunks: int | None, flush: bool, start: object, strength: object,
        images: Sequence[NDArray[np.uint8]],
    ) -> tuple[ShotRequest, str]:  # fmt: skip
        """Return a request with what is seldom given, and its caption; arguments as of ``cut``.

        A value that equals its default comes here too if it is of another type, and is refused.
        """
        director, caption, given = self._film.director, request.text, None
        pictures: tuple[ReferencePicture, ...] = ()
        now, flush = check_flag("now", now), check_flag("flush", flush)
        now = now or flush
        if global_caption is not None:
            check_text(global_caption, "global_caption", blank=True)
            caption = story_prefix(global_caption, director.upcoming_shot(now=now)) + caption
        if chunks is not None:
            longest = planner_of(self._config).longest_shot_chunks
            chunks = check_range("chunks", chunks, 1, longest or 2**20)
        take = check_range("take", take, 0, 2**31 - 1)
        if type(images) is not tuple or images:
            pictures = director.pictures(images, self._size, self.context_frames)
        if start is not None or strength is not None:
            given = self._start(start, strength, chunks)
        request = replace(
            request, global_caption=global_caption, take=take, now=now, chunks=chunks,
            images=pictures, start=given,
        )  # fmt: skip
        return request, caption

    def _start(self, frames: object, strength: object, chunks: int | None) -> Start:
        """Return a shot's given start; arguments as of ``cut``."""
        if frames is None:
            raise ConfigError("strength: got one without a start, wanted frames to make a shot of")
        model = self._model
        if model is None:
            raise SessionClosedError("the session is closed; open another one")
        with own_torch_settings():
            return encode_start(frames, check_strength(strength), chunks, model.config, model.codec)

    def start_lengths(
        self, *, strength: float | None = None, chunks: int | None = None
    ) -> tuple[int, ...]:
        """Return how many frames the start of a shot may have, rising; arguments as for ``cut``.

        Raises:
            ConfigError: an argument is not usable, or the student takes no such start.
        """
        self._film.frames.check()
        if chunks is not None:
            chunks = check_range("chunks", chunks, 1, 2**20)
        stride = self._snapshot_model.temporal_stride
        return start_lengths(self._config, stride, chunks, check_strength(strength))

    def story(self, story: Story) -> Iterator[Frame]:
        """Queue all shots of a story and return ``stream()``.

        Args:
            story: captions are assembled from it as the student was trained to read them.
        """
        self._film.frames.check()
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
                receipt=Receipt("cut", (), self._expected),
            )
            for index, text in enumerate(story.shots)
        ]
        self._film.timeline.queue(requests)
        return self.stream()

    def prompt(
        self, text: str, *, shot: int | None = None, flush: bool = False, reread: Reread = "none"
    ) -> Receipt:
        """Change what the running shot shows, from the next chunk boundary on.

        Its caption is replaced; the chunks made so far stay in its caches, so the picture goes on
        without a cut. A newer prompt supersedes one that was not applied yet. The shot may end
        before the caption is encoded: then the receipt says ``late``, and so does an event. The
        running shot is the one being made, which may be ahead of the one being watched.

        Args:
            text: the new caption, without a story's global caption.
            shot: number of the shot that is meant, the running one or one that is queued, whose
                text is then replaced; an error if it is neither. Default: the running shot; a
                queued one only if nothing before it is running, or waits to be read.
            flush: let the shot that is being read go on from the next frame with the new caption;
                frames made and not read are dropped. Later shots that had begun are made after it.
            reread: how many of the newest chunks of the shot are computed anew with the caption, as
                the caches hold them, so that the past says less of the old one: ``none``, a number
                or ``shot``. Each costs about a fifth of a chunk. Frames that were made stay as they
                are. Of a shot beyond its trained length only the newest chunk is.

        Returns:
            What becomes of the request; as a tuple, notes on the caption as ``cut``.

        Raises:
            ConfigError: an argument is not usable, or no such shot is running or queued; or the
                student's caches are not made chunk by chunk, and ``reread`` is given.
        """
        film = self._film
        film.frames.check()
        if shot is not None:
            shot = check_range("shot", shot, 0, 2**31 - 1)
        check_flag("flush", flush)
        chunks = film.director.reread_chunks(reread)
        receipt = Receipt("prompt", film.captions.notes(check_text(text)), self._expected)
        if film.marked:
            film.asked(receipt)
        film.director.prompt(text, shot, receipt, flush=flush, reread=chunks)
        return receipt

    def retake(
        self, shot: int | None = None, *, flush: bool = False, keep_following: bool = False
    ) -> Receipt:
        """Make a shot once more: same caption and context, other noise.

        The last shot that was begun is given up at the next chunk boundary if it still runs. The
        new take has the same shot number and takes the old one's place in the context of later
        shots; what was delivered of the old one stays in the film. As for ``cut(now=True)``, the
        newest request wins.

        Of an older shot, the film goes back to its beginning, and the new take is delivered instead
        of all that came from there on.

        Args:
            shot: number of the shot. Default: the last one begun; with ``flush``, the one that is
                being read.
            flush: drop frames made and not read.
            keep_following: make the shots behind an older one again after its new take.

        Returns:
            What becomes of the request.

        Raises:
            ConfigError: an argument is not usable, or no such shot was begun.
        """
        self._film.frames.check()
        if shot is not None:
            shot = check_range("retake", shot, 0, 2**31 - 1)
        check_flag("flush", flush)
        check_flag("keep_following", keep_following)
        receipt = Receipt("retake", (), self._expected)
        if self._film.marked:
            self._film.asked(receipt)
        self._film.director.retake(shot, receipt, flush=flush, keep_following=keep_following)
        return receipt

    def undo(
        self, *, chunks: int | None = None, frame: int | None = None, shot: int | None = None
    ) -> Receipt:
        """Go back in the film that was read.

        The next frame has the number of the place that it goes back to. The shot that was shown
        there goes on from there with the caption that it had then, and everything asked for since
        is undone; shots that had not begun stay queued. What was taken back is no context of later
        shots. At most one of the arguments is given; default: one chunk.

        Args:
            chunks: how many chunks of the shot that is being read; one that is partly read counts.
            frame: number of the frame that comes next.
            shot: number of a shot, which begins once more.

        Returns:
            Its receipt, which is applied already and tells the place.

        Raises:
            ConfigError: an argument is not usable, or so much was not read.
        """
        self._film.frames.check()
        given = {"chunks": chunks, "frame": frame, "shot": shot}
        named = {name: value for name, value in given.items() if value is not None}
        if len(named) > 1:
            raise ConfigError(f"undo: got {listed(named)}, wanted one of them")
        for name, value in named.items():
            check_range(name, value, int(name == "chunks"), 2**53)
        receipt = Receipt("undo")
        if self._film.marked:
            self._film.asked(receipt)
        self._film.director.undo(receipt, chunks=chunks, frame=frame, shot=shot)
        return receipt

    def cancel(self, request: Receipt | int) -> bool:
        """Take back a request that has not begun.

        Args:
            request: what ``cut``, ``prompt`` or ``retake`` returned, or its ``id``.

        Returns:
            Whether it was taken back; False if it has begun, or is over.
        """
        self._film.frames.check()
        number = request.id if isinstance(request, Receipt) else request
        return self._film.director.cancel(check_range("request", number, 0, 2**63 - 1))

    def clear(self) -> int:
        """Take back all shots that have not begun, and return how many."""
        self._film.frames.check()
        return self._film.director.clear()

    def pause(self) -> None:
        """Begin no further chunk; what is made can be read."""
        self._film.frames.check()
        self._film.director.pause(on=True)

    def resume(self) -> None:
        """Go on after ``pause``."""
        self._film.frames.check()
        self._film.director.pause(on=False)

    def check(self, text: str) -> tuple[str, ...]:
        """Return notes on a caption, without queueing it: unknown words, text cut off."""
        self._film.frames.check()
        return self._film.captions.notes(check_text(text))

    # Reading frames.

    def stream(self, *, follow: bool = False, timeout_s: float | None = None) -> Iterator[Frame]:
        """Yield frames in order, until everything queued has been delivered.

        After another ``cut``, call it again. Frames not read when the loop is left, also by an
        exception or Ctrl-C, are kept for that. The iterator goes on after a ``FrameTimeoutError``.

        Args:
            follow: wait for further cuts instead of ending.
            timeout_s: longest wait for a frame in seconds; default: no limit.

        Raises:
            FrameTimeoutError: no frame came in time.
            ShotStreamError: a shot failed here, by the attached cause; until ``failed`` is None.
        """
        return Reading(self._film.timeline, self, follow, timeout_s, whole=False)

    def chunks(self, *, follow: bool = False, timeout_s: float | None = None) -> Iterator[Chunk]:
        """Yield finished chunks; arguments, end and errors as for ``stream``."""
        return Reading(self._film.timeline, self, follow, timeout_s, whole=True)

    def astream(
        self, *, follow: bool = False, timeout_s: float | None = None
    ) -> AsyncReading[Frame]:
        """Yield frames like ``stream``, in an event loop and without a thread.

        A wait may be cancelled, or end in a timeout: no frame is lost.
        """
        return AsyncReading(self._film.timeline, self, follow, timeout_s, whole=False)

    def achunks(
        self, *, follow: bool = False, timeout_s: float | None = None
    ) -> AsyncReading[Chunk]:
        """Yield chunks like ``chunks``, in an event loop and without a thread."""
        return AsyncReading(self._film.timeline, self, follow, timeout_s, whole=True)

    # What is remembered of past shots.

    @property
    def memory(self) -> tuple[MemoryFrame, ...]:
        """The frames of past shots that the next shot would see if it began now."""
        return self._film.memory.frames()

    def pin(self, frame_index: int) -> None:
        """Let every later shot see a frame, in place of the oldest that it would see.

        Args:
            frame_index: number in the film of a frame that is still kept: any of the shot that is
                being made, and some of the shots before it.

        Raises:
            ConfigError: the frame is not kept, or as many are pinned as a shot sees.
        """
        self._film.memory.pin(check_range("pin", frame_index, 0, 2**53))

    def unpin(self, frame_index: int) -> None:
        """Take ``pin`` back.

        Raises:
            ConfigError: the frame is not pinned.
        """
        self._film.frames.check()
        self._film.memory.unpin(check_range("unpin", frame_index, 0, 2**53))

    def forget(self, shot: int) -> None:
        """Let no later shot see anything of a shot.

        Raises:
            ConfigError: nothing is kept of it.
        """
        self._film.memory.forget(check_range("forget", shot, 0, 2**31 - 1))

    # Saving, and looking at, where the film is.

    def snapshot(self, *, within_chunk: bool = False) -> bytes:
        """Return what another session needs to go on with this film, as a few kilobytes.

        Holds prompts, seeds, and the latents of context frames and given starts. The restored film
        goes on behind the last chunk that was read here, or dropped by the queue's policy; a chunk
        of which some frames were read counts as read. A prompt that still waits is applied at the
        next chunk boundary. Half a shot is not stored: ``restore`` computes that shot from its
        first chunk again and leaves out the chunks before, which costs up to one shot of computing;
        or the whole film up to there, where a cut keeps the caches (Infinity-RoPE).

        Args:
            within_chunk: go on behind the last frame that was read, also within a chunk.
        """
        check_flag("within_chunk", within_chunk)
        selector = self._film.workers.selector
        return self._packed(resume_point(self._film.timeline, selector, within_chunk=within_chunk))

    def standing(self) -> Standing:
        """Return a snapshot of where the reader is to the frame, and which frame that is.

        For whoever keeps what was read beside the snapshot, so that both fit each other.
        """
        selector = self._film.workers.selector
        point = resume_point(self._film.timeline, selector, within_chunk=True)
        return Standing(point.next_index, point.reads, self._packed(point))

    def _packed(self, point: ResumePoint) -> bytes:
        with own_torch_settings(), torch.inference_mode():
            past = tuple(self._film.workers.selector.encoded(point.past))
            return snapshots.pack(point, past, self._snapshot_model)

    def restore(self, data: bytes | bytearray | memoryview) -> None:
        """Drop everything and go on with the film of a snapshot, also after a failure.

        With the same model, profile, backend and threads, the frames that follow are those that
        the session of the snapshot would have delivered; but a ``retake``, or a cut asked for with
        ``now``, that waited there for the next chunk boundary takes effect at the first one here.
        ``retake`` is possible again when a shot has begun after the restore. Nothing changes if the
        snapshot is refused.

        Args:
            data: what ``snapshot`` returned.

        Raises:
            ConfigError: not a snapshot, or a damaged one.
            ManifestError: a snapshot of another version, model configuration, profile or weights.
        """
        self._film.frames.check()
        with own_torch_settings():
            point = snapshots.unpack(data, self._snapshot_model)
        self._film.director.restore(point)

    def branch(self, *, turn: Turn | None = None) -> Session:
        """Open a second session that goes on with this film from the next frame to be read.

        It has the same model and options, the frames' numbers go on, and what is asked of one does
        not touch the other. What follows is computed by both; of the running shot the new session
        makes again what was made of it.

        Args:
            turn: of the new session; see ``Session``.
        """
        film, model = self._film, self._model
        selector = film.workers.selector
        point = resume_point(film.timeline, selector, within_chunk=True)
        if model is None:
            raise SessionClosedError("the session is closed; open another one")
        with own_torch_settings(), torch.inference_mode():
            past = tuple(selector.encoded(point.past))
        other = type(self)(
            model, **self._options.shared(), noise=self._noise, turn=turn, _beside=film
        )
        other._film.director.restore(replace(point, past=past))
        return other

    def directions(self) -> dict[str, Any]:
        """Return what made the film that was read so far, as plain JSON values.

        ``replay`` makes the same film from it, and so does ``python -m shotstream_rt generate``
        with a file that holds it. Beside the model, seed and options, ``directions`` lists in order
        every ``cut``, ``prompt``, ``retake`` and ``loop`` that is seen in the film, each with the
        shot, chunk and frame at which it took effect, and ``undone`` what was taken back or dropped
        the last 64 times: by what, how many frames from which one on, and what had taken effect.

        Raises:
            ShotStreamError: this is a forked child of the process that opened the session.
        """
        self._film.frames.check_process()
        model, info = self._snapshot_model, self._info
        options = ("device", "backend", "kernels", "dtype", "size", "lora", "ema")
        return sealed(
            {
                "version": FILM_VERSION,
                "model": str(info.get("model", "")),
                "profile": model.profile,
                "weights_digest": model.weights_digest,
                "fingerprint": model.fingerprint,
                "seed": self._seed,
                "options": {
                    **{name: info[name] for name in options if name in info},
                    "threads": self._threads,
                    "at_end": self._options.at_end,
                },
                **directions(self._film.timeline),
            }
        )

    def replay(self, data: Mapping[str, Any]) -> Iterator[Frame]:
        """Drop everything, make a film from its directions, and return ``stream()``.

        With the same model, profile, backend and threads, its frames are bit for bit those of the
        film that the directions are of.

        Args:
            data: what ``directions`` returned, also after a way through JSON.

        Raises:
            ConfigError: these are no directions, or they are damaged.
            ManifestError: directions of another version, model configuration, profile or weights.
        """
        self._film.frames.check()
        self._film.director.restore(film_of(data, self._snapshot_model))
        return self.stream()

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call a function with everything that happens from now on.

        It is called from the session's threads, in order, and should return soon, for making waits
        for it. It may call the session's methods. What it raises is logged.

        Args:
            listener: takes an ``Event``.

        Returns:
            A function that ends it.
        """
        self._film.frames.check()
        if not callable(listener):
            raise ConfigError(f"on_event: got {type(listener).__name__}, wanted a function")
        return self._film.timeline.events.listen(listener)

    @property
    def state(self) -> SessionState:
        """Where the film is: running shot, queue, reader, health."""
        self._film.frames.check()
        return session_state(self._film.timeline, self._frame_rate_hz)

    @property
    def failed(self) -> BaseException | None:
        """What ended the last shot; None while the film goes on.

        ``cut``, ``story``, ``retake`` and ``restore`` let the film go on; shots that were queued
        behind the failure are still queued.
        """
        return self._film.frames.failed

    @property
    def stats(self) -> dict[str, Any]:
        """What was chosen at open, and times so far, as plain JSON values.

        Per shot ``first_frame_ms`` and ``cut_ms``; ``chunk_ms``, ``commit_ms``,
        ``context_encode_ms`` with their number, median and maximum; ``frames``, ``fps`` (frames
        made per second since the first cut), ``dropped`` chunks, ``memory_bytes``. Of a long film
        only the last shots and times are kept: ``shots_dropped`` and ``kept`` say how many.
        """
        self._film.frames.check_process()
        return {
            **self._info,
            "seed": self._seed,
            "threads": self._threads,
            "at_end": self._options.at_end,
            "queue_policy": self._options.queue_policy,
            "dropped": self._film.frames.dropped,
            **self._film.stats.to_dict(),
        }

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self._size

    @property
    def shot_frames(self) -> int:
        """Frames of a shot of trained length."""
        return self._snapshot_model.shot_limit

    @property
    def context_frames(self) -> int:
        """Frames of the past that a shot sees, and so the most reference pictures of a cut."""
        return self._config.cache.context_frames

    @property
    def frame_rate_hz(self) -> int:
        """Frames per second that the model was trained at; every ``pts_s`` is counted with it."""
        return self._frame_rate_hz

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._film.closed

    # Closing.

    def close(self) -> None:
        """Stop computing, drop unread frames, end the threads and let go of the model.

        Computing stops between two denoising steps. May be called from any thread, signal handler,
        logging handler or ``on_event`` listener, any number of times, and again after Ctrl-C
        interrupted it. On one of the session's own threads it returns at once, and the rest is
        done by another thread.
        """
        self._film.close()
        self._model = None
        self._abandoned.detach()

    async def aclose(self) -> None:
        """Close without blocking the event loop."""
        await on_own_thread(self.close)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
