"""Every form of the fp8 row kernels against formulas written here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from shotstream_rt.kernels.reference.fp8_rows import Fp8Rows

    from .conftest import Twin

Draw = Callable[..., Tensor]
EPS = 1e-6
HALF_STEP = 2.0**-4
"""Largest relative error of rounding to the nearest e4m3 number, three bits behind the point."""

SMALLEST = 2.0**-10
"""Half of the step below the smallest normal number, in units of a row's scale."""


def assert_rows(rows: Fp8Rows, wanted: Tensor, twin: Twin) -> None:
    """``wanted`` is float64 of what was quantised."""
    assert rows.values.dtype == torch.float8_e4m3fn
    assert rows.values.shape == wanted.shape
    assert rows.scale.dtype == torch.float32
    assert rows.scale.shape == (*wanted.shape[:-1], 1)
    values, scale = rows.values.cpu().double(), rows.scale.cpu().double()
    peak = wanted.abs().amax(-1, keepdim=True)
    assert bool(torch.isfinite(values * scale).all())
    assert torch.allclose(scale, peak.clamp(min=1e-12) / 448, rtol=2e-5, atol=0)
    allowed = (HALF_STEP * wanted.abs() + SMALLEST * scale) * 1.001 + 2e-5 * peak
    far = (values * scale - wanted).abs() > allowed
    interpreted = "reference" not in twin.package and twin.device.type == "cpu"
    if interpreted:
        # It truncates some numbers, and halves those that round up to the next power of two.
        assert float(far.double().mean()) < 0.06
        allowed = 8 * allowed
    assert bool(((values * scale - wanted).abs() <= allowed).all())
    # Something is lost, but no more than rounding: a row is neither kept wide nor mangled.
    error = (values * scale - wanted).norm() / wanted.norm()
    assert 0.005 < error < (0.15 if interpreted else 0.05)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()


def per_token(rows: Tensor, x: Tensor) -> Tensor:
    """Rows of frames ``[B, F, dim]`` as rows of their tokens."""
    return rows.double().repeat_interleave(x.shape[1] // rows.shape[1], 1)


@pytest.mark.parametrize("width", [16, 33, 300])
@pytest.mark.parametrize("name", ["quantise_rows", "gelu_quantise"])
def test_rows_are_scaled_to_their_peak(
    twin: Twin, dtype: torch.dtype, normal: Draw, width: int, name: str
) -> None:
    x = normal(2, 5, width, dtype=dtype) * 3
    rows = getattr(twin.load("fp8_rows"), name)(x.to(twin.device))
    wanted = x.double() if name == "quantise_rows" else gelu(x.double())
    assert_rows(rows, wanted, twin)
    # The whole range of the type is used.
    assert bool((rows.values.float().abs().amax(-1) >= 416).all())


def test_a_row_of_zeros_stays_zero(twin: Twin) -> None:
    x = torch.zeros(3, 16, device=twin.device)
    x[1] = torch.linspace(-2, 2, 16)
    rows = twin.load("fp8_rows").quantise_rows(x)
    dequantised = rows.values.cpu().float() * rows.scale.cpu()
    assert not bool(dequantised[0].any())
    assert not bool(dequantised[2].any())
    assert bool(torch.isfinite(dequantised).all())
    assert float(dequantised[1].abs().max()) == pytest.approx(2.0)


def test_gelu_of_large_numbers_is_finite(twin: Twin) -> None:
    x = torch.tensor([[-3e4, -30.0, -1.0, 0.0, 1.0, 30.0, 300.0, 3e4] * 2], device=twin.device)
    rows = twin.load("fp8_rows").gelu_quantise(x)
    dequantised = rows.values.cpu().float() * rows.scale.cpu()
    assert bool(torch.isfinite(dequantised).all())
    assert float(dequantised[0, 7]) == pytest.approx(3e4, rel=1e-6)
    assert float(dequantised[0, 0]) == 0


@pytest.mark.parametrize("shared", [False, True], ids=["per-frame", "shared"])
def test_norm(twin: Twin, dtype: torch.dtype, normal: Draw, shared: bool) -> None:
    x = normal(2, 12, 33, dtype=dtype)
    batch, frames = (1, 1) if shared else (2, 3)
    # Views into one tensor, as a table of modulations hands them out.
    factor, offset = normal(batch, frames, 2, 33, dtype=dtype).unbind(2)
    given = (tensor.to(twin.device) for tensor in (x, factor, offset))
    rows = twin.load("fp8_rows").layer_norm_quantise(*given, EPS)
    assert_rows(rows, per_token(factor, x) * norm(x.double()) + per_token(offset, x), twin)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "ungated"])
def test_residual_and_norm(twin: Twin, dtype: torch.dtype, normal: Draw, gated: bool) -> None:
    x, y = normal(2, 12, 33, dtype=dtype), normal(2, 12, 33, dtype=dtype)
    gate, factor, offset = normal(2, 3, 3, 33, dtype=dtype).unbind(2)
    given = [tensor.to(twin.device) for tensor in (x, y, gate, factor, offset)]
    total, rows = twin.load("fp8_rows").gated_residual_norm_quantise(
        given[0], given[1], given[2] if gated else None, *given[3:], EPS
    )
    wanted = x.double() + y.double() * (per_token(gate, x) if gated else 1.0)
    assert total.dtype == dtype
    assert float((total.cpu().double() - wanted).norm() / wanted.norm()) < (
        1e-6 if dtype == torch.float32 else 6e-3
    )
    # The norm reads the sum as stored: that is what a later layer reads.
    normed = norm(total.cpu().double())
    assert_rows(rows, normed * per_token(factor, x) + per_token(offset, x), twin)
