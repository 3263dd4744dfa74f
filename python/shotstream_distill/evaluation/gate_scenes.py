"""Held-out shots of the drawn world for the context gate, and a probe that reads their tint.

Read from a shard of the latent bank, drawn where none is kept yet. Captions leave out what a user
would leave out: coats and clothes of characters that the context shows
(``caption_rewrites.unsaid``). Shots in the evening are left out, because a tint hardly shows there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.model.nano.vocabulary import PLACES, TIMES

from ..paper.shot_batch import ShotBatch
from ..world.bank import context_frames
from ..world.caption_rewrites import token_ids, token_names, unsaid
from ..world.make_bank import LABEL_COLUMNS, make_bank
from ..world.story import BOTH

FIRST_SEED = 540_000_000
"""Stories from here on are the gate's: never trained on."""

_STORIES = 160
_EXAM_SCENES = 128
_RIDGE = 1e-3
_PROBE_SHARDS = 12
_WHO_COLUMN = 0
_PLACE_COLUMN = 3
_TIME_COLUMN = -3
_SHOT_COLUMN = -2
_LESSON = ("lat", "lab", "tint")
_EVENINGS = tuple(TIMES.index(time) for time in ("at-sunset", "at-night"))


def tint_features(latents: Tensor, places: Tensor) -> Tensor:
    """Statistics of each channel over a frame, and the place: ``[N, n]`` of ``[N, F, C, h, w]``."""
    cells = latents.mean(1).flatten(2)  # [N, C, h w]
    mean = cells.mean(2)
    spread = [cells.median(2).values, cells.std(2), *(cells.quantile(q, dim=2) for q in (0.2, 0.8))]
    kinds = F.one_hot(places, len(PLACES)).float()
    # What a channel says of the tint depends on the place.
    return torch.cat((mean, *spread, kinds, (mean[:, :, None] * kinds[:, None]).flatten(1)), 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GateScenes:
    """Held-out shots with what came before them, and a probe fitted on others.

    Attributes:
        batch: the exam's shots, first chunks only.
        subjects: ``[N, F, 1, h, w]`` shares of cells covered by characters that return.
        tints: ``[N, 3]`` hidden tints.
        places: int64 ``[N]``.
        probe: ``[features, 3]`` from ``tint_features`` to tints.
        probe_r: correlation of the probe's answer with the tint on the exam's true latents.
    """

    batch: ShotBatch
    subjects: Tensor
    tints: Tensor
    places: Tensor
    probe: Tensor
    probe_r: float

    @classmethod
    def draw(
        cls, folder: Path, codec: Path, *, frames: int, stories: int = _STORIES,
        bank: Path | None = None,
    ) -> GateScenes:  # fmt: skip
        """Draw the scenes, or read those drawn before.

        Args:
            folder: keeps one shard of latents; belongs to one codec.
            codec: ``codec.safetensors`` whose latents are examined.
            frames: latent frames of a shot, at most 6.
            stories: drawn stories.
            bank: training shards of the same codec, a few of which teach the probe too.

        Cost:
            The first time about 70 s on one CPU core, then none.
        """
        if not any(folder.glob("*.pt")):
            make_bank(folder, codec, shards=1, stories=stories, first_seed=FIRST_SEED)
        shard = torch.load(next(iter(sorted(folder.glob("*.pt")))), weights_only=True)
        more = [] if bank is None else sorted(bank.glob("S_*.pt"))[-_PROBE_SHARDS:]
        probe_shards = [torch.load(path, weights_only=True) for path in more]
        return cls.from_shard(shard, frames=frames, probe_shards=probe_shards)

    @classmethod
    def from_shard(
        cls,
        shard: dict[str, Tensor],
        *,
        frames: int,
        probe_shards: Sequence[dict[str, Tensor]] = (),
    ) -> GateScenes:
        """Split a shard of the latent bank into probe shots and exam shots.

        Args:
            shard: as ``make_bank`` writes it.
            frames: latent frames of a shot.
            probe_shards: shards for the probe only.

        Raises:
            ConfigError: too few later shots.
        """
        numbers = shard["lab"][:, _SHOT_COLUMN].tolist()
        later = [row for row in _lit(shard) if numbers[row] > 0]
        exam = later[-min(_EXAM_SCENES, len(later) // 2) :]
        if len(exam) < 8:
            raise ConfigError(
                f"gate: got {len(later)} later shots in the light, wanted at least 16"
            )
        # Shots of one story share their tint: none may be on both sides.
        first = exam[0] - int(shard["lab"][exam[0], _SHOT_COLUMN])
        head = {key: shard[key][:first] for key in _LESSON}
        probe = _fit_probe([head, *probe_shards], frames)
        latents, tints = shard["lat"][:, :frames].float(), shard["tint"].float()
        places = shard["lab"][:, _PLACE_COLUMN].long()
        rows = torch.tensor(exam)
        read = tint_features(latents[rows], places[rows]) @ probe
        pair = torch.stack((read.flatten(), tints[rows].flatten()))
        return cls(
            batch=_batch(shard, exam, frames),
            subjects=_returning(shard, exam, frames),
            tints=tints[rows],
            places=places[rows],
            probe=probe,
            probe_r=float(torch.corrcoef(pair)[0, 1]),
        )


def _lit(shard: Mapping[str, Tensor]) -> list[int]:
    """Rows of shots by day or in a timeless place: in the evening a tint hardly shows."""
    columns = shard["lab"].shape[1]
    if columns != LABEL_COLUMNS:
        raise ConfigError(
            f"gate: got scenes with {columns} labels, wanted {LABEL_COLUMNS}: they show "
            "another world; name an empty folder, and a bank of this version"
        )
    times = shard["lab"][:, _TIME_COLUMN].tolist()
    return [row for row, time in enumerate(times) if time not in _EVENINGS]


def _fit_probe(shards: Sequence[Mapping[str, Tensor]], frames: int) -> Tensor:
    """Ridge regression from ``tint_features`` to tints, over shots in the light."""
    seen = [{key: s[key][_lit(s)] for key in _LESSON} for s in shards]
    known = torch.cat(
        [
            tint_features(s["lat"][:, :frames].float(), s["lab"][:, _PLACE_COLUMN].long())
            for s in seen
        ]
    ).double()
    tints = torch.cat([s["tint"] for s in seen]).double()
    scale = known.T @ known + _RIDGE * len(known) * torch.eye(known.shape[1]).double()
    probe: Tensor = torch.linalg.solve(scale, known.T @ tints)
    return probe.float()


def _returning(shard: Mapping[str, Tensor], rows: Sequence[int], frames: int) -> Tensor:
    """Cells ``[N, F, 1, h, w]`` of characters that an earlier shot of their story showed."""
    maps = shard["maps"][list(rows), :frames, :, 0].float() / 255  # [N, F, 2, h, w]
    for index, row in enumerate(rows):
        first = row - int(shard["lab"][row, _SHOT_COLUMN])
        casts = shard["lab"][first:row, _WHO_COLUMN].tolist()
        for who in (0, 1):
            if not any(cast in (who, BOTH) for cast in casts):
                maps[index, :, who] = 0
    return maps.sum(2, keepdim=True)


def _batch(shard: dict[str, Tensor], rows: list[int], frames: int) -> ShotBatch:
    numbers = [int(shard["lab"][row, _SHOT_COLUMN]) for row in rows]
    words = torch.zeros(len(rows), max(numbers) + 1, shard["tok"].shape[-1], dtype=torch.long)
    contexts, owners = [], []
    for index, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        first = row - number
        words[index, : number + 1] = shard["tok"][first : row + 1, 0].long()
        before = [token_names(caption) for caption in words[index, :number]]
        words[index, number] = token_ids(
            unsaid(token_names(words[index, number]), before), words.shape[-1]
        )
        chosen = context_frames(number)
        contexts.append(torch.stack([shard["cand"][first + s, c] for s, c in chosen]))
        owners.append([s for s, _ in chosen])
    return ShotBatch(
        context=torch.stack(contexts).float(),
        target=shard["lat"][rows, :frames].float(),
        words=words,
        shots=tuple(numbers),
        context_shots=torch.tensor(owners),
    )
