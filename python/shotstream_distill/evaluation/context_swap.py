"""Measures whether a shot's hidden variables follow the context it is given.

Called by the evaluation. A story's second shot is made twice: with context frames of a donor story,
and without context. No caption tells the tint of a scene or the exact hue of a coat, so the made
shot can agree with the donor's only if the context was used.

* Tint: the donor is another story in the same place at the same time of day.
* Hue: the donor is the same story with other hidden variables, its first shot showing the
  characters of the second one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

from ..world.captions import story_captions
from ..world.characters import MASK_COAT
from ..world.render import render_shot
from ..world.story import Setting, WorldStory, make_story
from .detectors import Detector
from .intervals import Estimate, resample

_DONOR_OFFSET = 50_000
"""From a held-out seed to its donor's: held out too, in nobody's evaluation of fewer stories."""

_CONTEXT = (0, 16, 32, 48, 64, 80)
_READ = (0, 4, 8)
_LEAST_COAT = 12
_PLAIN = (0.0, 0.0, 0.0)


def tint_shift(frames: Tensor, plain: Tensor, masks: Tensor) -> Tensor:
    """Median colour shift ``[3]`` against untinted frames, outside the drawn characters.

    Args:
        frames: ``[T, 3, H, W]``.
        plain: the same shot drawn without a tint, alike.
        masks: ``[T, H, W]``, 0 outside the characters.
    """
    shift = (frames - plain).movedim(1, -1)  # [T, H, W, 3]
    return shift[masks == 0].median(0).values


def coat_color(frames: Tensor, coats: Tensor) -> Tensor | None:
    """Median colour ``[3]`` of coat pixels, bool ``[T, h, w]``; ``None`` with hardly any."""
    if int(coats.sum()) < _LEAST_COAT * len(frames):
        return None
    return frames.movedim(1, -1)[coats].median(0).values


def tint_donor(story: WorldStory) -> WorldStory:
    """Return another story in the same place at the same time of day."""
    donor = make_story(story.seed + _DONOR_OFFSET, len(story.shots))
    return dataclasses.replace(donor, setting=_there(donor, story))


def _there(donor: WorldStory, story: WorldStory) -> Setting:
    """The donor's hidden setting where and when the story plays."""
    told = story.setting
    return dataclasses.replace(donor.setting, place=told.place, time=told.time)


