from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference.renoise import renoise, to_flow, to_x0

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]
SHAPE = (1, 3, 5, 2, 7)


@pytest.mark.parametrize("sigma", [1.0, 0.7375886, 0.007944])
def test_x0_is_formed_in_float64_and_rounded_once(
    dtype: torch.dtype, normal: Draw, sigma: float
) -> None:
    x_t, flow = normal(*SHAPE, dtype=dtype), normal(*SHAPE, dtype=dtype)
    exact = x_t.double().numpy() - sigma * flow.double().numpy()
    got = to_x0(x_t, flow, sigma)
    assert got.dtype == dtype
    assert torch.equal(got, torch.from_numpy(exact).to(dtype))


@pytest.mark.parametrize("sigma", [1.0, 0.7375886, 0.007944])
def test_renoise_mixes_in_float32(
    dtype: torch.dtype, normal: Draw, assert_close: Check, sigma: float
) -> None:
    x0, noise = normal(*SHAPE, dtype=dtype), normal(*SHAPE, dtype=dtype)
    level = np.float32(sigma)
    wanted = (1 - level) * x0.double() + float(level) * noise.double()
    got = renoise(x0, noise, sigma)
    assert got.dtype == dtype
    assert_close("renoise", got, wanted)


def test_flow_and_x0_are_inverse(normal: Draw) -> None:
    x_t, flow = normal(*SHAPE), normal(*SHAPE)
    back = to_flow(x_t, to_x0(x_t, flow, 0.5), 0.5)
    assert torch.allclose(back, flow, atol=1e-6)


def test_sigma_may_be_a_tensor_per_frame(normal: Draw) -> None:
    x_t, flow = normal(*SHAPE), normal(*SHAPE)
    sigmas = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1, 1)
    got, mixed = to_x0(x_t, flow, sigmas), renoise(x_t, flow, sigmas)
    for frame, sigma in enumerate((1.0, 0.5, 0.25)):
        assert torch.equal(got[:, frame], to_x0(x_t[:, frame], flow[:, frame], sigma))
        assert torch.equal(mixed[:, frame], renoise(x_t[:, frame], flow[:, frame], sigma))


def test_level_one_is_pure_noise(dtype: torch.dtype, normal: Draw) -> None:
    x0, noise = normal(*SHAPE, dtype=dtype), normal(*SHAPE, dtype=dtype)
    assert torch.equal(renoise(x0, noise, 1.0), noise)
