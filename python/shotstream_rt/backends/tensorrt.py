"""Plans of segments through TensorRT or TensorRT-RTX, inside the captured loop.

The two libraries have one interface here, which ``api`` stands for in tests. Weights are the
student's own tensors, bound by name; nothing is copied into a plan.

A context holds the addresses that it was given last, and a captured graph replays what a context
enqueued. Therefore every captured call has a context of its own. All of a film's contexts share one
piece of scratch memory, because a film's calls never run at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import env
from ..errors import BackendUnavailableError, DeviceError, ExportError, ManifestError
from ..export.library import MODULES, Library, missing_reason
from ..export.manifest import (
    BUILD_THEM,
    MAKE_THEM,
    MANIFEST_FILE,
    EngineManifest,
    ExportedPass,
    Plan,
    Port,
)
from ..inputs import is_file
from ..outputs import atomic_file
from .cuda_graph import Capture, CudaGraphBackend, GraphCapture, Replay
from .engine_gate import check_parity, check_segments
from .segment_backend import engine_student, product_student, profile_reason

if TYPE_CHECKING:
    from .base import StudentBackend
    from .request import BackendRequest

_log = logging.getLogger("shotstream_rt.backends")

NAME = "tensorrt"
_FORM = "--form segments --dtype bfloat16"
_TYPES = {"float": "FLOAT", "bfloat16": "BF16", "float8e4m3fn": "FP8", "int8": "INT8"}


def unavailable_reason(device: torch.device) -> str | None:
    """Return why it cannot run on a device, or ``None``."""
    if device.type != "cuda":
        return f"TensorRT runs on an NVIDIA GPU, not on {device.type}"
    if not torch.cuda.is_available():
        return "no CUDA device is visible to torch"
    reasons = [missing_reason(name) for name in MODULES]
    if all(reasons):
        return "; ".join(str(reason) for reason in reasons)
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) == (9, 0) and reasons[1] is not None:
        return f"TensorRT-RTX has no engines for sm_90 (H100, H200), and {reasons[1]}"
    return None


def unfit(request: BackendRequest) -> str | None:
    """Return why it cannot run a model, or ``None``."""
    folder = request.engines_folder()
    if folder is None:
        return f"it needs plans: `{MAKE_THEM} {_FORM}`, `{BUILD_THEM}`, then --engines DIR"
    if not is_file(folder / MANIFEST_FILE):
        return None  # opening says so
    manifest = EngineManifest.read(folder)
    if manifest.form != "segments":
        return f"it runs segments, and {folder} holds others; export with {_FORM}"
    return profile_reason(manifest, request)


def build(request: BackendRequest) -> StudentBackend:
    """Load plans for this GPU."""
    capability = torch.cuda.get_device_capability(request.device)
    return open_plans(request, capability, Library.load)


def open_plans(
    request: BackendRequest,
    capability: tuple[int, int],
    load: Callable[[str], Library],
    record: Callable[[], Capture] | None = None,
) -> StudentBackend:
    """Open a folder's plans, and compare them with the kernel set before the first film.

    Args:
        request: the model.
        capability: of the GPU.
        load: imports a library by its name on the command line.
        record: makes what records a film's passes; default: CUDA graphs.

    Raises:
        ManifestError: there are no plans for this GPU, type and library version, or a file or a
            weight is another.
        DeviceError: the library refuses a plan.
        BackendUnavailableError: what they compute differs from ``eager``.
    """
    folder = request.engines_folder()
    if folder is None:
        raise ManifestError(f"backend {NAME}: got no folder of engines; {MAKE_THEM} {_FORM}")
    manifest = EngineManifest.read(folder)
    manifest.check_fits(request.config, str(request.dtype).removeprefix("torch."), folder)
    plans, library = choose_plans(manifest, folder, capability, load)
    blobs = {name: manifest.read_file(folder, plan) for name, plan in plans.items()}
    student = product_student(request, manifest)
    entries = {entry.name: entry for entry in manifest.passes}
    cache = env.cache_dir() / "tensorrt" / f"{library.name}-{library.version}.cache"
    runner = TensorRtRunner(library, blobs, entries, request.device, cache)
    graphs = record or (lambda: GraphCapture(request.device))
    engines = engine_student(student, request.config, runner)
    check_segments(engines, request, manifest.products)
    backend = CudaGraphBackend(engines, request.config, lambda: runner.film(graphs()))
    backend.info = replace(backend.info, name=NAME)
    check_parity(backend, request, manifest.products)
    runner.save_cache()
    return backend


def choose_plans(
    manifest: EngineManifest,
    folder: Path,
    capability: tuple[int, int],
    load: Callable[[str], Library],
) -> tuple[dict[str, Plan], Library]:
    """Return a plan of every segment for a GPU, and the library that runs them.

    Args:
        manifest: of the folder.
        folder: named in errors.
        capability: of the GPU.
        load: imports a library by its name on the command line.

    Raises:
        ManifestError: there is no whole set of plans for this GPU by an installed library of the
            version that built them.
    """
    here, path = f"sm_{capability[0]}{capability[1]}", folder / MANIFEST_FILE
    command = f"python -m shotstream_rt export build {folder} --library LIBRARY --target {here}"
    if not manifest.plans:
        raise ManifestError(f"{path}: got no plans, wanted plans for {here}; `{command}`")
    fitting = [plan for plan in manifest.plans if here in plan.targets]
    if not fitting:
        built = sorted({target for plan in manifest.plans for target in plan.targets})
        raise ManifestError(f"{path}: got plans for {', '.join(built)}, wanted {here}; `{command}`")
    problems = []
    for name in dict.fromkeys(plan.library for plan in fitting):
        command_of = command.replace("LIBRARY", name)
        try:
            library = load(name)
        except ExportError as error:
            problems.append(str(error))
            continue
        own = {plan.engine: plan for plan in fitting if plan.library == name}
        versions = {plan.version for plan in own.values()}
        missing = [entry.name for entry in manifest.passes if entry.name not in own]
        if versions != {library.version}:
            problems.append(
                f"got plans of {library.title} {', '.join(sorted(versions))}, wanted "
                f"{library.version}, which is here; `{command_of}`"
            )
        elif missing:
            problems.append(f"got no plan of {', '.join(missing)}; `{command_of}`")
        else:
            return own, library
    raise ManifestError(f"{path}: {'; '.join(problems)}")


class TensorRtRunner:
    """Runs plans of segments.

    Args:
        library: that runs them.
        plans: their bytes, by segment.
        entries: inputs and results of each.
        device: the GPU.
        cache: file of kernels that TensorRT-RTX compiled before; made anew if it is of no use.
    """

    def __init__(
        self,
        library: Library,
        plans: Mapping[str, bytes],
        entries: Mapping[str, ExportedPass],
        device: torch.device,
        cache: Path,
    ) -> None:
        self._api, self._entries, self._device, self._file = library.module, entries, device, cache
        self._title = library.title
        self._logger = _ErrorLog.of(self._api)
        self._runtime = self._api.Runtime(self._logger)
        self._engines = {name: self._deserialise(name, plan) for name, plan in plans.items()}
        for name, engine in self._engines.items():
            _check_ports(self._api, name, engine, entries[name])
        self._scratch_bytes = max(
            int(engine.device_memory_size_v2) for engine in self._engines.values()
        )
        self._configs, self._cache = self._runtime_configs()
        self._own = _FilmContexts(self._scratch())

    def run(self, name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """See ``SegmentRunner``.

        Args:
            name: of the segment.
            inputs: by name.
            outputs: likewise.
        """
        own = self._own
        if own.capturing:
            context = self._context(name, own)
            own.captured.append(context)
        else:
            if name not in own.eager:
                own.eager[name] = self._context(name, own)
            context = own.eager[name]
        entry = self._entries[name]
        for ports, tensors in ((entry.inputs, inputs), (entry.outputs, outputs)):
            for port in ports:
                tensor = tensors[port.name]
                assert tensor.is_contiguous() and tuple(tensor.shape) == port.shape, port.name
                if not context.set_tensor_address(port.name, tensor.data_ptr()):
                    raise DeviceError(f"{self._title}: {name}: refuses an address of {port.name}")
        if not context.execute_async_v3(self._stream()):
            raise DeviceError(f"{self._title}: {name}: {self._logger.last('cannot be enqueued')}")

    def film(self, record: Capture) -> Capture:
        """Begin a film with contexts and scratch memory of its own; return its capture.

        Args:
            record: records a function.
        """
        own = self._own = _FilmContexts(self._scratch())

        def capture(function: Callable[[], None]) -> Replay:
            own.capturing = True
            try:
                replay = record(function)
            finally:
                own.capturing = False

            def replay_with_contexts() -> None:
                assert own.scratch is not None  # what the graph reads lives as long as it does
                replay()

            return replay_with_contexts

        return capture

    def save_cache(self) -> None:
        """Keep what was compiled for the next start; without it that takes longer."""
        if self._cache is None:
            return
        with atomic_file(self._file) as path:
            path.write_bytes(bytes(self._cache.serialize()))

    def _stream(self) -> int:
        if self._device.type != "cuda":
            return 0
        return int(torch.cuda.current_stream(self._device).cuda_stream)

    def _scratch(self) -> Tensor:
        return torch.empty(max(1, self._scratch_bytes), dtype=torch.uint8, device=self._device)

    def _deserialise(self, name: str, plan: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise DeviceError(
                f"{self._title}: {name}: the plan cannot be loaded: "
                f"{self._logger.last('no reason was given')}"
            )
        return engine

    def _runtime_configs(self) -> tuple[dict[str, Any], Any]:
        """How contexts are made, by segment, and the cache that they share; TensorRT has none."""
        if not hasattr(self._api, "IRuntimeCache"):
            return {}, None
        configs = {name: engine.create_runtime_config() for name, engine in self._engines.items()}
        cache = next(iter(configs.values())).create_runtime_cache()
        if self._file.is_file() and not cache.deserialize(self._file.read_bytes()):
            _log.info("%s: compiled kernels in %s are of another GPU or version", self._title,
                      self._file)  # fmt: skip
        for config in configs.values():
            config.set_runtime_cache(cache)
            config.cuda_graph_strategy = self._api.CudaGraphStrategy.DISABLED
            config.set_execution_context_allocation_strategy(
                self._api.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        return configs, cache

    def _context(self, name: str, own: _FilmContexts) -> Any:
        engine, managed = self._engines[name], self._api.ExecutionContextAllocationStrategy
        config = self._configs.get(name)
        context = engine.create_execution_context(
            managed.USER_MANAGED if config is None else config
        )
        if context is None:
            raise DeviceError(f"{self._title}: {name}: {self._logger.last('no context')}")
        context.set_device_memory(own.scratch.data_ptr(), own.scratch.nbytes)
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(
            self._stream()
        ):
            raise BackendUnavailableError(
                f"backend {NAME}: {name} cannot be captured as a CUDA graph; build it again with "
                f"`{BUILD_THEM}`"
            )
        return context


class _FilmContexts:
    """One film's contexts.

    Args:
        scratch: memory that all of them compute in.
    """

    def __init__(self, scratch: Tensor) -> None:
        self.scratch, self.capturing = scratch, False
        self.eager: dict[str, Any] = {}
        self.captured: list[Any] = []


class _ErrorLog:
    """Errors that a library logged."""

    @staticmethod
    def of(api: Any) -> Any:
        """Make a logger of the library's own kind."""

        class Kept(api.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                api.ILogger.__init__(self)
                self.errors: list[str] = []

            def log(self, severity: Any, text: str) -> None:
                if int(severity) <= 1:
                    self.errors.append(text)

            def last(self, otherwise: str) -> str:
                return self.errors[-1] if self.errors else otherwise

        return Kept()


def _check_ports(api: Any, name: str, engine: Any, entry: ExportedPass) -> None:
    """Require that a plan's inputs and results are the manifest's.

    Args:
        api: of the library.
        name: of the segment.
        engine: the plan.
        entry: the manifest's.

    Raises:
        ManifestError: they are not.
    """
    found = {}
    for index in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(index)
        found[tensor] = (
            engine.get_tensor_mode(tensor) == api.TensorIOMode.INPUT,
            tuple(engine.get_tensor_shape(tensor)),
            engine.get_tensor_dtype(tensor).name,
        )
    wanted = _wanted(entry.inputs, is_input=True) | _wanted(entry.outputs, is_input=False)
    for tensor in sorted(found.keys() | wanted.keys()):
        if found.get(tensor) != wanted.get(tensor):
            raise ManifestError(
                f"plan of {name}: {tensor}: got {found.get(tensor)}, {MANIFEST_FILE} says "
                f"{wanted.get(tensor)}; build it again with `{BUILD_THEM}`"
            )


def _wanted(ports: Sequence[Port], *, is_input: bool) -> dict[str, tuple[object, ...]]:
    return {port.name: (is_input, port.shape, _TYPES[port.dtype]) for port in ports}
