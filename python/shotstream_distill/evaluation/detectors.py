"""Reads pictures of the drawn world: place, time, framing, species, colours, accessories.

Called by the evaluation. A small segmenter, supervised by the renderer's exact masks, finds the
species per pixel; the rest is counted off the masks. ``Detector.see`` gives the raw answers of many
frames, ``Detector.read`` what single frames show. Its own ceilings on drawn frames and on codec
reconstructions are part of every report (``evaluate``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano.vocabulary import COLORS, FRAMINGS, PLACES, SPECIES, TIMES

from ..world.characters import PALETTE

DETECTOR_FILE = Path(__file__).parent / "weights" / "detector.safetensors"
_WIDTHS = (24, 40, 64)
_MIN_AREA = 0.006
_MIN_ACCESSORY = 0.04
# Coat pixels come in full colour, darkened parts and shaded parts.
_SHADES = (1.0, 0.88, 0.74)


class _Conv(nn.Sequential):
    def __init__(self, wide_in: int, wide_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(wide_in, wide_out, 3, stride, 1), nn.GroupNorm(4, wide_out), nn.SiLU()
        )


class Answers(NamedTuple):
    """What the segmenter answers about frames.

    Attributes:
        pixels: logits ``[B, 8, 48, 80]`` of background, four species; coat, hat, scarf.
        places: logits ``[B, places]``.
        framings: logits ``[B, framings]``.
        times: logits ``[B, times]``.
        features: ``[B, 64, 12, 20]`` of an inner layer.
    """

    pixels: Tensor
    places: Tensor
    framings: Tensor
    times: Tensor
    features: Tensor


class Segmenter(nn.Module):
    """U-net over half-resolution features (268 thousand parameters)."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        self.down0 = nn.Sequential(nn.Conv2d(12, a, 3, 1, 1), nn.SiLU(), _Conv(a, a))
        self.down1 = nn.Sequential(_Conv(a, b, 2), _Conv(b, b))
        self.down2 = nn.Sequential(_Conv(b, c, 2), _Conv(c, c), _Conv(c, c))
        self.down3 = nn.Sequential(_Conv(c, c, 2), _Conv(c, c))
        self.up2, self.up1, self.up0 = nn.Conv2d(c, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)
        self.mix2, self.mix1, self.mix0 = _Conv(c, c), _Conv(b, b), _Conv(a, a)
        self.out = nn.Conv2d(a, 8, 1)
        self.place = nn.Linear(c, len(PLACES))
        self.framing = nn.Linear(2 * c, len(FRAMINGS))
        self.time = nn.Linear(2 * c, len(TIMES))

    def forward(self, frames: Tensor) -> Answers:
        """Segment and classify frames ``[B, 3, 96, 160]`` in [0, 1]."""
        d0 = self.down0(F.pixel_unshuffle(frames, 2) - 0.5)
        d1 = self.down1(d0)
        d2 = self.down2(d1)
        d3 = self.down3(d2)
        u2 = self.mix2(d2 + _twice(self.up2(d3)))
        u1 = self.mix1(d1 + _twice(self.up1(u2)))
        u0 = self.mix0(d0 + _twice(self.up0(u1)))
        pooled = d3.mean((2, 3))
        both = torch.cat((pooled, d3.amax((2, 3))), 1)
        return Answers(
            pixels=self.out(u0), places=self.place(pooled), framings=self.framing(both),
            times=self.time(both), features=d2,
        )  # fmt: skip


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One character found in a frame; positions and areas as shares of the frame."""

    species: str
    area: float
    color: str
    accessory: str | None
    center_x: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sight:
    """The segmenter's answers on frames, at half resolution.

    Attributes:
        classes: int64 ``[B, 48, 80]``: 0 background, else 1 + species.
        certainty: ``[B, 48, 80]`` probability of that class.
        marks: bool ``[B, 3, 48, 80]``: coat, hat, scarf.
        places: ``[B, places]`` probabilities.
        framings: ``[B, framings]`` probabilities.
        times: ``[B, times]`` probabilities; they say nothing in a timeless place.
        features: ``[B, 64, 12, 20]`` of an inner layer.
        small: ``[B, 3, 48, 80]`` the frames, halved.
    """

    classes: Tensor
    certainty: Tensor
    marks: Tensor
    places: Tensor
    framings: Tensor
    times: Tensor
    features: Tensor
    small: Tensor

    def mask(self, species: str) -> Tensor:
        """Return where a species is, bool ``[B, 48, 80]``."""
        return self.classes == 1 + SPECIES.index(species)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a frame shows.

    Attributes:
        place: one of the world's places.
        framing: one of its framings.
        time: one of its times of day; says nothing in a timeless place.
        subjects: characters by falling area, one per species at most.
    """

    place: str
    framing: str
    time: str
    subjects: tuple[Subject, ...]


