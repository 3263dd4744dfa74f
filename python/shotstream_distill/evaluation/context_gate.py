"""Examines whether a checkpoint uses its context, for what only the context can tell.

Called between training stages and by ``python -m shotstream_distill gate``. Works on latents, in
one pass of the network, so it fits teachers, ODE-initialised and few-step students alike: held-out
shots are made noisy, the network predicts the clean latents with their true context and without
any, and two errors are compared. Captions leave out what a user would leave out: coats and clothes
of characters that the context shows (``caption_rewrites.unsaid``). *Tint*: a linear probe reads the
scene's hidden tint off the predicted latents. *Subject*: the mean latent of the cells covered by
characters that the context shows too (a mean does not care which detail is where). The gate is
passed if both errors are smaller with the context and the 95 % intervals of the two do not overlap;
the paired differences are reported beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.model.nano.vocabulary import PLACES, TIMES
from shotstream_rt.plan.schedule import Schedule

from ..common.product import start_weights
from ..nano.ship import stream_config
from ..paper.network import TrainNet
from ..paper.quirks import Quirks
from ..paper.run_config import RunConfig
from ..paper.shot_batch import ShotBatch, condition, told_target_caption
from ..paper.stage_gate import Gate, GateReport
from ..paper.stage_services import network_of, text_of
from ..paper.text_side import NanoText
from ..world.bank import CONTEXT_FRAMES, context_frames
from ..world.caption_rewrites import token_ids, token_names, unsaid
from ..world.make_bank import LABEL_COLUMNS, make_bank
from ..world.story import BOTH
from .intervals import Estimate, resample

FIRST_SEED = 540_000_000
"""Stories from here on are the gate's: never trained on."""

_STORIES = 160
_EXAM_SCENES = 128
_BATCH = 16
_RIDGE = 1e-3
_PROBE_SHARDS = 12
_LEAST_CELLS = 3.0
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


