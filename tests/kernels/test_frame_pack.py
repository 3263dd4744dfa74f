from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference.frame_pack import frame_pack


@pytest.mark.parametrize("frames,height,width", [(1, 1, 1), (3, 5, 7)])
def test_matches_the_formula(
    normal: Callable[..., Tensor], frames: int, height: int, width: int
) -> None:
    pixels = normal(frames, 3, height, width)
    packed = frame_pack(pixels)
    assert packed.dtype == torch.uint8
    assert packed.shape == (frames, height, width, 3)
    assert packed.is_contiguous()
    for frame in range(frames):
        for row in range(height):
            for column in range(width):
                for channel in range(3):
                    unit = float(pixels[frame, channel, row, column]) / 2 + 0.5
                    wanted = math.floor(255 * min(1.0, max(0.0, unit)))
                    # A product that float32 rounds up to an integer may come out one higher.
                    assert int(packed[frame, row, column, channel]) - wanted in (0, 1)


def test_truncates_and_clamps() -> None:
    levels = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 5.0])
    pixels = levels.view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert frame_pack(pixels)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_bfloat16_is_packed_in_float32() -> None:
    pixels = torch.linspace(-1, 1, 99, dtype=torch.bfloat16).view(1, 1, 9, 11).expand(1, 3, 9, 11)
    assert torch.equal(frame_pack(pixels), frame_pack(pixels.float()))
