"""Backends by name: lazy builders, reasons why one cannot run, and one resolution of ``auto``."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from .. import env
from ..errors import BackendUnavailableError, ConfigError
from ..nvtx import DETAIL_LEVEL

if TYPE_CHECKING:
    import torch

    from .base import StudentBackend
    from .engine_passes import LoadPass
    from .request import BackendRequest

_log = logging.getLogger("shotstream_rt.backends")

_USUAL_HEAD_DIM = 128
"""Features per head of the 1.3B student, for reports that are not about a model."""


def _fits_all(request: BackendRequest) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """One way to run the student.

    Attributes:
        name: what users ask for.
        unavailable_reason: given a device, why it cannot run there, or ``None``.
        build: makes it; imports whatever it needs, and takes from the request what it needs.
        unfit_reason: given a request, why it cannot run this model, such as missing engines, or
            ``None``; asked after ``unavailable_reason``, and should load nothing large.
        runs_engines: whether it runs a folder of exported passes, which have a type of their own.
    """

    name: str
    unavailable_reason: Callable[[torch.device], str | None]
    build: Callable[[BackendRequest], StudentBackend]
    unfit_reason: Callable[[BackendRequest], str | None] = _fits_all
    runs_engines: bool = False


def _eager_reason(device: torch.device) -> str | None:
    import torch

    if device.type == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is visible to torch"
    return None


def _build_eager(request: BackendRequest) -> StudentBackend:
    from .eager import EagerBackend

    return EagerBackend(request.student(), request.config)


def _cuda_graph_reason(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, not {device.type}"
    if env.nvtx_level() >= DETAIL_LEVEL:
        return f"{env.NVTX}=detail marks layers, which a replayed graph cannot"
    return _eager_reason(device)


def _build_cuda_graph(request: BackendRequest) -> StudentBackend:
    from .cuda_graph import CudaGraphBackend

    return CudaGraphBackend(request.student(), request.config)


class EngineLibrary(Protocol):
    """Members of an engine library's module."""

    def unavailable_reason(self, device: torch.device) -> str | None:
        """See ``BackendEntry``."""
        ...

    def unfit(self, request: BackendRequest) -> str | None:
        """See ``BackendEntry.unfit_reason``."""
        ...

    def build(self, request: BackendRequest) -> StudentBackend:
        """See ``BackendEntry``."""
        ...

    @property
    def load(self) -> LoadPass:
        """Loads one graph; libraries for CPUs have it."""
        ...


ENGINE_LIBRARIES = ("onnxruntime", "openvino")
"""Backends that run exported graphs on a CPU."""


def engine_library(name: str) -> EngineLibrary:
    """Import the module of an engine library; the library itself is imported by its ``load``."""
    return cast("EngineLibrary", importlib.import_module(f"{__package__}.{name}"))


def _engine_entry(name: str) -> BackendEntry:
    """An engine library, whose module has its name; it is imported when it is asked about."""
    return BackendEntry(
        name,
        lambda device: engine_library(name).unavailable_reason(device),
        lambda request: engine_library(name).build(request),
        lambda request: engine_library(name).unfit(request),
        runs_engines=True,
    )


ENTRIES = (
    BackendEntry("cuda_graph", _cuda_graph_reason, _build_cuda_graph),
    BackendEntry("eager", _eager_reason, _build_eager),
    *map(_engine_entry, (*ENGINE_LIBRARIES, "tensorrt")),
)
"""In the order in which ``auto`` prefers them."""


def names() -> list[str]:
    """Names a user may ask for."""
    return ["auto", *(entry.name for entry in ENTRIES)]


def runs_engines(name: str) -> bool:
    """Tell whether a backend runs exported passes; ``auto`` does not."""
    return any(entry.runs_engines for entry in ENTRIES if entry.name == name)


def availability(device: torch.device) -> dict[str, str | None]:
    """Why each backend cannot run on a device, or ``None`` where it can."""
    return {entry.name: entry.unavailable_reason(device) for entry in ENTRIES}


def kernel_availability(device: torch.device) -> dict[str, str | None]:
    """Why each kernel set and part cannot run on a device (in bfloat16 there), or ``None``."""
    import torch

    from . import kernel_registry

    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    target = kernel_registry.Target(device=device, dtype=dtype, head_dim=_USUAL_HEAD_DIM)
    return kernel_registry.availability(target)


def resolve(name: str, request: BackendRequest) -> StudentBackend:
    """Build the backend asked for; ``auto`` takes the first that can run, and logs it.

    Raises:
        ConfigError: no backend or kernel set has this name.
        BackendUnavailableError: the backend or the kernels cannot run this model on this device.
        WeightsError: the weights are missing, broken or of other shapes.
    """
    if name not in names():
        raise ConfigError(f"backend: got {name!r}, wanted one of {', '.join(names())}")
    reasons = {
        entry.name: entry.unavailable_reason(request.device) or entry.unfit_reason(request)
        for entry in ENTRIES
    }
    usable = [entry for entry in ENTRIES if reasons[entry.name] is None]
    chosen = [entry for entry in usable if name in ("auto", entry.name)]
    if not chosen:
        raise BackendUnavailableError(
            f"backend {name}: cannot run on {request.device}: {reasons.get(name, reasons)}; usable "
            f"here: {', '.join(entry.name for entry in usable) or 'none'}"
        )
    backend = chosen[0].build(request)
    _log.info("backend %s resolved to %s with %s kernels on %s", name, chosen[0].name,
              backend.info.kernel_set, request.device)  # fmt: skip
    return backend
