"""Actions read off drawn silhouettes: the exact masks first, then the detector."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from shotstream_distill.evaluation.detectors import Detector
from shotstream_distill.evaluation.motion import Path, camera_rows, follow
from shotstream_distill.world.render import render_shot
from shotstream_distill.world.story import make_story
from shotstream_rt.model.nano.vocabulary import ACTIONS, FRAMINGS

_FRAMES = range(0, 81, 8)


def _path(action: str, framing: str, detector: Detector | None = None) -> Path:
    story = make_story(531_000_001)
    shot = dataclasses.replace(story.shots[0], action=action, framing=framing, who=0)
    story = dataclasses.replace(story, shots=(shot,))
    frames, masks = render_shot(story, 0, _FRAMES)
    small = F.avg_pool2d(frames, 2)
    subjects = (masks & 15)[:, ::2, ::2] > 0
    if detector is not None:
        subjects = detector.see(frames).mask(story.characters[0].species)
    times = torch.tensor(list(_FRAMES)) / 16
    return follow(subjects, times, camera_rows(small, subjects))


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("action", ACTIONS)
def test_drawn_actions_are_read(action: str, framing: str) -> None:
    assert _path(action, framing).action == action


def test_the_detector_s_silhouettes_do() -> None:
    detector = Detector.load()
    for action, framing in zip(ACTIONS, (*FRAMINGS, *FRAMINGS), strict=False):
        assert _path(action, framing, detector).action == action


def test_a_character_seen_too_rarely_does_nothing() -> None:
    masks = torch.zeros(11, 48, 80, dtype=torch.bool)
    masks[:3, 20:30, 20:30] = True
    path = follow(masks, torch.arange(11) / 2, torch.zeros(11))
    assert (path.frames, path.action) == (3, "none")


def test_one_torn_frame_does_not_turn_a_walker() -> None:
    masks = torch.zeros(11, 48, 80, dtype=torch.bool)
    for index in range(11):
        masks[index, 20:40, 10 + 4 * index : 20 + 4 * index] = True
    masks[10] = False
    masks[10, 20:40, 0:8] = True
    assert follow(masks, torch.arange(11) / 2, torch.zeros(11)).action == "walks-right"


def test_the_camera_s_height_is_found() -> None:
    torch.manual_seed(0)
    scene = F.avg_pool2d(torch.rand(1, 3, 100, 84), 5, 1)
    rows = [0, 3, 6, 10, 4]
    small = torch.cat([scene[:, :, r : r + 48, :80] for r in rows])
    found = camera_rows(small, torch.zeros(5, 48, 80, dtype=torch.bool))
    # Looking further down moves the background up; the middle frame is the reference.
    assert (found * 48).round().int().tolist() == [6, 3, 0, -4, 2]