def _drawn(
    story: WorldStory, scene: Setting, tint: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """Draw the story's second shot in a scene of some tint: frames and masks."""
    setting = dataclasses.replace(scene, tint=tint)
    return render_shot(dataclasses.replace(story, setting=setting), 1, _READ)


def hue_donor(story: WorldStory) -> WorldStory:
    """Return the same story with other hidden variables; its first shot has the second's cast."""
    other = make_story(story.seed + _DONOR_OFFSET)
    people = tuple(
        dataclasses.replace(mine, hue=its.hue, size=its.size, belly=its.belly, eye=its.eye)
        for mine, its in zip(story.characters, other.characters, strict=True)
    )
    cast = dataclasses.replace(story.shots[0], who=story.shots[1].who, framing="medium-shot")
    return dataclasses.replace(
        story,
        characters=(people[0], people[1]),
        setting=_there(other, story),
        shots=(cast, *story.shots[1:]),
    )


class ContextSwap:
    """Makes the swapped shots of one model.

    Args:
        model: as for ``Session.open``.
        detector: finds coats.
        profile: of the runtime.
        dtype: likewise; ``None`` for its default.
    """

    def __init__(
        self, model: str | Path, detector: Detector, profile: str = "exact",
        dtype: str | None = None,
    ) -> None:  # fmt: skip
        self._model = Model.open(model, device="cpu", profile=profile, dtype=dtype)
        self._pipeline = self._model.new_pipeline()
        self._detector = detector

    def close(self) -> None:
        """Free the model."""
        self._pipeline.close()
        self._model.close()

    @torch.inference_mode()
    def _make(
        self, donor: WorldStory, story: WorldStory, number: int, *, blind: bool = False
    ) -> Tensor:
        """Return frames ``[3, 3, H, W]`` of the second shot's first chunk."""
        pipeline, codec = self._pipeline, self._model.codec
        shown, _ = render_shot(donor, 0, _CONTEXT)
        context = codec.encode_frames(shown * 2 - 1)[None]
        captions = [f"{story_captions(s)[0]}shot{i}:{story_captions(s)[1][i]}"
                    for i, s in enumerate((donor, story))]  # fmt: skip
        embedded, lengths = self._model.text.encode(captions)
        rows = CaptionSet(embeddings=embedded, lengths=tuple(lengths)).checked()
        flags = [0] * len(_CONTEXT)
        if blind:
            pipeline.begin_shot(ShotInputs(0, context * 0, flags, rows.select([1]), 1))
        else:
            pipeline.begin_shot(ShotInputs(1, context, flags, rows, 1))
        made = codec.decode_full(pipeline.run_chunk(0, PhiloxNoise(number)))
        return made[0][list(_READ)] / 2 + 0.5

    def measure(self, story: WorldStory, number: int) -> dict[str, Any]:
        """Swap one story's context; returns plain JSON types (see ``swap_estimates``).

        Args:
            story: of at least two shots.
            number: noise seed.

        Cost:
            Three chunks and their context passes, about 0.6 s on one CPU core.
        """
        donor = tint_donor(story)
        # The same shot in the donor's scene without its tint: what is left is the tint.
        scene = donor.setting
        expected = _drawn(story, scene, _PLAIN)
        blind = self._make(donor, story, number, blind=True)
        given = self._make(donor, story, number)
        record: dict[str, Any] = {
            "place": f"{story.setting.place} {story.setting.time}",
            "tint": {
                "made": tint_shift(given, *expected).tolist(),
                "blind": tint_shift(blind, *expected).tolist(),
                # As it is visible: evening light dims a tint like everything else.
                "given": tint_shift(_drawn(story, scene, scene.tint)[0], *expected).tolist(),
                "own": tint_shift(_drawn(story, scene, story.setting.tint)[0], *expected).tolist(),
            },
        }
        hue = self._hue(story, number, blind)
        if hue is not None:
            record["hue"] = hue
        return record

    def _hue(self, story: WorldStory, number: int, blind: Tensor) -> dict[str, Any] | None:
        donor = hue_donor(story)
        who = story.shots[1].cast[0]
        character = story.characters[who]
        plain = dataclasses.replace(character, hue=_PLAIN)
        people = [plain if i == who else c for i, c in enumerate(story.characters)]
        true_frames, masks = render_shot(
            dataclasses.replace(story, characters=(people[0], people[1])), 1, _READ
        )
        label = masks & 15
        coats = ((masks & MASK_COAT) > 0) & (label > 0) & ((label.int() - 1) % 2 == who)
        expected = coat_color(true_frames, coats)
        found = []
        for frames in (self._make(donor, story, number), blind):
            sight = self._detector.see(frames)
            found.append(coat_color(sight.small, sight.mask(character.species) & sight.marks[:, 0]))
        if expected is None or found[0] is None or found[1] is None:
            return None
        return {
            "color": character.color,
            "made": (found[0] - expected).tolist(),
            "blind": (found[1] - expected).tolist(),
            "given": list(donor.characters[who].hue),
            "own": list(character.hue),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapUse:
    """Correlations of what was made with what the context showed, 95 % intervals over stories.

    Attributes:
        given: with the donor's, should be high.
        own: with the story's own, which the donor's context does not show, should be near 0.
        absent: of the shot without context with the donor's, should be near 0.
    """

    given: Estimate
    own: Estimate
    absent: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the figures, ``n``, and intervals under ``intervals``."""
        parts = {"given": self.given, "own": self.own, "absent": self.absent}
        return {
            **{name: part.value for name, part in parts.items()},
            "n": self.given.n,
            "intervals": {name: [part.low, part.high] for name, part in parts.items()},
        }


def correlation_within(first: Tensor, second: Tensor, groups: Tensor, rows: Tensor) -> float:
    """Correlation over stories and colour channels, each group's mean taken out.

    Args:
        first: ``[stories, 3]``.
        second: alike.
        groups: int64 ``[stories]``; a story that is alone in its group counts for nothing.
        rows: int64, the stories that are looked at, with repetitions.
    """
    group = groups[rows]
    member = torch.zeros(int(groups.max()) + 1, len(rows)).double()
    member[group, torch.arange(len(rows))] = 1.0
    share = member / member.sum(1, keepdim=True).clamp(min=1)
    a, b = (
        (values - (share @ values)[group]).flatten()
        for values in (first[rows].double(), second[rows].double())
    )
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else float("nan")


def swap_estimates(records: Sequence[Mapping[str, Any]], kind: str) -> SwapUse | None:
    """Correlate over stories.

    Args:
        records: of ``ContextSwap.measure``.
        kind: ``tint`` (means of places at their times taken out) or ``hue`` (coat colours' means
            taken out).

    Returns:
        ``None`` with fewer than eight stories: nothing can be said then.
    """
    kept = [(r[kind], r["place"]) for r in records if kind in r]
    if len(kept) < 8:
        return None
    groups = [part.get("color", place) for part, place in kept]
    names = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    index = torch.tensor([names[name] for name in groups])
    columns = {
        name: torch.tensor([part[name] for part, _ in kept])
        for name in ("made", "blind", "given", "own")
    }

    def estimate(first: str, second: str) -> Estimate:
        return resample(
            len(kept),
            lambda rows: correlation_within(columns[first], columns[second], index, rows),
            n=3 * len(kept),
        )  # fmt: skip

    return SwapUse(
        given=estimate("made", "given"),
        own=estimate("made", "own"),
        absent=estimate("blind", "given"),
    )
