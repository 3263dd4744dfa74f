"""What every kernel test shares: the sets under test, the tolerances, seeded numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.kernel_set import (
    REFERENCE,
    TORCH_OPS,
    KernelSet,
    cpu_kernels,
    cpu_unavailable_reason,
)

TOLERANCES = {
    # Largest relative distance to the formula in float64, by kernel and type.
    "adaln": {torch.float32: 1e-6, torch.bfloat16: 6e-3},
    "dual_attention": {torch.float32: 2e-6, torch.bfloat16: 1e-2},
    "frame_pack": {torch.float32: 0.0, torch.bfloat16: 0.0},
    "kv_append": {torch.float32: 0.0, torch.bfloat16: 0.0},
    "linear": {torch.float32: 2e-6, torch.bfloat16: 6e-3},
    "qk_norm": {torch.float32: 1e-6, torch.bfloat16: 6e-3},
    "renoise": {torch.float32: 1e-7, torch.bfloat16: 3e-3},
    "rope_shot": {torch.float32: 1e-6, torch.bfloat16: 3e-3},
}


@pytest.fixture(params=["reference", "torch", "cpu"])
def kernels(request: pytest.FixtureRequest) -> KernelSet:
    """Each kernel set in turn."""
    if request.param == "reference":
        return REFERENCE
    if request.param == "torch":
        return TORCH_OPS
    reason = cpu_unavailable_reason()
    if reason is not None:
        pytest.skip(f"kernel set cpu: {reason}")
    return cpu_kernels()


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each type in turn."""
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Seeded normal numbers: ``normal(*shape, dtype=...)``."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return draw


@pytest.fixture
def assert_close() -> Callable[[str, Tensor, Tensor], None]:
    """``assert_close(kernel, got, wanted)`` by the table above; ``wanted`` in float64."""

    def check(kernel: str, got: Tensor, wanted: Tensor) -> None:
        assert got.shape == wanted.shape
        assert bool(torch.isfinite(got).all())
        distance = (got.double() - wanted).norm() / wanted.norm()
        assert distance <= TOLERANCES[kernel][got.dtype]

    return check
