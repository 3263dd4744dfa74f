"""The correctness check of every figure: the measured passes compared with the float32 oracle.

The oracle is backend ``eager`` with the reference kernels in float32, on the same weights (rounded
to the measured type, then widened), plan and noise. It reads the weights itself, so that it can
judge any backend, one without torch weights too. A profile that quantises is compared with the
reference forms of its own kernels: this checks that its arithmetic is right; how far it is from
``exact`` is measured in ``fidelity.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import StreamConfig
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.profiles import EXACT, Profile

from .record import Correctness

REFERENCE_NAME = "eager, reference kernels, float32"

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest relative distance of a shot's latents by type of the measured passes."""

CHECKED_CHUNKS = 2
"""Chunks of a quick check: the second one reads what the first one's clean pass wrote."""


def checked_chunks(config: StreamConfig, *, full: bool) -> int:
    """Return how many chunks of a shot are compared."""
    return config.shot.chunks if full else min(CHECKED_CHUNKS, config.shot.chunks)


def reference_pipeline(
    weights: Callable[[], Mapping[str, Tensor]],
    config: StreamConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    profile: Profile = EXACT,
) -> Pipeline:
    """Return the oracle of a student.

    Args:
        weights: reads the student's tensors under their released names.
        config: as of the measured passes.
        device: where the oracle runs.
        dtype: of the measured passes; the weights are rounded to it.
        profile: of the measured passes; the oracle has its lossy parts too.
    """
    request = BackendRequest(
        config=config,
        device=device,
        dtype=torch.float32,
        weights=lambda: _Rounded(weights(), dtype),
        kernel_set="reference",
        lossy_parts=tuple(profile.kernel_parts),
    )
    return Pipeline(config, EagerBackend(request.student(), config).new_film())


class _Rounded(Mapping[str, Tensor]):
    """Tensors rounded to a type, one by one as they are read."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self._tensors, self._dtype = tensors, dtype

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def compare_latents(
    measured: Sequence[Tensor],
    reference: Sequence[Tensor],
    dtype: torch.dtype,
    profile: Profile = EXACT,
) -> Correctness:
    """Compare chunks of latents.

    Args:
        measured: what the measured passes gave, any type and device.
        reference: what the oracle gave, the same shapes.
        dtype: type of the measured passes; decides the tolerance of exact latents.
        profile: of the measured passes; a lossy one may state its own tolerance.
    """
    tolerance = profile.latents_tolerance or TOLERANCES[dtype]
    got = torch.cat([chunk.double().cpu() for chunk in measured])
    wanted = torch.cat([chunk.double().cpu() for chunk in reference])
    error = got - wanted
    rel_l2 = float(error.norm() / wanted.norm())
    psnr_db = _psnr_db(error, span=float(wanted.max() - wanted.min()))
    finite = math.isfinite(rel_l2)
    return Correctness(
        reference=REFERENCE_NAME,
        rel_l2=rel_l2 if finite else 1e9,
        max_abs_err=float(error.abs().max()) if finite else 1e9,
        psnr_db=round(psnr_db, 2) if finite else 0.0,
        tolerance=tolerance,
        passed=finite and rel_l2 <= tolerance,
    )


def _psnr_db(error: Tensor, *, span: float) -> float:
    rms = float(error.square().mean().sqrt())
    if not math.isfinite(rms):
        return 0.0
    # Equal tensors have no finite ratio; 999 stands for it, since JSON has no infinity.
    return 20 * math.log10(span / rms) if rms > 0 else 999.0
