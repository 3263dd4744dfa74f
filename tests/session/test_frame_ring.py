"""The memory of a shot's frames against a dictionary of copies."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt.film.frame_ring import FrameRing


def frame(number: int) -> Tensor:
    return torch.full((3, 2, 4), float(number))


def put(ring: FrameRing, number: int, pixels: Tensor) -> Tensor:
    return ring.newest[number % len(ring.newest)].copy_(pixels)


def test_the_newest_frames_and_those_set_aside_stay_what_they_were() -> None:
    ring = FrameRing(frame(0)[None], 5, spare_frames=3)
    kept: dict[int, Tensor] = {}
    for number in range(40):
        if number >= 5:
            kept.pop(number - 5 - 3, None)
            kept[number - 5] = ring.set_aside(number - 5, kept[number - 5])
        kept[number] = put(ring, number, frame(number))
        assert {n: float(pixels.mean()) for n, pixels in kept.items()} == {n: n for n in kept}
        assert len(kept) == min(number + 1, 8)


def test_a_frame_that_is_set_aside_once_more_stays_where_it_is() -> None:
    ring = FrameRing(frame(0)[None], 2, spare_frames=2)
    aside = ring.set_aside(0, put(ring, 0, frame(7)))
    again = ring.set_aside(0, aside)
    assert again.data_ptr() == aside.data_ptr() and torch.equal(again, frame(7))


@pytest.mark.parametrize("begin", [0, 2, 5])
def test_filling_leaves_the_frames_before(begin: int) -> None:
    ring = FrameRing(frame(0)[None], 5)
    kept = [put(ring, number, frame(number)) for number in range(begin)]
    ring.fill(begin)
    assert [float(pixels.mean()) for pixels in kept] == list(range(begin))


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory as Linux has")
def test_its_memory_is_there_when_it_is_written_to_or_filled() -> None:
    def resident_mib() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    like = torch.ones(1, 3, 256, 1024)  # 3 MiB a frame
    put(FrameRing(like, 2), 0, like[0])
    sizes = [resident_mib()]
    ring = FrameRing(like, 32)
    sizes.append(resident_mib())
    put(ring, 0, like[0])
    sizes.append(resident_mib())
    ring.fill(1)
    sizes.append(resident_mib())
    grown = [after - before for before, after in itertools.pairwise(sizes)]
    assert grown == [pytest.approx(mib, abs=1.5) for mib in (0, 3, 93)]
