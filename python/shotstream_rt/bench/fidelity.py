"""How far a lossy profile is from ``exact``, on the same weights, plan and noise.

Part of a record of every lossy profile. Correctness says whether the arithmetic is right; fidelity
passes no verdict, it says what the profile's speed costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_GREY_LEVELS = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Distance of a run to the ``exact`` profile.

    Attributes:
        reference: what it was compared with.
        shots: shots of the film that were made both ways.
        latents_rel_l2: norm of the latents' difference over the norm of the exact ones.
        frames: frames compared; 0 where the run makes none.
        frames_psnr_db: peak signal-to-noise ratio of all frames, 999 for equal ones; null without.
        frames_mean_grey: mean difference of a pixel in 8-bit grey levels; null without.
        frames_max_grey: largest difference of a pixel in 8-bit grey levels; null without.
    """

    reference: str
    shots: int
    latents_rel_l2: float
    frames: int = 0
    frames_psnr_db: float | None = None
    frames_mean_grey: float | None = None
    frames_max_grey: float | None = None


def compare_fidelity(
    latents: Sequence[Tensor],
    exact_latents: Sequence[Tensor],
    frames: Sequence[Tensor] = (),
    exact_frames: Sequence[Tensor] = (),
    *,
    reference: str,
    shots: int = 1,
) -> Fidelity:
    """Compare a lossy run with the exact one.

    Args:
        latents: ``[1, F, C, h, w]`` of every chunk, any float type and device.
        exact_latents: the same chunks as ``exact`` makes them.
        frames: pixels ``[..., 3, H, W]`` in [-1, 1] of every chunk; none where none are made.
        exact_frames: like ``frames``.
        reference: what made the exact ones.
        shots: shots they are of.
    """
    error = norm = 0.0
    for got, wanted in zip(latents, exact_latents, strict=True):
        wide = wanted.double().cpu()
        error += float((got.double().cpu() - wide).square().sum())
        norm += float(wide.square().sum())
    found = Fidelity(
        reference=reference, shots=shots, latents_rel_l2=_finite(math.sqrt(error / norm))
    )
    if not frames:
        return found
    squares = total = worst = 0.0
    pixels = 0
    for got, wanted in zip(frames, exact_frames, strict=True):
        apart = _grey(got).sub_(_grey(wanted)).abs_()
        squares += float(apart.square().sum())
        total += float(apart.sum())
        worst = max(worst, float(apart.max()))
        pixels += apart.numel()
    rms = math.sqrt(squares / pixels)
    return Fidelity(
        reference=reference,
        shots=shots,
        latents_rel_l2=found.latents_rel_l2,
        frames=sum(math.prod(chunk.shape[:-3]) for chunk in frames),
        frames_psnr_db=_psnr_db(rms),
        frames_mean_grey=round(_finite(total / pixels), 4),
        frames_max_grey=round(_finite(worst), 2),
    )


def _psnr_db(rms_grey: float) -> float:
    if not math.isfinite(rms_grey):
        return 0.0
    # Equal frames have no finite ratio; 999 stands for it, since JSON has no infinity.
    return round(20 * math.log10(_GREY_LEVELS / rms_grey), 2) if rms_grey > 0 else 999.0


def _grey(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] on the scale of 8-bit frames, not rounded."""
    return pixels.to(torch.float64).cpu().clamp(-1, 1).add_(1).mul_(_GREY_LEVELS / 2)


def _finite(value: float) -> float:
    """Replace what is not finite by 1e9, further than any real distance: JSON has no NaN."""
    return value if math.isfinite(value) else 1e9