def _part(batch: ShotBatch, rows: slice) -> ShotBatch:
    return ShotBatch(
        context=batch.context[rows], target=batch.target[rows], words=batch.words[rows],
        shots=batch.shots[rows], context_shots=batch.context_shots[rows],
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examinee:
    """A network with its text encoder, and what it is told.

    Attributes:
        net: the network.
        text: its captions.
        stream: schedule and chunk of its student.
        bidirectional: one group of context and target (teachers), instead of context, then chunk.
        context_clean: context frames are told time 0 (as every student's are).
        quirks: the run's.
    """

    net: TrainNet
    text: NanoText
    stream: StreamConfig
    bidirectional: bool = False
    context_clean: bool = True
    quirks: Quirks = Quirks()  # noqa: RUF009 - frozen

    @classmethod
    def load(
        cls, source: str | Path, stream: StreamConfig, *, bidirectional: bool = False,
        context_clean: bool = True, quirks: Quirks | None = None,
    ) -> Examinee:  # fmt: skip
        """Read ``nano``, a student folder, or a checkpoint with names and averages.

        Args:
            source: ``nano``, a student folder or a checkpoint.
            stream: shapes and schedule.
            bidirectional: whether it is a teacher.
            context_clean: whether context frames are told time 0.
            quirks: of the run; default: none.

        Raises:
            WeightsError: it is missing, broken or of another shape.
        """
        weights = start_weights(str(source), stream.model, text=True, seed=0)
        net, text = network_of(weights, stream), text_of(weights)
        return cls(
            net=net.requires_grad_(False), text=NanoText(text.requires_grad_(False)),
            stream=stream, bidirectional=bidirectional, context_clean=context_clean,
            quirks=quirks or Quirks(),
        )  # fmt: skip

    @torch.no_grad()
    def predict(self, batch: ShotBatch, noise: Tensor, *, with_context: bool) -> Tensor:
        """Predict clean target latents from noisy ones at the student's second level.

        Args:
            batch: scenes, clean.
            noise: in the shape of ``batch.target``.
            with_context: whether the context is given or dropped.
        """
        schedule = Schedule.from_config(self.stream.schedule)
        level = schedule.sigmas[min(1, len(schedule.sigmas) - 1)]
        time = schedule.timesteps[min(1, len(schedule.timesteps) - 1)]
        count, frames = batch.target.shape[:2]
        captions = self.text.captions(batch.words, [False] * count)
        dropped = [not with_context] * count
        told = condition(batch, captions, dropped=dropped, quirks=self.quirks)
        if self.quirks.last_caption_only and self.bidirectional:
            told = told_target_caption(told)
        times = torch.full((count, CONTEXT_FRAMES + frames), float(time))
        if self.context_clean or not self.bidirectional:
            times[:, :CONTEXT_FRAMES] = 0
        groups = [CONTEXT_FRAMES + frames] if self.bidirectional else [CONTEXT_FRAMES, frames]
        noisy = (1 - level) * batch.target + level * noise
        flow, _ = self.net(told.whole(noisy, times, groups))
        clean: Tensor = noisy - level * flow[:, CONTEXT_FRAMES:]
        return clean


def examine_context(examinee: Examinee, scenes: GateScenes, *, seed: int = 0) -> GateReport:
    """Put a network to the test.

    Args:
        examinee: the network.
        scenes: what it is examined on.
        seed: of the noise.

    Returns:
        The verdict; its figures hold, for ``tint`` and ``subject``, the error with the context
        (``given``), without it (``absent``) and the paired difference (``gain``), each with its
        interval, whether the two errors' intervals are ``apart``, and ``probe_r``.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(scenes.batch.target.shape, generator=generator)
    errors: dict[str, dict[str, Tensor]] = {"tint": {}, "subject": {}}
    for name, with_context in (("given", True), ("absent", False)):
        parts = []
        for first in range(0, len(noise), _BATCH):
            rows = slice(first, first + _BATCH)
            part = _part(scenes.batch, rows)
            parts.append(examinee.predict(part, noise[rows], with_context=with_context))
        made = torch.cat(parts)
        read = tint_features(made, scenes.places) @ scenes.probe
        errors["tint"][name] = (read - scenes.tints).norm(dim=1)
        area = scenes.subjects.sum((1, 3, 4))
        seen = area[:, 0] > _LEAST_CELLS
        wrong = ((made - scenes.batch.target) * scenes.subjects).sum((1, 3, 4))[seen] / area[seen]
        errors["subject"][name] = wrong.square().mean(1)
    figures: dict[str, Any] = {"probe_r": round(scenes.probe_r, 4), "scenes": len(noise)}
    passed, said = True, []
    for name, found in errors.items():
        given, absent = _mean(found["given"]), _mean(found["absent"])
        gain = _mean(found["absent"] - found["given"])
        passed = passed and given.high < absent.low
        figures[name] = {
            "given": given.as_dict(), "absent": absent.as_dict(), "gain": gain.as_dict(),
            "apart": given.apart_from(absent),
        }  # fmt: skip
        said.append(f"{name} error {_text(given)} with context, {_text(absent)} without")
    return GateReport(passed=passed, summary="; ".join(said), figures=figures)


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _mean(values: Tensor) -> Estimate:
    return resample(len(values), lambda rows: float(values[rows].mean()))


def context_gate(
    model: str | Path, *, stream: StreamConfig | None = None, folder: Path = Path("runs/gate"),
    codec: Path | None = None, bidirectional: bool = False, bank: Path | None = None,
) -> GateReport:  # fmt: skip
    """Examine ``nano``, a student folder or a checkpoint of the drawn world.

    Args:
        model: whose context use is in question.
        stream: its shapes and schedule; default: the nano recipe's.
        folder: keeps the drawn scenes.
        codec: ``codec.safetensors``; default: the folder's own, else the shipped one.
        bidirectional: it is a teacher.
        bank: training shards of the same codec, for a better probe.

    Cost:
        About 25 s on one CPU core; the first time 40 s more, to draw the scenes.
    """
    from ..nano.recipe import NANO_MODEL

    own = NANO_FOLDER if str(model) == "nano" else Path(model)
    file = codec or (own if own.is_dir() else NANO_FOLDER) / "codec.safetensors"
    chosen = stream or stream_config(NANO_MODEL)
    scenes = GateScenes.draw(folder, file, frames=chosen.shot.chunk_frames, bank=bank)
    return examine_context(Examinee.load(model, chosen, bidirectional=bidirectional), scenes)


def run_gate(config: RunConfig, folder: Path) -> Gate:
    """Return the gate of a run on the drawn world, for ``paper.run.Run``.

    Args:
        config: the run.
        folder: keeps the drawn scenes.
    """
    codec = Path(config.codec) if config.codec else NANO_FOLDER
    file = codec if codec.is_file() else codec / "codec.safetensors"

    def gate(kind: str, product: Path) -> GateReport:
        teacher = kind == "teacher"
        bank = Path(config.data.path) if config.data.kind == "bank" else None
        frames = config.stream.shot.chunk_frames
        scenes = GateScenes.draw(folder, file, frames=frames, bank=bank)
        examinee = Examinee.load(
            product, config.stream, bidirectional=teacher, context_clean=config.context_clean,
            quirks=config.quirks,
        )  # fmt: skip
        return examine_context(examinee, scenes, seed=config.seed)

    return gate
