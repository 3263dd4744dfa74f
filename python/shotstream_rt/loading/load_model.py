"""A loaded model: opened from a name or a path, shared by its sessions, freed with the last.

What its files are and where they lie is in the modules of the layouts; see ``layouts.py``.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from shotstream_rt import env
from shotstream_rt.checks import (
    check_flag,
    check_float_precision,
    check_one_of,
    check_path,
    check_range,
)
from shotstream_rt.config import StreamConfig
from shotstream_rt.device.host_settings import own_torch_settings
from shotstream_rt.device.shortage import shortage_told
from shotstream_rt.errors import ConfigError, ModelClosedError, WeightsError
from shotstream_rt.film.caption_encoder import CaptionEncoder
from shotstream_rt.printable import shown
from shotstream_rt.profiles import EXACT, find_profile
from shotstream_rt.types import DEFAULT_FRAME_RATE_HZ

from .placement import DTYPES, parse_size, resized, resolve_device, torch_dtype
from .progress import LoadProgress, Tell

if TYPE_CHECKING:
    from shotstream_rt.backends.base import StudentBackend
    from shotstream_rt.pipeline import Pipeline
    from shotstream_rt.session import Session

    from ..model.captions import TextEncoder
    from ..model.codec import LatentCodec, StreamDecoder

_log = logging.getLogger("shotstream_rt.model")

_RECORDING = threading.Lock()
"""Held while a film or a decoder is made. Making one may capture CUDA graphs, and while one thread
captures, no other may synchronise the device, as making another would. Of the process, because
devices are; frames of films that run already are made meanwhile."""


_OPENER = "whoever opened the model"
"""The holder that ``Model.close`` lets go."""


class _Shared(NamedTuple):
    """What is freed with the last holder of a model."""

    backend: StudentBackend
    codec: LatentCodec
    text: TextEncoder
    captions: CaptionEncoder


class Model:
    """A loaded model: weights, codec, text encoder and encoded captions.

    Any number of sessions share one and never disturb each other: what a film writes is in its own
    pipeline. Whoever opened the model holds it until ``close``, every session holds it until it is
    closed itself, and its memory is freed when the last of them lets go. All methods may be called
    from any thread.

    Use ``Model.open``.

    Args:
        name: as asked for.
        config: all that decides the numbers.
        backend: the student's weights.
        codec: frames to latents and back; a session makes a decoder of its own.
        text: captions to embeddings.
        device: where the student runs.
        frame_rate_hz: frames per second the model was trained at.
        info: what was resolved (model, device, backend, dtype, bytes), plain JSON values.
        weights: reads the student's tensors under their released names once more.
    """

    def __init__(
        self,
        *,
        name: str,
        config: StreamConfig,
        backend: StudentBackend,
        codec: LatentCodec,
        text: TextEncoder,
        device: torch.device,
        frame_rate_hz: int = DEFAULT_FRAME_RATE_HZ,
        info: Mapping[str, Any] | None = None,
        weights: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.name, self.config, self.device = name, config, device
        self.frame_rate_hz = frame_rate_hz
        self.info: Mapping[str, Any] = info or {}
        self.size = codec.pixel_size(config.model.latent_height, config.model.latent_width)
        self._weights = weights
        captions = CaptionEncoder(text, device=device)
        self._shared: _Shared | None = _Shared(backend, codec, text, captions)
        # A signal handler may close a session while its thread is in here.
        self._lock = threading.RLock()
        self._holders: set[object] = {_OPENER}
        self._closed = False

    @classmethod
    @shortage_told("opening the model")
    @own_torch_settings()
    def open(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "auto",
        backend: str = "auto",
        kernels: str | None = None,
        profile: str = "exact",
        size: tuple[int, int] | str | None = None,
        dtype: str | None = None,
        lora: str | Path | None = None,
        ema: bool = False,
        engines: str | Path | None = None,
        threads: int | None = None,
        student: str | None = None,
        progress: Tell | None = None,
    ) -> Model:
        """Load a model.

        Args:
            model: ``nano``, a folder with ``student.json``, a folder with a released student and
                the base model's files, or the path of a student's file.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            backend: ``auto`` or a name that ``python -m shotstream_rt info`` lists.
            kernels: ``auto``, or a kernel set with its parts such as ``triton+cudnn``; default:
                what the variable ``SHOTSTREAM_KERNEL_SET`` says, else ``auto``.
            profile: a name of ``profiles.PROFILES``.
            size: frame height and width in pixels, multiples of 16; default: the model's own.
            dtype: ``float32`` or ``bfloat16``; default: that of the engines for a backend that
                runs them, else bfloat16 on a GPU and on a CPU that is faster in it (a matrix
                unit, AMX, or AMD's with AVX-512's products of it), else float32.
            lora: a LoRA file (PEFT's names, or a trainer's checkpoint) or PEFT's folder, merged
                into the student in float32.
            ema: take the running average (``generator_ema``) of a trainer's checkpoint.
            engines: folder that ``python -m shotstream_rt export`` wrote, for a backend that runs
                exported passes; default: ``engines`` in the model's folder.
            threads: CPU threads of such a backend; default: as many as torch takes. Other backends
                compute with the threads of each session.
            student: whose settings a student's file is run with, a name of
                ``plan.students.STUDENTS``; default: what its name, or a configuration beside it,
                tells.
            progress: called with a stage (``student``, ``codec``, ``text``), the bytes done of it
                and its bytes in all, after every tensor, on this thread. What it raises ends the
                loading before the next tensor, and what was loaded is freed.

        Raises:
            ConfigError: an argument is not usable.
            WeightsError: a checkpoint file is missing or broken, of an unknown student, has no
                running average, or the LoRA is another model's.
            ManifestError: ``student.json``, ``history.json`` or ``engines.json`` is broken, of
                another version, or made for another model.
            BackendUnavailableError: the device or the backend cannot be used here.
            DeviceError: there is not enough memory.
        """
        from shotstream_rt.backends import registry
        from shotstream_rt.backends.request import BackendRequest, engines_dtype

        from .codec_as_run import codec_as_run
        from .fit import check_fit
        from .history_file import read_history
        from .layouts import open_parts
        from .parts import LoadOptions
        from .tiny_decoder import tiny_decoder_of

        told = LoadProgress(progress)
        chosen = find_profile(profile)
        check_one_of("backend", backend, registry.names())
        place = resolve_device(device)
        check_float_precision(place)
        if dtype is not None:
            check_one_of("dtype", dtype, DTYPES)
        wanted = None if size is None else parse_size(size)
        if kernels is not None and not isinstance(kernels, str):
            raise ConfigError(f"kernels: got {shown(kernels)}, wanted the name of a kernel set")
        ema = check_flag("ema", ema)
        engines = None if engines is None else check_path("engines", engines)
        threads = None if threads is None else check_range("threads", threads, 1, 1024)
        if lora is not None and chosen.prunes_history:
            raise ConfigError(
                f"profile {chosen.name}: which heads it prunes was measured without a LoRA, got "
                f"lora {str(lora)!r}; use a profile that keeps history, such as fp8"
            )
        options = LoadOptions(device=place, lora=lora, ema=ema, student=student, progress=told)
        parts = open_parts(model, options)
        weights_digest = parts.weights().digest()
        tiny_file = tiny_decoder_of(chosen, parts, model)
        config = resized(parts.config, wanted)
        history = read_history(parts.folder) if chosen.prunes_history else None
        if history is not None:
            history.check(parts.weights())
            config = dataclasses.replace(config, history=history.policy)
        if chosen.fewer_steps:
            config = dataclasses.replace(config, schedule=config.schedule.shortened())
        request = BackendRequest(
            config=config,
            device=place,
            dtype=torch_dtype(dtype, place),
            weights=lambda: told.watch("student", parts.weights()),
            folder=parts.folder,
            kernel_set=kernels or env.kernel_set(),
            lossy_parts=tuple(chosen.kernel_parts),
            source=parts.source,
            engines=engines,
            threads=threads,
        )
        if dtype is None and registry.runs_engines(backend):
            request = dataclasses.replace(request, dtype=engines_dtype(request))
        built = registry.resolve(backend, request)
        try:
            codec, text = parts.codec(request.dtype), parts.text()
            check_fit(config.model, codec, text, str(parts.folder))
            codec = codec_as_run(codec, request, built, tiny_file)
        except BaseException:
            built.close()
            raise
        opened = cls(
            name=str(model), config=config, backend=built, codec=codec, text=text, device=place,
            weights=parts.weights, frame_rate_hz=parts.frame_rate_hz,
            info={
                "model": str(model),
                "student": parts.student,
                "profile": chosen.name,
                "lossy": chosen.lossy,
                "pruned_heads": None if history is None else history.share,
                "decoder": parts.latents if tiny_file is None else tiny_file.name,
                "decoder_kernels": getattr(codec, "kernel_set", "torch"),
                "backend_requested": backend,
                "backend": built.info.name,
                **{k: v for k, v in dataclasses.asdict(built.info).items() if k != "name"},
                "lora": None if lora is None else str(lora),
                "ema": ema,
                "weights_digest": weights_digest,
                "engines": None if engines is None else str(engines),
                "size": list(
                    codec.pixel_size(config.model.latent_height, config.model.latent_width)
                ),
                "notes": list(options.notes),
            },
        )  # fmt: skip
        _log.info("opened %s", json.dumps(opened.info))
        for note in options.notes:
            _log.info("%s", note)
        if chosen.lossy:
            _log.info("profile %s is lossy: %s", chosen.name, chosen.changes)
        return opened

    @property
    def profile(self) -> str:
        """Name of the profile it was opened with."""
        return str(self.info.get("profile", EXACT.name))

    @property
    def backend(self) -> StudentBackend:
        """The student's weights.

        Raises:
            ModelClosedError: the model is freed; so do ``codec``, ``text`` and ``captions``.
        """
        return self._in_use().backend

    @property
    def codec(self) -> LatentCodec:
        """Frames to latents and back."""
        return self._in_use().codec

    @property
    def text(self) -> TextEncoder:
        """Captions to embeddings."""
        return self._in_use().text

    @property
    def captions(self) -> CaptionEncoder:
        """Encoded captions, shared by all sessions."""
        return self._in_use().captions

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called; sessions opened before may still run."""
        return self._closed

    def new_pipeline(self) -> Pipeline:
        """Return a pipeline for one film, with caches and buffers of its own.

        Raises:
            ModelClosedError: the model is freed.
        """
        from shotstream_rt.pipeline import Pipeline

        with _RECORDING:
            return Pipeline(self.config, self.backend.new_film())

    def new_decoder(self) -> StreamDecoder:
        """Return a decoder for one film, with memory of its own.

        Raises:
            ModelClosedError: the model is freed.
        """
        with _RECORDING:
            return self.codec.decoder()

    def session(self, **settings: Any) -> Session:
        """Open a session on this model.

        Args:
            settings: as for ``Session``.

        Raises:
            ConfigError: a setting is not usable.
            ModelClosedError: the model is closed.
        """
        from shotstream_rt.session import Session

        return Session(self, **settings)

    def weights(self) -> Mapping[str, Tensor]:
        """Read the student's tensors under their released names from the checkpoint again.

        Raises:
            WeightsError: the checkpoint is gone, or the model was made without one.
        """
        if self._weights is None:
            raise WeightsError(f"model {self.name}: got no checkpoint to read again, wanted one")
        return self._weights()

    def acquire(self, holder: object, beside: object = None) -> None:
        """Hold the model until ``release``; what a session does.

        Args:
            holder: who holds it.
            beside: one who holds it already; then it may be closed for all others.

        Raises:
            ModelClosedError: the model is closed.
        """
        with self._lock:
            if self._closed and beside not in self._holders:
                raise ModelClosedError(f"model {self.name} is closed; open it again")
            self._holders.add(holder)

    def release(self, holder: object) -> None:
        """Let go of what ``acquire`` held; the last holder frees the model.

        May be repeated, for instance after an interruption.

        Args:
            holder: who held it.
        """
        with self._lock:
            self._holders.discard(holder)
            shared = None if self._holders else self._shared
            if shared is not None:
                self._shared = None
        if shared is not None:
            shared.captions.close()
            self._free(shared)
            _log.info("model %s freed", self.name)

    def close(self) -> None:
        """Open no more sessions on it; those that are open keep running. Idempotent."""
        self._closed = True
        self.release(_OPENER)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _free(self, shared: _Shared) -> None:
        """Free what no session needs any more."""
        shared.backend.close()

    def _in_use(self) -> _Shared:
        shared = self._shared
        if shared is None:
            raise ModelClosedError(f"model {self.name} is closed and freed; open it again")
        return shared
