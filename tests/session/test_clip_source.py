"""A clip is read at a film's size and rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shotstream_rt.media.source import read_clip

from .given_frames import write_clip


@pytest.mark.parametrize("rate_hz,wanted", [(16, range(8)), (32, range(0, 16, 2)), (8, None)])
def test_a_clip_is_taken_at_the_films_rate(
    rate_hz: int, wanted: range | None, tmp_path: Path
) -> None:
    levels = np.arange(16, dtype=np.uint8)[:, None, None, None] * 15
    path = write_clip(tmp_path / "a.mp4", np.broadcast_to(levels, (16, 16, 32, 3)), rate_hz)
    found = read_clip(path, (16, 32), frame_rate_hz=16, most_frames=8)
    places = [0, 1, 1, 2, 2, 3, 3, 4] if wanted is None else list(wanted)
    assert found.shape == (8, 16, 32, 3)
    assert (np.abs(found.mean((1, 2, 3)) - np.array(places) * 15) < 4).all()
