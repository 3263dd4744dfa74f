"""Trains the evaluation's detector further on freshly drawn frames.

Called by ``python -m shotstream_distill tune-detector``. Frames are blurred and made noisy the way
a student does, and a third of the batches is what a codec makes of them, so that the detector reads
generated pictures as it reads drawn ones.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.vocabulary import FRAMINGS, PLACES, TIMES

from ..codec.clips import FIRST_SEED
from ..common.module_state import ModuleState
from ..common.timed_trainer import TimedTrainer
from ..common.warm_start import warm_start
from ..common.working_dtype import working_dtype
from ..world.characters import MASK_COAT, MASK_HAT, MASK_SCARF
from ..world.render import SHOT_FRAMES, render_shot
from ..world.story import WorldStory, make_story
from .detectors import Answers, Detector, Segmenter
from .facts import fact_shares, read_facts

_log = logging.getLogger("shotstream_distill.evaluation.tune_detector")

JUDGED_SHOTS = 200
"""Unseen shots that before and after are measured on."""

_BATCH = 24
_RATE = 1e-3
_CLASS_WEIGHT = (0.5, 1.0, 1.0, 1.0, 1.0)
# Of coat, hat and scarf where they are; weighed alike, half of the scarves were missed: they are a
# few thin rows.
_MARK_WEIGHT = (1.0, 1.0, 2.5)
_TIMELESS = -1
_CODEC_SHARE = 1 / 3
_CLIP = 9
_CLIP_FRAMES = 4  # of each clip


def degrade(frames: Tensor, rng: random.Random) -> Tensor:
    """Blur or add noise at random; ``[B, 3, H, W]`` in [0, 1]."""
    draw = rng.random()
    if draw < 0.4:
        factor = 2 if draw < 0.3 else 4
        small = F.avg_pool2d(frames, factor)
        frames = F.interpolate(small, scale_factor=float(factor), mode="bilinear")
    if rng.random() < 0.5:
        frames = frames + 0.04 * torch.randn_like(frames)
    return frames


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What frames show.

    Attributes:
        masks: uint8 ``[B, 96, 160]`` of ``render_shot``.
        scenes: int64 ``[B, 3]`` place, framing and time of day, -1 in timeless places.
    """

    masks: Tensor
    scenes: Tensor

    @classmethod
    def of(cls, told: list[tuple[WorldStory, int, Tensor]]) -> Truth:
        """Gather (story, shot, masks ``[n, 96, 160]``)."""
        scenes = []
        for story, index, masks in told:
            time_of_day = story.setting.time
            row = [
                PLACES.index(story.setting.place),
                FRAMINGS.index(story.shots[index].framing),
                _TIMELESS if time_of_day is None else TIMES.index(time_of_day),
            ]
            scenes += [row] * len(masks)
        return cls(masks=torch.cat([t[2] for t in told]), scenes=torch.tensor(scenes))

    def flipped(self) -> Truth:
        """Return the truth of mirrored frames."""
        return Truth(masks=self.masks.flip(-1), scenes=self.scenes)


def _random_shot(rng: random.Random) -> tuple[WorldStory, int]:
    story = make_story(FIRST_SEED + rng.randrange(10_000_000))
    return story, rng.randrange(len(story.shots))


def draw_batch(rng: random.Random) -> tuple[Tensor, Truth]:
    """Draw frames ``[B, 3, H, W]``, each of another story."""
    pictures, told = [], []
    for _ in range(_BATCH):
        story, index = _random_shot(rng)
        picture, masks = render_shot(story, index, [rng.randrange(SHOT_FRAMES)])
        pictures.append(picture)
        told.append((story, index, masks))
    return torch.cat(pictures), Truth.of(told)


