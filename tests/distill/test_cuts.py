"""The boundary detector on drawn films."""

from __future__ import annotations

import torch

from shotstream_distill.evaluation.cuts import CutCount, candidates, differs, find_cuts
from shotstream_distill.evaluation.detectors import Detector, Sight
from shotstream_distill.evaluation.film import draw_film, floats
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


def _two_frames(boxes: list[tuple[int, int, int]], brightness: float = 0.5) -> Sight:
    """A character (species, left edge, width) in front of nothing in two frames, read exactly."""
    classes = torch.zeros(2, 48, 80, dtype=torch.int64)
    small = torch.full((2, 3, 48, 80), 0.5)
    small[1] = brightness
    for frame, (species, left, width) in enumerate(boxes):
        classes[frame, 16:36, left : left + width] = species
    nothing = torch.zeros(2, 1)
    return Sight(
        classes=classes, certainty=nothing, marks=nothing, places=nothing, framings=nothing,
        times=nothing, features=nothing, small=small,
    )  # fmt: skip


def test_what_is_another_picture() -> None:
    same = (1, 30, 10)
    assert not differs(_two_frames([same, same]))
    assert differs(_two_frames([same, (2, 30, 10)]))
    # A character misplaced by a twentieth of the frame is a mistake, not a cut.
    assert not differs(_two_frames([same, (1, 35, 10)]))
    assert differs(_two_frames([same, (1, 40, 10)]))
    assert not differs(_two_frames([same, (1, 29, 13)]))
    assert differs(_two_frames([same, (1, 27, 16)]))
    # A speck of another species is the segmenter's, not the film's.
    assert not differs(_two_frames([(2, 0, 0), (2, 0, 5)]))
    assert not differs(_two_frames([same, same], brightness=0.52))
    assert differs(_two_frames([same, same], brightness=0.55))


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
