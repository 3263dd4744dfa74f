"""Kernel sets by name: ``triton``, or a set with parts replaced, such as ``triton+cudnn``.

Whether a set or a part can run is asked before anything is built: a name that cannot run here is an
error with the reason, never another set. Only ``auto`` chooses, once, and logs what it took and
why: the attention that was the fastest on this kind of chip, where that was measured
(``proven_attention``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..errors import BackendUnavailableError, ConfigError
from ..kernels.gpu.fp8_support import fp8_unavailable_reason
from ..kernels.sets import cpu_set, kernel_set
from ..kernels.sets.fp8_attention_set import with_fp8_attention, with_fp8_keys, with_fp8_out
from ..kernels.sets.fp8_set import with_fp8
from ..kernels.sets.kernel_set import KernelSet
from ..kernels.sets.library_attention import (
    cudnn_attention,
    fa3_attention,
    flash_attention,
    library_unavailable_reason,
)
from .proven_attention import find_proof

if TYPE_CHECKING:
    from ..kernels.sets.kernel_set import Attention

_log = logging.getLogger("shotstream_rt.backends")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the kernels will run on.

    Attributes:
        device: where tensors are.
        dtype: of activations.
        head_dim: features per head.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoChoice:
    """What ``auto`` is resolved to.

    Attributes:
        name: of the kernel set, such as ``triton+gluon``.
        reason: why that one, in words.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEntry:
    """A set, or a part that replaces some of a set.

    Attributes:
        name: what users say; a part's follows a set's after a ``+``.
        summary: one line.
        unavailable_reason: why it cannot run on a target, or ``None``.
        build: makes the set for a target; a part is given the set to change, a whole set ``None``.
        replaces: parts that change nothing beside this one.
    """

    name: str
    summary: str
    unavailable_reason: Callable[[Target], str | None]
    build: Callable[[KernelSet | None, Target], KernelSet]
    replaces: tuple[str, ...] = ()


def _cpu_reason(target: Target) -> str | None:
    if target.device.type != "cpu":
        return f"kernel set cpu is for the CPU, not {target.device.type}"
    return cpu_set.cpu_unavailable_reason()


def _triton_reason(target: Target) -> str | None:
    reason = kernel_set.triton_unavailable_reason()
    if reason is None and target.device.type == "cpu" and not kernel_set.interpreting():
        return "kernel set triton is for a GPU, not the CPU"
    return reason


def _library_reason(name: str, target: Target) -> str | None:
    return library_unavailable_reason(name, target.device, target.dtype, target.head_dim)


def _attend_by(name: str, attention: Attention, kernels: KernelSet | None, _: Target) -> KernelSet:
    assert kernels is not None
    return replace(kernels, name=f"{kernels.name}+{name}", attention=attention)


def _gluon_reason(target: Target) -> str | None:
    return kernel_set.gluon_unavailable_reason(target.device, target.dtype, target.head_dim)


def _attend_by_gluon(kernels: KernelSet | None, target: Target) -> KernelSet:
    from ..kernels.gpu.dual_attention_hopper import dual_attention
    from ..kernels.gpu.history_attention_hopper import history_attention

    attending = _attend_by("gluon", dual_attention, kernels, target)
    return replace(attending, history_attention=history_attention)


def _fill_waves(kernels: KernelSet | None, _: Target) -> KernelSet:
    from ..kernels.sets.waves_set import with_waves

    assert kernels is not None
    return with_waves(kernels)


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
        build=lambda _, target: kernel_set.triton_kernels(),
    ),
    KernelEntry(
        name="cpu",
        summary="oneDNN products with packed weights",
        unavailable_reason=_cpu_reason,
        build=lambda _, target: cpu_set.cpu_kernels(target.dtype, target.head_dim),
    ),
    KernelEntry(
        name="torch",
        summary="torch's own fused calls",
        unavailable_reason=lambda _: None,
        build=lambda _, target: kernel_set.TORCH_OPS,
    ),
    KernelEntry(
        name="reference",
        summary="plain torch, the definition of correct",
        unavailable_reason=lambda _: None,
        build=lambda _, target: kernel_set.REFERENCE,
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
    KernelEntry(
        name="waves",
        summary="products whose last wave of tiles would be half empty, by this project",
        unavailable_reason=_triton_reason,
        build=_fill_waves,
    ),
)
"""Parts; ``auto`` takes one of them only on a chip on which it was proven to be the fastest."""

_AUTO = {"cuda": ("triton", "torch"), "cpu": ("cpu", "torch")}

_PROVEN_ON = "triton"
"""The set whose attention was replaced in the measurements."""


def _lossy(
    name: str, build: Callable[[KernelSet], KernelSet], summary: str, replaces: tuple[str, ...] = ()
) -> KernelEntry:
    def build_part(kernels: KernelSet | None, _: Target) -> KernelSet:
        assert kernels is not None
        return build(kernels)

    return KernelEntry(
        name=name,
        summary=summary,
        unavailable_reason=lambda target: fp8_unavailable_reason(target.device),
        build=build_part,
        replaces=replaces,
    )


_LIBRARIES = ("cudnn", "flash", "fa3")

