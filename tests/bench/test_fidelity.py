from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shotstream_rt.bench.fidelity import compare_fidelity
from shotstream_rt.bench.record import BenchRecord, read_record, write_record


def test_distances_by_hand() -> None:
    latents = [torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)]
    off = [latents[0] * 1.5, latents[1]]
    frames = [torch.zeros(2, 3, 4, 4), torch.full((1, 3, 4, 4), -1.0)]
    shifted = [frames[0] + 2 / 255, frames[1] - 5]  # black cannot become blacker
    found = compare_fidelity(off, latents, shifted, frames, reference="exact", shots=1)
    assert found.latents_rel_l2 == pytest.approx(0.5)
    assert found.frames == 3
    assert found.frames_mean_grey == pytest.approx(2 / 3, abs=1e-3)
    assert found.frames_max_grey == pytest.approx(1.0, abs=0.01)
    assert found.frames_psnr_db == pytest.approx(
        48.13 + 1.76, abs=0.02
    )  # two thirds are off by one


def test_equal_runs_and_runs_without_frames() -> None:
    latents, frames = [torch.ones(1, 1, 2, 2, 2)], [torch.zeros(1, 3, 4, 4)]
    same = compare_fidelity(latents, latents, frames, frames, reference="exact")
    assert (same.latents_rel_l2, same.frames_psnr_db, same.frames_mean_grey) == (0, 999, 0)
    bare = compare_fidelity(latents, latents, reference="exact")
    assert (bare.frames, bare.frames_psnr_db, bare.frames_mean_grey) == (0, None, None)


def test_what_is_no_number_is_as_far_as_can_be() -> None:
    broken, sound = [torch.full((1, 1, 2, 2, 2), torch.nan)], [torch.ones(1, 1, 2, 2, 2)]
    frames, dark = [torch.full((1, 3, 4, 4), torch.nan)], [torch.zeros(1, 3, 4, 4)]
    found = compare_fidelity(broken, sound, frames, dark, reference="exact")
    assert found.latents_rel_l2 == found.frames_mean_grey == 1e9
    assert found.frames_psnr_db == 0
    json.dumps(found.latents_rel_l2, allow_nan=False)


def test_record_keeps_it(make_record: Callable[..., BenchRecord], tmp_path: Path) -> None:
    latents = [torch.ones(1, 1, 2, 2, 2)]
    fidelity = compare_fidelity([latents[0] * 1.1], latents, reference="exact")
    record = make_record(fidelity=fidelity, roofline={"dtype": "float32", "stages": []})
    assert read_record(write_record(record, tmp_path / "record.json")) == record
