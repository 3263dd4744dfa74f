"""The boundary detector on drawn films."""

from __future__ import annotations

import torch

from shotstream_distill.detectors import Detector
from shotstream_distill.metrics.cuts import CutCount, candidates, find_cuts
from shotstream_distill.metrics.film import draw_film, floats
from shotstream_distill.world.story import make_story


def test_every_cut_of_a_drawn_film_and_no_other_is_found() -> None:
    detector = Detector.load()
    for seed in (511_000_001, 511_000_007):
        film = floats(draw_film(make_story(seed, 3))).flatten(0, 1)
        assert find_cuts(film, detector) == [81, 162]


def test_a_turning_dancer_is_no_cut() -> None:
    story = make_story(511_000_000, 5)
    detector = Detector.load()
    dancing = next(i for i, shot in enumerate(story.shots) if shot.action == "dances")
    film = floats(draw_film(story))[dancing]
    assert find_cuts(film, detector) == []


def test_regular_large_changes_are_no_candidates() -> None:
    changes = torch.full((80,), 0.01)
    changes[::10] = 0.1
    assert candidates(changes) == []
    changes[35] = 0.3
    assert candidates(changes) == [36]


def test_cuts_are_matched_once_and_nearby() -> None:
    count = CutCount.compare([80, 82, 200], [81, 162])
    assert (count.hits, count.missed, count.false) == (1, 1, 2)
    assert CutCount.compare([81, 163], [81, 162]).exact
