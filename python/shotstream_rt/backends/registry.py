"""Backends by name: lazy builders, reasons why one cannot run, and one resolution of ``auto``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BackendUnavailableError, ConfigError

if TYPE_CHECKING:
    import torch

    from ..config import StreamConfig
    from ..model.student import Student
    from .base import StudentBackend

_log = logging.getLogger("shotstream_rt.backends")


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """One way to run the student.

    Attributes:
        name: what users ask for.
        unavailable_reason: given a device, why it cannot run there, or ``None``.
        build: makes it; imports whatever it needs.
    """

    name: str
    unavailable_reason: Callable[[torch.device], str | None]
    build: Callable[[Student, StreamConfig], StudentBackend]


def _eager_reason(device: torch.device) -> str | None:
    import torch

    if device.type == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is visible to torch"
    return None


def _build_eager(student: Student, config: StreamConfig) -> StudentBackend:
    from ..kernels.kernel_set import TORCH_OPS, cpu_kernels, cpu_unavailable_reason
    from .eager import EagerBackend

    if student.patch_embedding.weight.device.type != "cpu":
        return EagerBackend(student, config, TORCH_OPS)
    reason = cpu_unavailable_reason()
    if reason is not None:
        _log.warning("kernel set cpu is not usable (%s); taking torch", reason)
        return EagerBackend(student, config, TORCH_OPS)
    return EagerBackend(student, config, cpu_kernels())


def _cuda_graph_reason(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, not {device.type}"
    return _eager_reason(device)


def _build_cuda_graph(student: Student, config: StreamConfig) -> StudentBackend:
    from ..kernels.kernel_set import TORCH_OPS
    from .cuda_graph import CudaGraphBackend

    return CudaGraphBackend(student, config, TORCH_OPS)


_ENTRIES = (
    BackendEntry("eager", _eager_reason, _build_eager),
    BackendEntry("cuda_graph", _cuda_graph_reason, _build_cuda_graph),
)
"""In the order in which ``auto`` prefers them: what no record vouches for yet comes last."""


def names() -> list[str]:
    """Names a user may ask for."""
    return ["auto", *(entry.name for entry in _ENTRIES)]


def availability(device: torch.device) -> dict[str, str | None]:
    """Why each backend cannot run on a device, or ``None`` where it can."""
    return {entry.name: entry.unavailable_reason(device) for entry in _ENTRIES}


def resolve(
    name: str, student: Student, config: StreamConfig, device: torch.device
) -> StudentBackend:
    """Build the backend asked for; ``auto`` takes the first that can run and logs it.

    Args:
        name: one of ``names()``.
        student: weights, already on ``device`` and in the wanted type.
        config: everything that decides the numbers.
        device: where it runs.

    Raises:
        ConfigError: no backend has this name.
        BackendUnavailableError: the backend cannot run on this device.
    """
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
    backend = entry.build(student, config)
    _log.info("backend %s resolved to %s with %s kernels on %s", name, entry.name,
              backend.info.kernel_set, device)  # fmt: skip
    return backend
