from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference.rope_shot import (
    SHOT_PHASE_RAD,
    axis_pairs,
    rope_angles,
    rotation,
)
from shotstream_rt.kernels.sets.kernel_set import KernelSet

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


def naive_angle(pair: int, head_dim: int, place: tuple[int, int, int], phase: float) -> float:
    """Angle of one feature pair of a token at (temporal position, row, column)."""
    third = head_dim // 2 // 3
    first = head_dim // 2 - 2 * third
    if pair < first:
        return place[0] * 10000 ** (-pair / first) + phase
    axis, index = (1, pair - first) if pair < first + third else (2, pair - first - third)
    return place[axis] * 10000 ** (-index / third)


@pytest.mark.parametrize("head_dim", [6, 10, 64, 128])
def test_angles_of_every_pair(head_dim: int) -> None:
    positions, phases, grid = [6, 9, 3], [0.0, 1 / 6, 0.5], (2, 3)
    angles = rope_angles(positions, phases, grid, head_dim)
    token = 0
    for position, phase in zip(positions, phases, strict=True):
        for row in range(grid[0]):
            for column in range(grid[1]):
                for pair in range(head_dim // 2):
                    wanted = naive_angle(pair, head_dim, (position, row, column), phase)
                    assert math.isclose(float(angles[token, pair]), wanted, abs_tol=1e-12)
                token += 1
    assert angles.shape == (token, head_dim // 2)


@pytest.mark.parametrize("head_dim", [6, 10, 64, 128])
def test_axes_share_all_pairs(head_dim: int) -> None:
    time, height, width = axis_pairs(head_dim)
    assert time + height + width == head_dim // 2
    assert height == width <= time


@pytest.mark.parametrize("frames,grid,heads,head_dim", [(1, (1, 1), 1, 6), (3, (2, 5), 3, 10)])
def test_pairs_turn_by_their_angle(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check,
    frames: int, grid: tuple[int, int], heads: int, head_dim: int,
) -> None:  # fmt: skip
    positions, phases = list(range(4, 4 + frames)), [SHOT_PHASE_RAD * 2] * frames
    angles = rope_angles(positions, phases, grid, head_dim)
    x = normal(1, len(angles), heads, head_dim, dtype=dtype)
    wanted = torch.zeros(x.shape, dtype=torch.float64)
    for token, row in enumerate(angles.tolist()):
        for pair, angle in enumerate(row):
            a, b = x[0, token, :, 2 * pair].double(), x[0, token, :, 2 * pair + 1].double()
            wanted[0, token, :, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            wanted[0, token, :, 2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    got = kernels.rotate(x, rotation(angles))
    assert got.dtype == dtype
    assert_close("rope_shot", got, wanted)


def test_products_depend_on_distance_only(kernels: KernelSet, normal: Draw) -> None:
    q, k = normal(1, 1, 1, 32), normal(1, 1, 1, 32)

    def product(q_at: int, k_at: int) -> float:
        turned = [
            kernels.rotate(x, rotation(rope_angles([at], [0.0], (1, 1), 32)))
            for x, at in ((q, q_at), (k, k_at))
        ]
        return float((turned[0] * turned[1]).sum())

    assert math.isclose(product(9, 4), product(25, 20), abs_tol=1e-5)
    assert not math.isclose(product(9, 4), product(9, 5), abs_tol=1e-3)


def test_scaled_rotation_scales(kernels: KernelSet, normal: Draw) -> None:
    angles = rope_angles([3], [0.2], (2, 2), 12)
    x = normal(1, 4, 2, 12)
    plain, scaled = (kernels.rotate(x, rotation(angles, scale)) for scale in (1.0, 0.5))
    assert torch.allclose(scaled, plain * 0.5, atol=1e-6)
