"""Fits the identity spaces to drawn stories and their codec reconstructions.

Called by ``python -m shotstream_distill fit-identity``, once for each detector and codec.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.vocabulary import PLACES

from ..world.render import render_shot
from ..world.story import make_story
from .detectors import Detector
from .facts import KEY_FRAMES
from .identity import IdentitySpace, scene_descriptor, subject_descriptor

_log = logging.getLogger("shotstream_distill.evaluation.fit_identity")

FIRST_SEED = 520_000_000
"""Stories from here on serve the fit: neither trained on nor held out."""

_SHOTS = 3
_CLIP = 9


def _pictures(codec: NanoCodec, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield per shot its number and key frames, drawn and reconstructed."""
    story = make_story(seed, _SHOTS)
    for index in range(_SHOTS):
        drawn, _ = render_shot(story, index, KEY_FRAMES)
        yield index, drawn
        clips = [render_shot(story, index, range(f, f + _CLIP))[0] for f in KEY_FRAMES]
        with torch.inference_mode():
            latents = codec.encode_clip(torch.stack(clips).transpose(1, 2) * 2 - 1)
            made = codec.decode_full(latents)[:, -1]
        yield index, (made / 2 + 0.5).clamp(0, 1)


def fit_identity(out: Path, codec_file: Path, *, stories: int) -> dict[str, float]:
    """Fit the spaces and write them.

    Args:
        out: file to write.
        codec_file: ``codec.safetensors``.
        stories: drawn stories, at least 20; a fifth of them only judges.

    Returns:
        Mean cosines on the stories that only judge: ``subject_same`` and ``scene_same`` (one
        identity, two shots), ``subject_other`` and ``scene_other`` (two identities).

    Cost:
        About one second a story on one CPU core.
    """
    torch.set_num_threads(1)
    detector, codec = Detector.load(), NanoCodec.load(codec_file)
    subjects: list[tuple[Tensor, int, int]] = []
    scenes: list[tuple[Tensor, int, int, int]] = []
    for number in range(stories):
        story = make_story(FIRST_SEED + number, _SHOTS)
        place = PLACES.index(story.setting.place)
        for index, frames in _pictures(codec, FIRST_SEED + number):
            sight = detector.see(frames)
            for row in range(len(frames)):
                for who in story.shots[index].cast:
                    found = subject_descriptor(sight, row, story.characters[who].species)
                    if found is not None:
                        subjects.append((found, 2 * number + who, index))
                scene = scene_descriptor(sight, row)
                if scene is not None:
                    scenes.append((scene, number, index, place))
        if number % 20 == 19:
            _log.info("%d of %d stories", number + 1, stories)
    training = stories - stories // 5
    kept = [s for s in subjects if s[1] < 2 * training]
    fields = [s for s in scenes if s[1] < training]
    space = IdentitySpace.fit(
        (torch.stack([s[0] for s in kept]), torch.tensor([s[1] for s in kept])),
        (
            torch.stack([s[0] for s in fields]),
            torch.tensor([s[1] for s in fields]),
            torch.tensor([s[3] for s in fields]),
        ),
    )
    space.save(out)
    report = {}
    judged = [s for s in subjects if s[1] >= 2 * training]
    vectors = torch.stack([space.subject.embed(s[0]) for s in judged])
    places = [s for s in scenes if s[1] >= training]
    others = torch.stack([space.scene.embed(s[0], s[3]) for s in places])
    for kind, found, rows in (
        ("subject", vectors, [s[1:3] for s in judged]),
        ("scene", others, [s[1:3] for s in places]),
    ):
        owner, shot = (torch.tensor(column) for column in zip(*rows, strict=True))
        cosine = found @ found.T
        same = owner[:, None] == owner[None]
        report[f"{kind}_same"] = float(cosine[same & (shot[:, None] != shot[None])].mean())
        report[f"{kind}_other"] = float(cosine[~same].mean())
    return report
