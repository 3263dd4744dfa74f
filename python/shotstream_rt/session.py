"""The session: prompts in, frames out.

The public front of the runtime: opens, keeps and closes a film. It owns the threads (text,
generator, decode); the work is done in ``generator.py`` and ``frames.py``. What callers ask for is
in ``direction.py``, what they read in ``streaming.py``.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from . import snapshot as snapshots
from .checks import check_one_of, check_range, check_seed
from .crew import Crew
from .direction import Direction
from .generator import Generator
from .noise import NoiseSource, PhiloxNoise
from .nvtx import annotate
from .playlist import Playlist, longest_shot_chunks
from .reader import QUEUE_POLICIES, FrameReader, QueuePolicy
from .shots import AT_END, AtEnd

if TYPE_CHECKING:
    from .model.loading import ModelBundle

_log = logging.getLogger("shotstream_rt.session")

_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session(Direction):
    """A film being made.

    Use ``Session.open``. ``cut``, ``prompt``, ``retake``, ``snapshot`` and ``close`` may be called
    from any thread; frames are meant for one reader. Computing begins with the first ``cut`` and
    runs ahead of the reader by at most ``queue_chunks`` chunks.

    Args:
        model: the loaded model; closed together with the session.
        seed: noise seed of the film, 0 to 2**63 - 1.
        at_end: what a shot of trained length does when nothing is queued. ``hold``: it ends, and
            so does ``stream``, until the next ``cut``. ``extend``: it goes on with a rolling
            cache until a cut (the student's positions end after 1018 latent frames, four minutes;
            then it goes on as a new shot with the same caption). ``loop``: a new shot with the
            same caption begins.
        queue_chunks: chunks that may wait for the reader, at least 1.
        queue_policy: what happens when they all wait. ``block``: computing pauses, every frame
            is delivered. ``drop_oldest``, ``latest``: computing never pauses, and the oldest
            chunk, or all waiting chunks, are dropped.
        threads: CPU threads of the student (not of the process); default: torch's own choice.
        keep_on_device: chunks carry torch tensors on the model's device instead of NumPy arrays;
            frames are on the host all the same.
        noise: gives the noise of a seed; another source than the addressed one is for replaying
            recorded noise.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        model: ModelBundle,
        *,
        seed: int = 0,
        at_end: AtEnd = "hold",
        queue_chunks: int = 2,
        queue_policy: QueuePolicy = "block",
        threads: int | None = None,
        keep_on_device: bool = False,
        noise: Callable[[int], NoiseSource] = PhiloxNoise,
    ) -> None:
        self._seed = check_seed(seed)
        check_one_of("at_end", at_end, AT_END)
        check_one_of("queue_policy", queue_policy, QUEUE_POLICIES)
        check_range("queue_chunks", queue_chunks, 1, 1024)
        if threads is not None:
            check_range("threads", threads, 1, 1024)
        self._threads = threads or torch.get_num_threads()
        self._model = model
        self._policy = queue_policy
        self._at_end: AtEnd = at_end
        self._closed = False
        self._close_lock = threading.Lock()
        self._reader = FrameReader(capacity=queue_chunks, policy=queue_policy)
        self._crew = Crew.assemble(
            model,
            self._reader,
            threads=self._threads,
            keep_on_device=keep_on_device,
            on_error=self._fail,
        )
        self._stats = self._crew.stats
        self._generator = Generator(
            self._crew,
            Playlist(
                trained_chunks=model.config.shot.chunks,
                at_end=at_end,
                longest_chunks=longest_shot_chunks(model.config),
            ),
            capacity=queue_chunks if queue_policy == "block" else None,
            threads=self._threads,
            noise=noise,
        )
        self._generator.start()
        _open_sessions.add(self)

    @classmethod
    def open(
        cls,
        model: str | Path = "nano",
        *,
        seed: int = 0,
        device: str = "auto",
        backend: str = "auto",
        kernels: str | None = None,
        profile: str = "exact",
        size: tuple[int, int] | str | None = None,
        dtype: str | None = None,
        at_end: AtEnd = "hold",
        queue_chunks: int = 2,
        queue_policy: QueuePolicy = "block",
        threads: int | None = None,
        keep_on_device: bool = False,
    ) -> Session:
        """Load a model and open a session on it.

        Args:
            model: ``nano`` (inside the package), or a folder with ``student.json`` or of the
                released ShotStream checkpoint.
            seed: see ``Session``.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            backend: ``auto`` or a name that ``python -m shotstream_rt info`` lists.
            kernels: likewise; default: ``SHOTSTREAM_KERNEL_SET``, else ``auto``.
            profile: ``exact``, or a lossy one: ``tiny`` (frames from a tiny decoder), ``fp8``
                (8-bit linear layers), ``fp8-tiny``, ``fast``. See ``profiles``.
            size: ``(height, width)`` or ``"HxW"`` in pixels, multiples of 16; default: the model's.
            dtype: ``float32`` or ``bfloat16``; default: the model's choice for the device.
            at_end: see ``Session``.
            queue_chunks: see ``Session``.
            queue_policy: see ``Session``.
            threads: see ``Session``.
            keep_on_device: see ``Session``.

        Raises:
            ConfigError: an argument is not usable, or the model has no such profile.
            WeightsError: a checkpoint file is missing or broken.
            BackendUnavailableError: the named backend or kernels cannot run here.
        """
        from .model.loading import load_model

        check_seed(seed)
        with annotate("session.open"):
            begun_ns = time.perf_counter_ns()
            bundle = load_model(
                model, device=device, backend=backend, kernels=kernels, profile=profile, size=size,
                dtype=dtype)  # fmt: skip
            try:
                session = cls(
                    bundle, seed=seed, at_end=at_end, queue_chunks=queue_chunks,
                    queue_policy=queue_policy, threads=threads, keep_on_device=keep_on_device,
                )  # fmt: skip
            except BaseException:
                bundle.close()
                raise
            session._stats.add("open", begun_ns)
        return session

    def snapshot(self) -> bytes:
        """Return what is needed to go on from here in another session, as a few kilobytes.

        Holds prompts, seeds and the latents of the context frames. "Here" is behind the last chunk
        read; a chunk of which some frames were read counts as read. A shot caught half way is
        made again from its first chunk when the snapshot is restored, without delivering what
        was delivered, so restoring costs up to one shot of computing.

        Raises:
            SessionClosedError: the session is closed.
        """
        self._reader.check()
        state = self._generator.film_state()
        with torch.inference_mode():
            past = tuple(self._crew.selector.encoded(state.past))
        return snapshots.pack(state, past, self._model.config, self._model.profile)

    def restore(self, data: bytes) -> None:
        """Drop everything and go on from a snapshot; same model, profile, backend and threads.

        The frames that follow are those that the session it was taken from would have delivered.
        ``retake`` needs a shot begun after the restore.

        Raises:
            ConfigError: not a snapshot.
            ManifestError: a snapshot of another model configuration or profile.
            SessionClosedError: the session is closed.
        """
        self._reader.check()
        self._generator.restore(snapshots.unpack(data, self._model.config, self._model.profile))

    @property
    def stats(self) -> dict[str, Any]:
        """What was resolved at open, and times so far, as plain JSON values.

        Per shot ``first_frame_ms`` and ``cut_ms``; ``chunk_ms``, ``commit_ms``,
        ``context_encode_ms`` with their number, median and maximum; ``frames``, ``fps`` (frames
        made per second since the first cut), ``dropped`` chunks, ``memory_bytes``.
        """
        return {
            **self._model.info,
            "seed": self._seed,
            "threads": self._threads,
            "at_end": self._at_end,
            "queue_policy": self._policy,
            "dropped": self._reader.dropped,
            **self._stats.to_dict(),
        }

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        model = self._model.config.model
        return self._model.codec.pixel_size(model.latent_height, model.latent_width)

    @property
    def shot_frames(self) -> int:
        """Frames of a shot of trained length."""
        return self._crew.selector.shot_limit

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def close(self) -> None:
        """Stop computing, drop unread frames, free the model. Idempotent."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
            self._reader.close()
            self._generator.stop()
            self._crew.close()
            self._model.close()
            _open_sessions.discard(self)
            _log.info("session closed after %d frames", self._stats.frames)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _fail(self, error: BaseException) -> None:
        if not self._closed:
            _log.error("computing stopped: %s: %s", type(error).__name__, error)
        self._reader.fail(error)
        self._generator.halt()


@atexit.register
def _close_all() -> None:
    for session in list(_open_sessions):
        session.close()
