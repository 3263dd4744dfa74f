"""Kernel sets by name: ``triton``, or a set with parts replaced, such as ``triton+cudnn``.

What a set or a part needs is asked before anything is built: a name that cannot run here is an
error with the reason, never another set. Only ``auto`` chooses, once, and logs what it took.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..errors import BackendUnavailableError, ConfigError
from ..kernels import kernel_set
from ..kernels.fp8_set import fp8_unavailable_reason, with_fp8
from ..kernels.kernel_set import KernelSet
from ..kernels.library_attention import (
    cudnn_attention,
    fa3_attention,
    flash_attention,
    library_unavailable_reason,
)

if TYPE_CHECKING:
    from ..kernels.kernel_set import Attention

_log = logging.getLogger("shotstream_rt.backends")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What kernels have to serve.

    Attributes:
        device: where tensors are.
        dtype: of activations.
        head_dim: features per head.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEntry:
    """A set, or a part that replaces some of a set.

    Attributes:
        name: what users say; a part's follows a set's after a ``+``.
        summary: one line.
        unavailable_reason: why it cannot serve a target, or ``None``.
        build: makes the set; a part is given the set to change, a whole set ``None``.
    """

    name: str
    summary: str
    unavailable_reason: Callable[[Target], str | None]
    build: Callable[[KernelSet | None], KernelSet]


def _cpu_reason(target: Target) -> str | None:
    if target.device.type != "cpu":
        return f"kernel set cpu is for the CPU, not {target.device.type}"
    return kernel_set.cpu_unavailable_reason()


def _triton_reason(target: Target) -> str | None:
    reason = kernel_set.triton_unavailable_reason()
    if reason is None and target.device.type == "cpu" and not kernel_set.interpreting():
        return "kernel set triton is for a GPU, not the CPU"
    return reason


def _library_reason(name: str, target: Target) -> str | None:
    return library_unavailable_reason(name, target.device, target.dtype, target.head_dim)


def _attend_by(name: str, attention: Attention, kernels: KernelSet | None) -> KernelSet:
    assert kernels is not None
    return replace(kernels, name=f"{kernels.name}+{name}", attention=attention)


def _with_fp8(kernels: KernelSet | None) -> KernelSet:
    assert kernels is not None
    return with_fp8(kernels)


def _gluon_reason(target: Target) -> str | None:
    return kernel_set.gluon_unavailable_reason(target.device, target.dtype, target.head_dim)


def _attend_by_gluon(kernels: KernelSet | None) -> KernelSet:
    from ..kernels.dual_attention_hopper import dual_attention

    return _attend_by("gluon", dual_attention, kernels)


def _library(name: str, attention: Attention, summary: str) -> KernelEntry:
    return KernelEntry(
        name=name,
        summary=summary,
        unavailable_reason=partial(_library_reason, name),
        build=partial(_attend_by, name, attention),
    )


SETS = (
    KernelEntry(
        name="triton",
        summary="this project's fused kernels; matrix products by cuBLAS",
        unavailable_reason=_triton_reason,
        build=lambda _: kernel_set.triton_kernels(),
    ),
    KernelEntry(
        name="cpu",
        summary="oneDNN products with packed weights",
        unavailable_reason=_cpu_reason,
        build=lambda _: kernel_set.cpu_kernels(),
    ),
    KernelEntry(
        name="torch",
        summary="torch's own fused calls",
        unavailable_reason=lambda _: None,
        build=lambda _: kernel_set.TORCH_OPS,
    ),
    KernelEntry(
        name="reference",
        summary="plain torch, the definition of correct",
        unavailable_reason=lambda _: None,
        build=lambda _: kernel_set.REFERENCE,
    ),
)
"""Whole sets, in the order in which ``auto`` prefers them for its device."""

PARTS = (
    _library("cudnn", cudnn_attention, "attention by cuDNN"),
    _library("flash", flash_attention, "attention by torch's FlashAttention-2"),
    _library("fa3", fa3_attention, "attention by an installed FlashAttention-3"),
    KernelEntry(
        name="gluon",
        summary="this project's warp-specialised attention for sm_90",
        unavailable_reason=_gluon_reason,
        build=_attend_by_gluon,
    ),
)
"""Parts; ``auto`` takes none of them until a record shows one to be faster."""

_AUTO = {"cuda": ("triton", "torch"), "cpu": ("cpu", "torch")}


LOSSY_PARTS = (
    KernelEntry(
        name="fp8",
        summary="linear layers on 8-bit numbers",
        unavailable_reason=lambda target: fp8_unavailable_reason(target.device),
        build=_with_fp8,
    ),
)
"""Parts that change the result by more than rounding: only a profile names them."""


def availability(target: Target) -> dict[str, str | None]:
    """Why each set (``triton``) and part (``+cudnn``) cannot serve a target, or ``None``."""
    found = {entry.name: entry.unavailable_reason(target) for entry in SETS}
    return found | {f"+{part.name}": part.unavailable_reason(target) for part in PARTS}


def resolve(name: str, target: Target, lossy_parts: Sequence[str] = ()) -> KernelSet:
    """Build the kernel set asked for.

    Args:
        name: ``auto``, a set's name, or one followed by parts, as in ``triton+cudnn``.
        target: what it has to serve.
        lossy_parts: of the profile, put in last.

    Raises:
        ConfigError: there is no such set or part.
        BackendUnavailableError: it cannot run here.
    """
    lossy = [entry for entry in LOSSY_PARTS if entry.name in lossy_parts]
    assert len(lossy) == len(lossy_parts), f"unknown among {lossy_parts}"
    kernels: KernelSet | None = None
    chosen = lossy
    if name == "auto":
        kernels = _resolve_auto(target)
    else:
        first, *rest = name.split("+")
        parts = (_find(part, PARTS, name) for part in rest)
        chosen = [_find(first, SETS, name), *parts, *lossy]
    for entry in chosen:
        reason = entry.unavailable_reason(target)
        if reason is not None:
            raise BackendUnavailableError(
                f"kernels {name}: {reason}; usable here: {', '.join(_usable(target))}"
            )
        kernels = entry.build(kernels)
    assert kernels is not None
    return kernels


def _resolve_auto(target: Target) -> KernelSet:
    for name in _AUTO.get(target.device.type, ("torch",)):
        entry = _find(name, SETS, name)
        reason = entry.unavailable_reason(target)
        if reason is None:
            _log.info("kernels auto resolved to %s on %s", name, target.device)
            return entry.build(None)
        _log.warning("kernels auto: %s is not usable (%s)", name, reason)
    raise AssertionError("set torch runs everywhere")


def _find(name: str, entries: tuple[KernelEntry, ...], whole: str) -> KernelEntry:
    for entry in entries:
        if entry.name == name:
            return entry
    sets, parts = ", ".join(e.name for e in SETS), ", ".join(f"+{e.name}" for e in PARTS)
    raise ConfigError(f"kernels: got {whole!r}, wanted auto or one of {sets}; then any of {parts}")


def _usable(target: Target) -> list[str]:
    return [name for name, reason in availability(target).items() if reason is None]
