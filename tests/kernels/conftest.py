"""What every kernel test shares: the sets under test, the tolerances, seeded numbers."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.gpu.fp8_support import row_scales_unavailable_reason
from shotstream_rt.kernels.sets.cpu_set import cpu_kernels, cpu_unavailable_reason
from shotstream_rt.kernels.sets.kernel_set import (
    REFERENCE,
    TORCH_OPS,
    KernelSet,
    triton_kernels,
    triton_unavailable_reason,
)

TOLERANCES = {
    # Largest relative distance to the formula in float64, by kernel and type.
    "adaln": {torch.float32: 1e-6, torch.bfloat16: 6e-3},
    "dual_attention": {torch.float32: 2e-6, torch.bfloat16: 1e-2},
    "frame_pack": {torch.float32: 0.0, torch.bfloat16: 0.0},
    "kv_append": {torch.float32: 0.0, torch.bfloat16: 0.0},
    "linear": {torch.float32: 2e-6, torch.bfloat16: 6e-3},
    "qk_norm": {torch.float32: 1e-6, torch.bfloat16: 6e-3},
    "qkv_append": {torch.float32: 2e-6, torch.bfloat16: 8e-3},
    "renoise": {torch.float32: 1e-7, torch.bfloat16: 3e-3},
    "rms_silu": {torch.float32: 1e-6, torch.bfloat16: 8e-3},
    "wave_linear": {torch.float32: 2e-6, torch.bfloat16: 6e-3},
    # The Triton interpreter truncates to bfloat16: twice the error of rounding.
    "rope_shot": {torch.float32: 1e-6, torch.bfloat16: 4e-3},
}


INTERPRETED = pytest.param("cpu", marks=pytest.mark.interpret, id="interpreted")
COMPILED = pytest.param("cuda", marks=pytest.mark.gpu, id="cuda")


def require_triton(device: str) -> None:
    """Skip where Triton kernels do not take tensors of this device."""
    reason = triton_unavailable_reason()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if reason is None and interpreted != (device == "cpu"):
        reason = f"with TRITON_INTERPRET={int(interpreted)} its kernels run elsewhere"
    if reason is not None:
        pytest.skip(f"kernel set triton on {device}: {reason}")


@pytest.fixture(params=[INTERPRETED, COMPILED])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    """Each place where Triton kernels run."""
    require_triton(request.param)
    return torch.device(request.param)


@dataclass(frozen=True, slots=True)
class Twin:
    """One of the forms of every kernel, and where it takes its tensors."""

    package: str
    device: torch.device

    def load(self, kernel: str) -> ModuleType:
        if kernel == "fp8_linear" and not self.package.endswith("reference"):
            reason = row_scales_unavailable_reason(self.device)
            if reason is not None:
                pytest.skip(reason)
        return importlib.import_module(f"{self.package}.{kernel}")


@pytest.fixture(params=["reference", INTERPRETED, COMPILED])
def twin(request: pytest.FixtureRequest) -> Twin:
    """The reference twin and the Triton one, for kernels that no ``KernelSet`` names."""
    if request.param == "reference":
        return Twin("shotstream_rt.kernels.reference", torch.device("cpu"))
    require_triton(request.param)
    return Twin("shotstream_rt.kernels.gpu", torch.device(request.param))


@pytest.fixture(
    params=[
        "reference",
        "torch",
        "cpu",
        pytest.param("triton-cpu", marks=pytest.mark.interpret, id="triton-interpreted"),
        pytest.param("triton-cuda", marks=pytest.mark.gpu, id="triton-cuda"),
    ]
)
def kernels(request: pytest.FixtureRequest) -> KernelSet:
    """Each kernel set in turn, for tensors on the host."""
    name, _, device = request.param.partition("-")
    if name == "reference":
        return REFERENCE
    if name == "torch":
        return TORCH_OPS
    if name == "triton":
        require_triton(device)
        return triton_kernels() if device == "cpu" else _fed_from_host(triton_kernels(), device)
    reason = cpu_unavailable_reason()
    if reason is not None:
        pytest.skip(f"kernel set cpu: {reason}")
    # That set is made for a type and a width of heads: those of the test.
    given = request.node.callspec.params
    return cpu_kernels(given.get("dtype", torch.float32), given.get("width", 16))


def _fed_from_host(kernels: KernelSet, device: str) -> KernelSet:
    """The same set: arguments are sent to the device, results come back."""

    def pure(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            made = kernel(*(a.to(device) if isinstance(a, Tensor) else a for a in args))
            return tuple(x.cpu() for x in made) if isinstance(made, tuple) else made.cpu()

        return run

    names = ("layer_norm", "gated_residual", "gated_residual_norm", "head_norm", "rms_norm",
             "rotate", "attention", "cross_attention")  # fmt: skip
    return dataclasses.replace(kernels, **{name: pure(getattr(kernels, name)) for name in names})


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
        got = got.cpu()
        assert got.shape == wanted.shape
        assert bool(torch.isfinite(got).all())
        distance = (got.double() - wanted).norm() / wanted.norm()
        assert distance <= TOLERANCES[kernel][got.dtype]

    return check