def draw_recoded(rng: random.Random, codec: NanoCodec) -> tuple[Tensor, Truth]:
    """Draw short clips and return some of their frames ``[B, 3, H, W]`` as a codec leaves them."""
    clips, told, picked = [], [], []
    for _ in range(_BATCH // _CLIP_FRAMES):
        story, index = _random_shot(rng)
        first = rng.randrange(SHOT_FRAMES - _CLIP + 1)
        clip, masks = render_shot(story, index, range(first, first + _CLIP))
        rows = sorted(rng.sample(range(_CLIP), _CLIP_FRAMES))
        clips.append(clip)
        picked.append(rows)
        told.append((story, index, masks[rows]))
    made = recode(torch.stack(clips), codec)
    frames = torch.cat([clip[rows] for clip, rows in zip(made, picked, strict=True)])
    return frames, Truth.of(told)


def recode(clips: Tensor, codec: NanoCodec) -> Tensor:
    """Send clips ``[B, 1 + 4k, 3, H, W]`` in [0, 1] through a codec."""
    made = codec.decode_full(codec.encode_clip(clips.transpose(1, 2) * 2 - 1))
    return (made / 2 + 0.5).clamp(0, 1)


def detection_loss(out: Answers, truth: Truth) -> Tensor:
    """Cross-entropies: species per pixel, marks on characters, place, framing, time of day."""
    logits = out.pixels.float()
    small = truth.masks[:, 1::2, 1::2]
    label = (small & 15).long()
    species = torch.where(label > 0, (label + 1) // 2, label)
    marks = torch.stack([(small & bit) > 0 for bit in (MASK_COAT, MASK_HAT, MASK_SCARF)], 1)
    inside = (species > 0)[:, None].float() * 2 + 0.1
    by_species = F.cross_entropy(logits[:, :5], species, weight=torch.tensor(_CLASS_WEIGHT))
    by_mark = F.binary_cross_entropy_with_logits(
        logits[:, 5:], marks.float(), weight=inside,
        pos_weight=torch.tensor(_MARK_WEIGHT).view(-1, 1, 1),
    )  # fmt: skip
    places, framings, times = truth.scenes.unbind(1)
    by_scene = (
        F.cross_entropy(out.places.float(), places)
        + F.cross_entropy(out.framings.float(), framings)
        # Over all frames: without any time of day the mean would be of nothing.
        + F.cross_entropy(out.times.float(), times, ignore_index=_TIMELESS, reduction="sum")
        / len(times)
    )
    return 2 * by_species + 3 * by_mark + 0.5 * by_scene


def score_pictures(
    net: Segmenter, shots: int, codec: NanoCodec | None = None
) -> dict[str, dict[str, float]]:
    """Score the detector on frames of unseen stories: facts with their intervals.

    Args:
        net: the detector's.
        shots: how many, one frame each.
        codec: what the frames go through; ``None`` leaves them as drawn.
    """
    facts, detector = [], Detector(net)
    for seed in range(FIRST_SEED - shots, FIRST_SEED):
        story = make_story(seed)
        clip, _ = render_shot(story, 0, range(24 - _CLIP + 1, 25) if codec else [24])
        frames = clip if codec is None else recode(clip[None], codec)[0, -1:]
        facts.append(read_facts(story, 0, detector.read(frames)))
    return {name: share.estimate().as_dict() for name, share in fact_shares(facts).items()}


def _scores(net: Segmenter, codec: NanoCodec | None) -> dict[str, dict[str, dict[str, float]]]:
    found = {"drawn": score_pictures(net, JUDGED_SHOTS)}
    if codec is not None:
        found["codec"] = score_pictures(net, JUDGED_SHOTS, codec)
    return found


class DetectorTrainer(TimedTrainer[ModuleState[Segmenter]]):
    """Training on frames that are drawn anew at every step.

    Args:
        net: the detector's network.
        codec: whose pictures a third of the batches shows; ``None`` for drawn frames alone.
        rng: draws frames and their noise.
    """

    def __init__(self, net: Segmenter, codec: NanoCodec | None, rng: random.Random) -> None:
        super().__init__(None, ModuleState(net, rate=_RATE, weight_decay=1e-3))
        self._codec = codec
        self._rng = rng

    def advance(self, progress: float) -> None:
        """Take one step; the rate falls linearly."""
        rng, state, dtype = self._rng, self.state, working_dtype()
        if self._codec is not None and rng.random() < _CODEC_SHARE:
            frames, truth = draw_recoded(rng, self._codec)
        else:
            frames, truth = draw_batch(rng)
        if rng.random() < 0.5:
            frames, truth = frames.flip(-1), truth.flipped()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            answers = state.module(degrade(frames, rng))
        loss = detection_loss(answers, truth)
        loss.backward()
        state.apply(min(1.0, (state.step + 1) / 20) * (1 - progress))
        self.note({"loss": loss})


def tune_detector(
    start: Path, out: Path, minutes: float, seed: int = 0, *, codec_file: Path | None = None
) -> dict[str, object]:
    """Train for some minutes and write the weights.

    Args:
        start: weights to start from; a head they lack begins new.
        out: file to write.
        minutes: wall time.
        seed: of frames and noise.
        codec_file: ``codec.safetensors`` whose pictures a third of the batches shows; ``None``
            trains on drawn frames alone.

    Returns:
        ``before`` and ``after``: scores on frames of unseen stories, by source: ``drawn``, and
        ``codec`` where there is one; ``steps``.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    codec = None if codec_file is None else NanoCodec.load(codec_file)
    net = Segmenter()
    # Detectors from before the world had times of day.
    warm_start(net, start, "detector", lambda name, _: name.startswith("time."))
    before = _scores(net, codec)
    _log.info("before: %s", before)
    trainer = DetectorTrainer(net.train().requires_grad_(True), codec, rng)
    trainer.train(60 * minutes)
    after = _scores(net, codec)
    save_file({name: value.bfloat16() for name, value in net.state_dict().items()}, str(out))
    return {"before": before, "after": after, "steps": trainer.state.step}