def mask_center(mask: Tensor) -> Tensor:
    """Return the centre (x, y) of a mask ``[h, w]`` with any pixels, in widths of the frame."""
    center: Tensor = mask.nonzero().float().mean(0).flip(0) / mask.shape[1]
    return center


def name_color(pixels: Tensor) -> str:
    """Let coat pixels ``[n, 3]`` vote for a palette colour."""
    palette = torch.tensor([list(PALETTE[c]) for c in COLORS])
    shaded = torch.cat([palette * shade for shade in _SHADES])
    distance = (pixels[:, None] - shaded).square().sum(-1)
    nearest, index = distance.min(1)
    votes = torch.zeros(len(COLORS)).index_add_(0, index % len(COLORS), torch.exp(-nearest / 0.02))
    return COLORS[int(votes.argmax())]


class Detector:
    """The segmenter and what is counted off its masks."""

    def __init__(self, net: Segmenter) -> None:
        self._net = net.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path = DETECTOR_FILE) -> Detector:
        """Read the detector shipped with this package, or another.

        Raises:
            WeightsError: the file is missing or does not fit.
        """
        if not path.is_file():
            raise WeightsError(f"detector: no file {path}; reinstall the package")
        net = Segmenter()
        try:
            net.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
        except RuntimeError as error:
            raise WeightsError(f"detector: {path} does not fit this version: {error}") from error
        return cls(net)

    @torch.inference_mode()
    def see(self, frames: Tensor) -> Sight:
        """Segment frames ``[B, 3, 96, 160]`` in [0, 1]."""
        answers = self._net(frames)
        certainty, classes = answers.pixels[:, :5].softmax(1).max(1)
        return Sight(
            classes=classes,
            certainty=certainty,
            marks=answers.pixels[:, 5:] > 0,
            places=answers.places.softmax(-1),
            framings=answers.framings.softmax(-1),
            times=answers.times.softmax(-1),
            features=answers.features,
            small=F.avg_pool2d(frames, 2),
        )

    def read(self, frames: Tensor) -> list[Reading]:
        """Read frames ``[B, 3, 96, 160]`` in [0, 1]."""
        return self.readings(self.see(frames), range(len(frames)))

    def readings(self, sight: Sight, rows: Iterable[int]) -> list[Reading]:
        """Read some rows of what was seen."""
        return [
            Reading(
                place=PLACES[int(sight.places[row].argmax())],
                framing=FRAMINGS[int(sight.framings[row].argmax())],
                time=TIMES[int(sight.times[row].argmax())],
                subjects=self._subjects(sight.classes[row], sight.marks[row], sight.small[row]),
            )
            for row in rows
        ]

    def _subjects(self, found: Tensor, marks: Tensor, frame: Tensor) -> tuple[Subject, ...]:
        subjects = []
        for number, species in enumerate(SPECIES, start=1):
            mask = found == number
            area = float(mask.float().mean())
            if area < _MIN_AREA:
                continue
            coat = mask & marks[0]
            pixels = frame[:, coat if int(coat.sum()) > 12 else mask].T
            hat, scarf = (float((mark & mask).float().sum() / mask.sum()) for mark in marks[1:])
            accessory = None
            if max(hat, scarf) > _MIN_ACCESSORY:
                accessory = "hat" if hat >= scarf else "scarf"
            subjects.append(
                Subject(
                    species=species, area=area, color=name_color(pixels[:600]),
                    accessory=accessory,
                    center_x=float(mask_center(mask)[0]),
                )
            )  # fmt: skip
        return tuple(sorted(subjects, key=lambda s: -s.area))


def majority(values: Sequence[str]) -> str:
    """Return the most frequent value, the earliest on ties."""
    return max(values, key=lambda v: (values.count(v), -values.index(v)))
