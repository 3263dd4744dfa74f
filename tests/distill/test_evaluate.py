"""Detectors and scores: the ruler itself is measured first."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from shotstream_distill.detectors import Detector, Reading, Subject, majority, name_color
from shotstream_distill.evaluate import (
    Scores,
    Share,
    contact_sheet,
    correlation_within,
    frame_change,
    held_out_stories,
    score_ceiling,
    tint_shift,
)
from shotstream_distill.world.characters import PALETTE
from shotstream_distill.world.render import render_shot
from shotstream_distill.world.story import BOTH, make_story
from shotstream_rt.errors import WeightsError


def _truthful(story_seed: int, wrong_color: bool = False) -> tuple[Scores, int]:
    story = make_story(story_seed)
    shot = story.shots[0]
    subjects = []
    for who in shot.cast:
        c = story.characters[who]
        color = "white" if wrong_color and c.color != "white" else c.color
        subjects.append(
            Subject(
                species=c.species, area=0.1, color=color, accessory=c.accessory, center_x=0.5
            )
        )  # fmt: skip
    reading = Reading(place=story.setting.place, framing=shot.framing, subjects=tuple(subjects))
    scores = Scores()
    scores.add(story, 0, [reading] * 4)
    return scores, len(shot.cast)


def test_truth_scores_full_marks() -> None:
    for seed in range(10):
        scores, cast = _truthful(seed)
        table = scores.table()
        assert table["color"]["n"] == cast
        assert all(table[name]["value"] == 1 for name in ("place", "framing", "color", "species"))


def test_a_wrong_color_counts_as_wrong() -> None:
    seeds = [s for s in range(20) if all(c.color != "white" for c in make_story(s).characters)]
    for seed in seeds:
        assert _truthful(seed, wrong_color=True)[0].color.value == 0


def test_wilson_interval_matches_known_values() -> None:
    share = Share(hits=8, trials=10)
    low, high = share.interval
    assert math.isclose(low, 0.4902, abs_tol=2e-4)
    assert math.isclose(high, 0.9433, abs_tol=2e-4)
    assert Share().interval == (0.0, 1.0)


def test_the_detector_reads_drawn_frames() -> None:
    scores = score_ceiling(held_out_stories(16, 9, 1), Detector.load(), None)
    assert scores.place.value == 1
    assert scores.framing.value > 0.9
    assert scores.color.value > 0.9
    assert scores.species.value > 0.9


def test_held_out_stories_of_two_seeds_do_not_overlap() -> None:
    first = {story.seed for story in held_out_stories(100, 0, 1)}
    second = {story.seed for story in held_out_stories(100, 1, 1)}
    assert not first & second


def test_colors_are_named_under_shading() -> None:
    for name, value in PALETTE.items():
        pixels = torch.tensor([list(value)]).repeat(50, 1) * 0.88
        assert name_color(pixels) == name


def test_majority_prefers_the_earliest_on_ties() -> None:
    assert majority(["b", "a", "a", "b"]) == "b"
    assert majority(["a", "b", "b"]) == "b"


def test_still_frames_do_not_change() -> None:
    assert frame_change(torch.ones(4, 3, 8, 8)) == 0


def test_the_sheet_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    contact_sheet([torch.rand(2, 3, 8, 10)] * 3, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (20, 24)


def test_a_missing_detector_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file"):
        Detector.load(tmp_path / "detector.safetensors")


def test_both_characters_are_scored_one_by_one() -> None:
    seed = next(s for s in range(100) if make_story(s).shots[0].who == BOTH)
    scores, cast = _truthful(seed)
    assert cast == 2
    assert scores.species.trials == 2


def test_a_tint_is_read_off_the_background() -> None:
    for seed in range(6):
        story = make_story(seed)
        plain = dataclasses.replace(story.setting, tint=(0.0, 0.0, 0.0))
        expected = render_shot(dataclasses.replace(story, setting=plain), 0, [0, 8])
        frames, _ = render_shot(story, 0, [0, 8])
        shift = tint_shift(frames, *expected)
        wanted = torch.tensor(story.setting.tint)
        assert (shift - wanted).abs().max() < 0.03


def test_differences_between_places_do_not_count() -> None:
    first = torch.tensor([[0.0, 0, 0], [1, 1, 1], [10, 10, 10], [11, 11, 11]])
    second = torch.tensor([[5.0, 5, 5], [6, 6, 6], [0, 0, 0], [1, 1, 1]])
    together = correlation_within(first, second, ["a", "a", "b", "b"])
    assert math.isclose(together, 1.0, abs_tol=1e-5)
