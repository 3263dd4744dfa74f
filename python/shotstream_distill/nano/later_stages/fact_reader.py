"""Reads off noisy latents what a caption asks for: who is there, in what coat, wearing what.

Called by ``train-reader`` and by the reward stage, which lets a few-step student learn from it.
The reader sees latents at every noise level up to ``MOST_NOISE``, so its gradient is that of
classifier guidance: what it wants must be seen through noise, and a faint pattern that only fools
a network is drowned by it. It shares nothing with the detector of the evaluation, which reads
pixels.

Source: classifier guidance (Dhariwal and Nichol 2021) as a reward (ReFL, DRaFT 2023).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano.vocabulary import (
    ACCESSORIES,
    COLORS,
    FRAMINGS,
    PLACES,
    SPECIES,
    TIMES,
    TOKEN_IDS,
)

from ...world.bank import Batch
from ..recipe import AUX_CLASSES

MOST_NOISE = 0.75
"""Largest noise level that the reader is trained on."""
BOTH = 2
_WIDTH, _DEEP, _HEADS = 80, 144, 4
_LEAST_AREA, _LEAST_WORN = 2.0, 0.4
_IGNORED = -100
_LOOKS = ("coat", "kind", "accessory", "worn_color")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What the frames of a batch should show; one row a frame, int64.

    Attributes:
        species: ``[N, 2]`` of a story's characters, who differ in it.
        color: ``[N, 2]`` of their coats, which differ too.
        present: float32 ``[N, 2]``: 1 seen, 0 not, negative: not to be judged.
        accessory: ``[N, 2]`` nothing, hat, scarf; ``-100``: not to be judged.
        worn_color: ``[N, 2]`` of the accessory; ``-100``: not to be judged.
        framing: ``[N]``.
        place: ``[N]``.
        time: ``[N]``; after the last of its kind: none.
    """

    species: Tensor
    color: Tensor
    present: Tensor
    accessory: Tensor
    worn_color: Tensor
    framing: Tensor
    place: Tensor
    time: Tensor

    def flat(self) -> Asked:
        """Fold the leading ``[B, frames]`` of every field into rows."""
        return Asked(
            **{f.name: getattr(self, f.name).flatten(0, 1) for f in dataclasses.fields(self)}
        )

    def repeated(self, count: int) -> Asked:
        """Ask ``count`` batches of rows for the same."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Asked(**{n: v.repeat(count, *[1] * (v.dim() - 1)) for n, v in fields.items()})


def asked(
    labels: Tensor, maps: Tensor | None, frames: int, mentioned: Tensor | None = None
) -> Asked:
    """Turn a shard's label rows into what each frame should show.

    Args:
        labels: int64 ``[B, 15]`` of ``make_bank.labels``.
        maps: ``[B, frames, 2, 3, h, w]`` of drawn frames: what is out of the picture is not
            judged. Without them everything asked for is.
        frames: of each sample.
        mentioned: bool ``[B]``: whether what is worn is known and may be judged; default: it is.

    Returns:
        Fields ``[B, frames, ...]``.
    """
    size = len(labels)
    who = labels[:, :1]
    cast = (who == BOTH) | (who == torch.arange(2))
    species, color = labels[:, 4:6], labels[:, 6:8]
    accessory, worn = labels[:, 8:10], labels[:, 10:12]
    worn = torch.where(worn < len(COLORS), worn, _IGNORED)
    known = cast if mentioned is None else cast & mentioned[:, None]
    accessory = torch.where(known, accessory, _IGNORED)
    worn = torch.where(known, worn, _IGNORED)

    def spread(value: Tensor) -> Tensor:
        return value[:, None].expand(size, frames, *value.shape[1:])

    present = spread(cast.float())
    accessory, worn = spread(accessory), spread(worn)
    if maps is not None:
        area, on = maps[:, :, :, 0].sum((-1, -2)), maps[:, :, :, 2].sum((-1, -2))
        hidden = spread(cast) & (area < _LEAST_AREA)
        present = torch.where(hidden, -1.0, present)
        unseen = hidden | ((accessory > 0) & (on < _LEAST_WORN))
        accessory = torch.where(unseen, _IGNORED, accessory)
        worn = torch.where(unseen, _IGNORED, worn)
    return Asked(
        species=spread(species),
        color=spread(color),
        present=present,
        accessory=accessory,
        worn_color=worn,
        framing=spread(labels[:, 1]),
        place=spread(labels[:, 3]),
        time=spread(labels[:, 12]),
    )


def mentioned(batch: Batch) -> Tensor:
    """Return whether a sample's caption names all that its cast wears, bool ``[B]``.

    Free captions leave some of it out: nobody can know then.
    """
    rows = torch.arange(len(batch.tokens))
    caption = batch.tokens[rows, batch.caption_index[:, -1]]
    named = torch.isin(caption, torch.tensor([TOKEN_IDS[name] for name in ACCESSORIES])).sum(1)
    who = batch.facts[:, :1]
    worn = (batch.facts[:, 8:10] > 0) & ((who == BOTH) | (who == torch.arange(2)))
    return named >= worn.sum(1)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """Logits of a reader.

    Of the characters asked about: ``[N, 2]`` presence, ``[N, 2, 8]`` presence in each coat,
    ``[N, 2, 4]`` presence as each species, ``[N, 2, k]`` worn things. Of the scene: ``[N, k]``.
    ``dense`` says of every latent cell which species and which coat colour is there,
    ``[N, 13, h, w]``.
    """

    present: Tensor
    coat: Tensor
    kind: Tensor
    accessory: Tensor
    worn_color: Tensor
    framing: Tensor
    place: Tensor
    time: Tensor
    dense: Tensor


class FactReader(nn.Module):
    """Frame by frame: latents ``[N, C, h, w]``, noise level ``[N]``, first of a shot ``[N]``.

    A question (species and coat) attends to the cells of the picture; what it finds there answers
    whether there is such a character, and what it wears. Each character is asked about as it is,
    in every coat and as every species: a network that knows which kinds and which colours there
    are, but not whose they are, answers wrong.
    """

    def __init__(self, channels: int = 16, grid: tuple[int, int] = (6, 10)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, _WIDTH, 3, padding=1)
        self.told = nn.Linear(3, _WIDTH)
        self.fine = nn.Sequential(_Residual(_WIDTH), _Residual(_WIDTH))
        self.down = nn.Conv2d(_WIDTH, _DEEP, 4, stride=2, padding=1)
        self.place_of = nn.Parameter(torch.zeros(1, _DEEP, *grid))
        self.deep = nn.Sequential(_Residual(_DEEP), _Residual(_DEEP), _Residual(_DEEP))
        self.norm = nn.LayerNorm(_DEEP)
        self.species = nn.Embedding(len(SPECIES), _DEEP)
        self.color = nn.Embedding(len(COLORS), _DEEP)
        self.query = nn.Linear(_DEEP, _DEEP)
        self.keys = nn.Linear(_DEEP, 2 * _DEEP)
        answers = 1 + 1 + len(ACCESSORIES) + len(COLORS)
        self.answer = nn.Sequential(
            nn.Linear(2 * _DEEP, 2 * _DEEP), nn.SiLU(), nn.Linear(2 * _DEEP, answers)
        )
        self.dense = nn.Conv2d(_DEEP, 4 * AUX_CLASSES, 1)
        self.scene = nn.Linear(_DEEP, len(FRAMINGS) + len(PLACES) + len(TIMES) + 1)

    def forward(
        self, x: Tensor, level: Tensor, first: Tensor, species: Tensor, color: Tensor
    ) -> Reading:
        """Read frames, and answer questions about characters ``species, color [N, 2]`` in each.

        Args:
            x: latent frames ``[N, C, h, w]``, noisy.
            level: their noise levels ``[N]``.
            first: bool ``[N]``, whether a frame is its shot's first.
            species: int64 ``[N, 2]`` of the characters asked about.
            color: int64 ``[N, 2]`` of their coats.
        """
        told = torch.stack((level, level.square(), first.float()), 1)
        cells = self.fine(self.stem(x) + self.told(told)[:, :, None, None])
        cells = self.deep(self.down(cells) + self.place_of)
        dense = F.pixel_shuffle(self.dense(cells), 2)
        cells = self.norm(cells.flatten(2).transpose(1, 2))
        rows, coats, kinds = len(x), len(COLORS), len(SPECIES)
        in_coats = self.species(species)[:, :, None] + self.color.weight
        as_kinds = self.species.weight + self.color(color)[:, :, None]
        asked_for = torch.cat((in_coats.flatten(1, 2), as_kinds.flatten(1, 2)), 1)
        query = self.query(asked_for).view(rows, -1, _HEADS, _DEEP // _HEADS).transpose(1, 2)
        keys, values = (
            part.view(rows, -1, _HEADS, _DEEP // _HEADS).transpose(1, 2)
            for part in self.keys(cells).chunk(2, -1)
        )
        found = F.scaled_dot_product_attention(query, keys, values)
        found = found.transpose(1, 2).reshape(rows, -1, _DEEP)
        answer = self.answer(torch.cat((found, asked_for), -1))
        by_coat, by_kind = (
            part.unflatten(1, (2, -1)) for part in answer.split((2 * coats, 2 * kinds), 1)
        )
        own = by_coat.take_along_dim(color[:, :, None, None], 2)[:, :, 0]
        present, accessory, worn = own.split((1, 1 + len(ACCESSORIES), coats), -1)
        framing, place, time = self.scene(cells.mean(1)).split(
            (len(FRAMINGS), len(PLACES), len(TIMES) + 1), -1
        )
        return Reading(
            present=present[..., 0], coat=by_coat[..., 0], kind=by_kind[..., 0],
            accessory=accessory, worn_color=worn, framing=framing, place=place, time=time,
            dense=dense,
        )  # fmt: skip


def answers(reading: Reading, wanted: Asked) -> dict[str, tuple[Tensor, Tensor]]:
    """Return logits ``[..., k]`` and the right answer ``[...]`` of every fact, ``-100``: unknown.

    Of characters ``[N, 2]``: coat, kind, accessory, worn_color; of the scene ``[N]``: framing,
    place, time.
    """
    seen = wanted.present > 0
    return {
        "coat": (reading.coat, torch.where(seen, wanted.color, _IGNORED)),
        "kind": (reading.kind, torch.where(seen, wanted.species, _IGNORED)),
        "accessory": (reading.accessory, wanted.accessory),
        "worn_color": (reading.worn_color, wanted.worn_color),
        "framing": (reading.framing, wanted.framing),
        "place": (reading.place, wanted.place),
        "time": (reading.time, wanted.time),
    }


def _missed(logits: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy of every answer; 0 where none is to be judged."""
    return F.cross_entropy(
        logits.flatten(0, -2), right.flatten(), ignore_index=_IGNORED, reduction="none"
    ).view(right.shape)