LOSSY_PARTS = (
    _lossy("fp8", with_fp8, "linear layers in 8 bits", ("waves",)),
    _lossy("fp8-keys", with_fp8_keys, "an arena with keys in 8 bits", _LIBRARIES),
    _lossy(
        "fp8-attention", with_fp8_attention, "an arena with keys and values in 8 bits", _LIBRARIES
    ),
    _lossy("fp8-out", with_fp8_out, "that arena's attention leaves its result in 8 bits"),
)
"""Parts that change the result by more than rounding: only a profile names them."""


def availability(target: Target) -> dict[str, str | None]:
    """Why each set (``triton``) and part (``+cudnn``) cannot run on a target, or ``None``."""
    found = {entry.name: entry.unavailable_reason(target) for entry in SETS}
    return found | {f"+{part.name}": part.unavailable_reason(target) for part in PARTS}


def resolve(name: str, target: Target, lossy_parts: Sequence[str] = ()) -> KernelSet:
    """Build the kernel set asked for.

    Args:
        name: ``auto``, a set's name, or one followed by parts, as in ``triton+cudnn``.
        target: what it will run on.
        lossy_parts: of the profile, put in last.

    Raises:
        ConfigError: there is no such set or part, or the profile leaves a part nothing to do.
        BackendUnavailableError: it cannot run here.
    """
    lossy = [entry for entry in LOSSY_PARTS if entry.name in lossy_parts]
    assert len(lossy) == len(lossy_parts), f"unknown among {lossy_parts}"
    whole = name
    if name == "auto":
        choice = choose_auto(target)
        _log.info(
            "kernels auto resolved to %s on %s: %s", choice.name, target.device, choice.reason
        )
        whole = choice.name
    first, *rest = whole.split("+")
    parts = (_find(part, PARTS, whole) for part in rest)
    chosen = [_find(first, SETS, whole), *parts, *lossy]
    if name != "auto":
        _check_effect(name, rest, lossy)
    kernels: KernelSet | None = None
    for entry in chosen:
        reason = entry.unavailable_reason(target)
        if reason is not None:
            raise BackendUnavailableError(
                f"kernels {name}: {reason}; usable here: {', '.join(_usable(target))}"
            )
        kernels = entry.build(kernels, target)
    assert kernels is not None
    return kernels


def _check_effect(name: str, parts: Sequence[str], lossy: Sequence[KernelEntry]) -> None:
    """Refuse parts that were asked for and would change nothing.

    Args:
        name: of the set, with its parts.
        parts: their names.
        lossy: what the profile puts in.
    """
    for entry in lossy:
        for part in parts:
            if part in entry.replaces:
                raise ConfigError(
                    f"kernels: got {name!r} with a profile that has {entry.summary}, wanted it "
                    f"without +{part}, which would change nothing there"
                )


def choose_auto(target: Target) -> AutoChoice:
    """Say what ``auto`` takes for a target, and why.

    On a GPU the set is ``triton``, with the parts with which it was the fastest where that was
    measured on a chip of this name, of those that can run here; without a measurement, alone. A set
    that cannot run is logged and passed over.
    """
    for name in _AUTO.get(target.device.type, ("torch",)):
        reason = _find(name, SETS, name).unavailable_reason(target)
        if reason is None:
            break
        _log.warning("kernels auto: %s is not usable (%s)", name, reason)
    else:
        raise AssertionError("set torch runs everywhere")
    if name == _PROVEN_ON and target.device.type == "cuda":
        return _choose_proven(target)
    return AutoChoice(name=name, reason=f"the first usable set for {target.device.type}")


def _choose_proven(target: Target) -> AutoChoice:
    gpu = torch.cuda.get_device_name(target.device)
    dtype = str(target.dtype).removeprefix("torch.")
    proof = find_proof(gpu, dtype, target.head_dim)
    if proof is None:
        reason = f"no attention is proven on {gpu} for {dtype} and heads of {target.head_dim}"
        return AutoChoice(name=_PROVEN_ON, reason=f"{reason}; this is the set's own")
    figures = ", ".join(f"{row.kernel_set} {row.denoise_fps:.1f}" for row in proof.ranking)
    measured = f"denoised frames per second of {proof.workload} on {gpu}: {figures}"
    passed_over: list[str] = []
    for row in proof.ranking:
        parts = (_find(part, PARTS, row.kernel_set) for part in row.kernel_set.split("+")[1:])
        reasons = [part.unavailable_reason(target) for part in parts]
        lacking = [reason for reason in reasons if reason is not None]
        if not lacking:
            return AutoChoice(name=row.kernel_set, reason="; ".join([measured, *passed_over]))
        passed_over += lacking
    raise AssertionError(f"{_PROVEN_ON} is in every ranking and needs no part")


def _find(name: str, entries: tuple[KernelEntry, ...], whole: str) -> KernelEntry:
    for entry in entries:
        if entry.name == name:
            return entry
    sets, parts = ", ".join(e.name for e in SETS), ", ".join(f"+{e.name}" for e in PARTS)
    raise ConfigError(f"kernels: got {whole!r}, wanted auto or one of {sets}; then any of {parts}")


def _usable(target: Target) -> list[str]:
    return [name for name, reason in availability(target).items() if reason is None]
