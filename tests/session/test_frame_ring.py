"""The memory of a shot's frames against a dictionary of copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shotstream_rt.film.frame_ring import FrameRing


def frame(number: int) -> Tensor:
    return torch.full((3, 2, 4), float(number))


def test_the_newest_frames_and_those_set_aside_stay_what_they_were() -> None:
    ring = FrameRing(frame(0)[None], 5, spare_frames=3)
    kept: dict[int, Tensor] = {}
    for number in range(40):
        if number >= 5:
            kept.pop(number - 5 - 3, None)
            kept[number - 5] = ring.set_aside(number - 5, kept[number - 5])
        kept[number] = ring.put(number, frame(number))
        assert {n: float(pixels.mean()) for n, pixels in kept.items()} == {n: n for n in kept}
        assert len(kept) == min(number + 1, 8)


def test_a_frame_that_is_set_aside_once_more_stays_where_it_is() -> None:
    ring = FrameRing(frame(0)[None], 2, spare_frames=2)
    aside = ring.set_aside(0, ring.put(0, frame(7)))
    again = ring.set_aside(0, aside)
    assert again.data_ptr() == aside.data_ptr() and torch.equal(again, frame(7))


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (torch.zeros(9, 3, 2, 4), True),
        (torch.zeros(1, 3, 4, 4), False),
        (torch.zeros(1, 3, 2, 4, dtype=torch.bfloat16), False),
        (torch.zeros(1, 3, 2, 4, device="meta"), False),
    ],
    ids=["more frames", "another size", "another type", "another device"],
)
def test_it_tells_which_frames_it_is_for(other: Tensor, fits: bool) -> None:
    assert FrameRing(frame(0)[None], 5).fits(other) == fits