def _absent(reading: Reading, wanted: Asked) -> Tensor:
    """Cross-entropy of presence ``[N, 2]``; 0 where it is not to be judged."""
    missed = F.binary_cross_entropy_with_logits(
        reading.present, wanted.present.clamp(min=0), reduction="none"
    )
    return missed * (wanted.present >= 0)


def losses(reading: Reading, wanted: Asked) -> dict[str, Tensor]:
    """Return the mean cross-entropy of each fact over what is to be judged, in nats."""
    means = {
        name: _missed(logits, right).sum() / (right != _IGNORED).sum().clamp(min=1)
        for name, (logits, right) in answers(reading, wanted).items()
    }
    judged = (wanted.present >= 0).sum().clamp(min=1)
    return {"present": _absent(reading, wanted).sum() / judged, **means}


def log_likelihood(reading: Reading, wanted: Asked) -> Tensor:
    """Return how likely the characters asked for and what they wear are in every frame, in nats."""
    facts = answers(reading, wanted)
    total = _absent(reading, wanted)
    for name in _LOOKS:
        total = total + _missed(*facts[name])
    return -total.sum(1)


def noised(x: Tensor, level: Tensor) -> Tensor:
    """Mix latents ``[N, C, h, w]`` with fresh noise of level ``[N]``."""
    sigma = level[:, None, None, None]
    return (1 - sigma) * x + sigma * torch.randn_like(x)


def load_reader(path: Path) -> FactReader:
    """Read a reader's weights.

    Raises:
        WeightsError: no such file, or it is none of a reader.
    """
    if not path.is_file():
        raise WeightsError(f"reader: no file {path}; train-reader makes one")
    reader = FactReader()
    try:
        reader.load_state_dict(load_file(str(path)))
    except (RuntimeError, SafetensorError) as error:
        raise WeightsError(f"reader: {path} is no reader of this version: {error}") from error
    return reader
