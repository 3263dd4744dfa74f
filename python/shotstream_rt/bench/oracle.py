"""The correctness check beside every figure: the measured passes against the float32 oracle.

The oracle is backend ``eager`` with the reference kernels in float32, on the same weights (widened
to float32), plan and noise. A profile that quantises is held against the reference twins of its own
kernels: whether its arithmetic is right is one question, how far it is from ``exact`` another
(``fidelity.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import BackendUnavailableError
from shotstream_rt.kernels.fp8_set import with_fp8
from shotstream_rt.kernels.kernel_set import REFERENCE
from shotstream_rt.model.student import Student
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


def student_of(backend: StudentBackend) -> Student:
    """Return the weights a backend runs.

    Raises:
        BackendUnavailableError: it does not keep them.
    """
    student = getattr(backend, "student", None)
    if not isinstance(student, Student):
        raise BackendUnavailableError(
            f"backend {backend.info.name}: gives no weights to check against; use eager"
        )
    return student


def reference_pipeline(
    student: Student, config: StreamConfig, profile: Profile = EXACT
) -> Pipeline:
    """Return the oracle of a student of any float type, on its device, with a profile's parts."""
    with torch.device("meta"):
        wide = Student(config.model)
    state = {name: tensor.float() for name, tensor in student.state_dict().items()}
    wide.load_state_dict(state, assign=True)
    kernels = with_fp8(REFERENCE) if "fp8" in profile.kernel_parts else REFERENCE
    return Pipeline(config, EagerBackend(wide.requires_grad_(False), config, kernels))


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
