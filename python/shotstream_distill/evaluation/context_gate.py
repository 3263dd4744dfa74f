"""Examines whether a checkpoint uses its context, for what only the context can tell.

Called between training stages and by ``python -m shotstream_distill gate``. Works on latents, in
one pass of the network, so it fits teachers, ODE-initialised and few-step students alike: held-out
shots are made noisy, the network predicts the clean latents with their true context and without
any, and two errors are compared. *Tint*: a linear probe reads the scene's hidden tint off the
predicted latents. *Subject*: the mean latent of the cells covered by characters that the context
shows too (a mean does not care which detail is where). The gate is passed if both errors are
smaller with the context and the 95 % intervals of the two do not overlap; the paired differences
are reported beside them. The shots are those of ``gate_scenes.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.config import StreamConfig
from shotstream_rt.loading.project_layout import NANO_FOLDER

from ..nano.ship import stream_config
from ..paper.run_config import RunConfig
from ..paper.shot_batch import ShotBatch
from ..paper.stage_gate import Gate, GateReport
from .examinee import Examinee
from .gate_scenes import GateScenes, tint_features
from .intervals import Estimate, resample

_BATCH = 16
_LEAST_CELLS = 3.0


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


def _part(batch: ShotBatch, rows: slice) -> ShotBatch:
    return ShotBatch(
        context=batch.context[rows], target=batch.target[rows], words=batch.words[rows],
        shots=batch.shots[rows], context_shots=batch.context_shots[rows],
    )  # fmt: skip


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
