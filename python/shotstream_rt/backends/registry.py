"""Backends by name: lazy builders, reasons why one cannot run, and one resolution of ``auto``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import env
from ..errors import BackendUnavailableError, ConfigError
from ..nvtx import DETAIL_LEVEL

if TYPE_CHECKING:
    import torch

    from ..config import StreamConfig
    from ..kernels.kernel_set import KernelSet
    from ..model.student import Student
    from .base import StudentBackend

_log = logging.getLogger("shotstream_rt.backends")

_USUAL_HEAD_DIM = 128
"""Features per head of the 1.3B student, for reports that know no model."""


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """One way to run the student.

    Attributes:
        name: what users ask for.
        unavailable_reason: given a device, why it cannot run there, or ``None``.
        build: makes it with a kernel set; imports whatever it needs.
    """

    name: str
    unavailable_reason: Callable[[torch.device], str | None]
    build: Callable[[Student, StreamConfig, KernelSet], StudentBackend]


def _eager_reason(device: torch.device) -> str | None:
    import torch

    if device.type == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is visible to torch"
    return None


def _build_eager(student: Student, config: StreamConfig, kernels: KernelSet) -> StudentBackend:
    from .eager import EagerBackend

    return EagerBackend(student, config, kernels)


def _cuda_graph_reason(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, not {device.type}"
    if env.nvtx_level() >= DETAIL_LEVEL:
        return f"{env.NVTX}=detail marks layers, which a replayed graph cannot"
    return _eager_reason(device)


def _build_cuda_graph(student: Student, config: StreamConfig, kernels: KernelSet) -> StudentBackend:
    from .cuda_graph import CudaGraphBackend

    return CudaGraphBackend(student, config, kernels)


_ENTRIES = (
    BackendEntry("cuda_graph", _cuda_graph_reason, _build_cuda_graph),
    BackendEntry("eager", _eager_reason, _build_eager),
)
"""In the order in which ``auto`` prefers them."""


def names() -> list[str]:
    """Names a user may ask for."""
    return ["auto", *(entry.name for entry in _ENTRIES)]


def availability(device: torch.device) -> dict[str, str | None]:
    """Why each backend cannot run on a device, or ``None`` where it can."""
    return {entry.name: entry.unavailable_reason(device) for entry in _ENTRIES}


def kernel_availability(device: torch.device) -> dict[str, str | None]:
    """Why each kernel set and part cannot run on a device (in bfloat16 there), or ``None``."""
    import torch

    from . import kernel_registry

    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    target = kernel_registry.Target(device=device, dtype=dtype, head_dim=_USUAL_HEAD_DIM)
    return kernel_registry.availability(target)


def resolve(
    name: str,
    student: Student,
    config: StreamConfig,
    device: torch.device,
    *,
    kernels: str | None = None,
    lossy_parts: Sequence[str] = (),
) -> StudentBackend:
    """Build the backend asked for; ``auto`` takes the first that can run and logs it.

    Args:
        name: one of ``names()``.
        student: weights, already on ``device`` and in the wanted type.
        config: everything that decides the numbers.
        device: where it runs.
        kernels: ``auto``, or a set and its parts such as ``triton+cudnn``; default: what the
            variable ``SHOTSTREAM_KERNEL_SET`` says, else ``auto``.
        lossy_parts: parts of the kernel set that the profile takes.

    Raises:
        ConfigError: no backend or kernel set has this name.
        BackendUnavailableError: the backend or the kernels cannot run on this device.
    """
    from . import kernel_registry

    if name not in names():
        raise ConfigError(f"backend: got {name!r}, wanted one of {', '.join(names())}")
    reasons = availability(device)
    usable = [entry for entry in _ENTRIES if reasons[entry.name] is None]
    chosen = [entry for entry in usable if name in ("auto", entry.name)]
    if not chosen:
        raise BackendUnavailableError(
            f"backend {name}: cannot run on {device}: {reasons.get(name, reasons)}; usable here: "
            f"{', '.join(entry.name for entry in usable) or 'none'}"
        )
    entry = chosen[0]
    target = kernel_registry.Target(
        device=device, dtype=student.dtype, head_dim=config.model.head_dim
    )
    chosen_kernels = kernel_registry.resolve(kernels or env.kernel_set(), target, lossy_parts)
    backend = entry.build(student, config, chosen_kernels)
    _log.info("backend %s resolved to %s with %s kernels on %s", name, entry.name,
              backend.info.kernel_set, device)  # fmt: skip
    return backend
