"""Measures one film: facts, actions, consistency, cuts, quality, dynamics.

Called by the evaluation, in as many processes as it has jobs. Definitions are in
docs/evaluation.md; nothing here knows where the film came from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.vocabulary import COLORS, SPECIES

from ..world.render import FRAME_RATE_HZ, SHOT_FRAMES, render_shot
from ..world.story import Shot, WorldStory
from .cuts import CutCount, find_cuts
from .detectors import Detector, Reading, Sight, mask_center
from .facts import KEY_FRAMES, ShotFacts, read_facts
from .film import floats
from .identity import IdentitySpace
from .motion import camera_rows, follow
from .records import FilmRecord, ShotRecord

READ_STRIDE = 4
"""Every fourth frame is segmented."""

_READ = tuple(range(0, SHOT_FRAMES, READ_STRIDE))
_KEY_ROWS = tuple(_READ.index(frame) for frame in KEY_FRAMES)
_EVEN = tuple(range(0, SHOT_FRAMES, 2))
_KEY_EVEN = [_EVEN.index(frame) for frame in KEY_FRAMES]
_TINY = 1e-4
_BUSIEST = 0.95
DYNAMIC_LIMIT = 0.11
"""Change of the busiest 5 % of pixels in 0.25 s from which a shot counts as dynamic."""


def frame_change(frames: Tensor) -> float:
    """Mean absolute change between consecutive frames ``[T, 3, H, W]`` in [0, 1]."""
    return float((frames[1:] - frames[:-1]).abs().mean())


def sharpness(frames: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels of ``[T, 3, H, W]``."""
    across = (frames[..., 1:] - frames[..., :-1]).abs().mean()
    down = (frames[..., 1:, :] - frames[..., :-1, :]).abs().mean()
    return float(across + down) / 2


def busy_change(sight: Sight) -> float:
    """Mean over consecutive frames read of the change that 5 % of their pixels exceed."""
    change = (sight.small[1:] - sight.small[:-1]).abs().mean(1).flatten(1)
    return float(change.quantile(_BUSIEST, dim=1).mean())


def pairwise(vectors: Sequence[Tensor | None]) -> list[float]:
    """Cosines of all pairs of unit vectors; a missing one is like nothing (0), two give no pair."""
    return [
        float(a @ b) if a is not None and b is not None else 0.0
        for a, b in combinations(vectors, 2)
        if a is not None or b is not None
    ]


def mean_vector(vectors: Sequence[Tensor | None]) -> Tensor | None:
    """Return the direction of the mean of those that are there."""
    there = [v for v in vectors if v is not None]
    return F.normalize(torch.stack(there).mean(0), dim=0) if there else None


def meaning(sight: Sight, readings: Sequence[Reading]) -> Tensor:
    """Return what a shot is about as a unit vector: place, kinds present, colours present."""
    kinds, colors = torch.zeros(len(SPECIES)), torch.zeros(len(COLORS))
    for reading in readings:
        for subject in reading.subjects[:2]:
            kinds[SPECIES.index(subject.species)] += 1 / len(readings)
            colors[COLORS.index(subject.color)] += 1 / len(readings)
    return F.normalize(torch.cat((sight.places.mean(0), kinds, colors)), dim=0)


def position_error(story: WorldStory, shot: Shot, masks: Tensor, sight: Sight) -> float | None:
    """Mean distance between where characters are and where they are seen, in % of the width.

    Args:
        story: whose shot this is.
        shot: tells who is there.
        masks: uint8 ``[4, 96, 160]`` of ``render_shot`` at the key frames.
        sight: of the frames read, which show just that.

    Returns:
        ``None`` when nobody is both there and seen.
    """
    distances = []
    # The segmenter was taught these pixels of every four.
    labels = masks[:, 1::2, 1::2] & 15
    for row, label in zip(_KEY_ROWS, labels, strict=True):
        for who in shot.cast:
            species = SPECIES.index(story.characters[who].species)
            there, seen = label == 1 + 2 * species + who, sight.classes[row] == 1 + species
            if bool(there.any()) and bool(seen.any()):
                distances.append(100 * float((mask_center(there) - mask_center(seen)).norm()))
    return sum(distances) / len(distances) if distances else None


class Judge:
    """Everything that reads films, loaded once.

    Args:
        codec_file: the codec whose latents the latent figures are of.
        detector: reads frames; default: the shipped one.
        space: compares identities; default: the shipped one.
    """

    def __init__(
        self, codec_file: Path, detector: Detector | None = None,
        space: IdentitySpace | None = None,
    ) -> None:  # fmt: skip
        self.detector = detector or Detector.load()
        self._space = space or IdentitySpace.load()
        self._codec = NanoCodec.load(codec_file)

    @torch.inference_mode()
    def judge(
        self, story: WorldStory, film: Tensor, made_s: float = 0.0, *, true_pictures: bool = False
    ) -> FilmRecord:
        """Measure a film.

        Args:
            story: what was asked for.
            film: uint8 ``[shots, 81, 3, 96, 160]``.
            made_s: kept in the record.
            true_pictures: the film shows characters where the renderer's masks have them, so the
                detector's positions can be compared with those.

        Cost:
            About 0.4 s a shot on one CPU core.
        """
        begun = time.perf_counter()
        shots, people, scenes, meanings = [], [], [], []
        for index in range(len(story.shots)):
            frames = floats(film[index])
            sight = self.detector.see(frames[::READ_STRIDE])
            readings = self.detector.readings(sight, _KEY_ROWS)
            facts = read_facts(story, index, readings)
            found = self._vectors(story, story.shots[index], sight)
            backdrops = [self._space.scene_vector(sight, row) for row in _KEY_ROWS]
            scene = pairwise(backdrops)
            shots.append(
                ShotRecord(
                    facts=facts,
                    asked_action=story.shots[index].action,
                    actions=self._actions(story, facts, sight),
                    figures={
                        **self._quality(story, index, frames, sight, true_pictures),
                        # A character that is never seen is not consistent; a background that is
                        # never seen tells nothing.
                        "intra_subject": _mean([v for c in found.values() for v in pairwise(c)]),
                        **({"intra_background": _mean(scene)} if scene else {}),
                    },
                )
            )
            people.append({who: mean_vector(v) for who, v in found.items()})
            scenes.append(mean_vector(backdrops))
            meanings.append(meaning(sight, readings))
        wanted = [SHOT_FRAMES * index for index in range(1, len(story.shots))]
        cuts = CutCount.compare(find_cuts(floats(film.flatten(0, 1)), self.detector), wanted)
        pairs: dict[str, list[float]] = {"subject": [], "background": [], "semantic": []}
        for a, b in combinations(range(len(shots)), 2):
            pairs["semantic"].append(float(meanings[a] @ meanings[b]))
            pairs["background"] += pairwise([scenes[a], scenes[b]])
            for who in people[a].keys() & people[b].keys():
                pairs["subject"] += pairwise([people[a][who], people[b][who]]) or [0.0]
        return FilmRecord(
            seed=story.seed, shots=tuple(shots), pairs=pairs, cuts=cuts, made_s=made_s,
            judged_s=time.perf_counter() - begun,
        )  # fmt: skip

    def _vectors(
        self, story: WorldStory, shot: Shot, sight: Sight
    ) -> dict[int, list[Tensor | None]]:
        return {
            who: [
                self._space.subject_vector(sight, row, story.characters[who].species)
                for row in _KEY_ROWS
            ]
            for who in shot.cast
        }

    def _actions(self, story: WorldStory, facts: ShotFacts, sight: Sight) -> tuple[str, ...]:
        times = torch.tensor(_READ) / FRAME_RATE_HZ
        camera = camera_rows(sight.small, sight.classes > 0)
        actions = []
        for character in facts.characters:
            if character.seen_species == "none":
                actions.append("none")
                continue
            mask = sight.mask(character.seen_species)
            actions.append(follow(mask, times, camera).action)
        return tuple(actions)

    def _quality(
        self, story: WorldStory, index: int, frames: Tensor, sight: Sight, true_pictures: bool
    ) -> dict[str, float]:
        drawn, masks = render_shot(story, index, _EVEN)
        keys, drawn_keys = frames[list(KEY_FRAMES)], drawn[_KEY_EVEN]
        latents, drawn_latents = (
            self._codec.encode_frames(pictures * 2 - 1) for pictures in (keys, drawn_keys)
        )
        there, drawn_area = sight.classes > 0, float((masks > 0).float().mean())
        busy = busy_change(sight)
        small = F.avg_pool2d(drawn[:: READ_STRIDE // 2], 2)
        every = (small[1:] - small[:-1]).abs().mean(1).flatten(1)
        drawn_busy = float(every.quantile(_BUSIEST, dim=1).mean())
        error = (
            position_error(story, story.shots[index], masks[_KEY_EVEN], sight)
            if true_pictures
            else None
        )
        return {
            **({} if error is None else {"position": error}),
            "jitter": frame_change(frames[::2]) / max(frame_change(drawn), _TINY),
            "sharpness": sharpness(keys) / max(sharpness(drawn_keys), _TINY),
            "clarity": float(sight.certainty[there].mean()) if bool(there.any()) else 0.0,
            "latent_std": float(latents.std() / drawn_latents.std()),
            "subject_area": float(there.float().mean()) / max(drawn_area, _TINY),
            "busy": busy,
            "drawn_busy": drawn_busy,
        }


def _mean(values: Sequence[float]) -> float:
    """Mean, 0 without any."""
    return sum(values) / len(values) if values else 0.0
