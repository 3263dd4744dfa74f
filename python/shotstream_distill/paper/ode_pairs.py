"""Trajectories of the teacher, sampled once and kept on disk.

Called by the run for stages of kind ``ode_pairs``. One file per trajectory, written under a
temporary name and renamed, so a killed run goes on where it stopped and never reads half a file.

Source: ShotStream ODE sampler: 50 guided Euler steps; kept are the states at the student's levels
and the end.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import WeightsError

from ..common.product import Weights
from ..common.step_rng import StepRng
from .sampler import sample_states, student_steps
from .shot_batch import ShotBatch, Words, condition
from .stage_config import PairsConfig
from .stage_services import StageServices

_log = logging.getLogger("shotstream_distill.paper.ode_pairs")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairBatch:
    """Trajectories and what they followed.

    Attributes:
        shots: context, words and numbers; its target is the end of each walk.
        states: ``[B, steps + 1, F, C, h, w]``: the walk at the student's levels, then its end.
    """

    shots: ShotBatch
    states: Tensor


def pair_file(folder: Path, index: int) -> Path:
    """Return the name of a trajectory."""
    return folder / f"{index:06d}.pt"


def make_pairs(
    services: StageServices,
    config: PairsConfig,
    weights: Weights,
    folder: Path,
    deadline: float = math.inf,
) -> bool:
    """Sample the trajectories that are not there yet.

    Args:
        services: shared parts.
        config: of this stage.
        weights: of the teacher.
        folder: where to, made if missing.
        deadline: stop when ``time.monotonic()`` passes it.

    Returns:
        Whether all are there now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, config.pairs, config.batch)
    # Every process walks its own batches; sharded networks need all of them to walk together.
    world = services.processes.world
    teacher, text = services.frozen(weights), services.text_side(weights)
    shift, begun, reported = (
        services.config.stream.schedule.shift,
        time.monotonic(),
        time.monotonic(),
    )
    kept_steps = student_steps(services.schedule, config.sample_steps, shift)
    missing = [
        first
        for first in firsts
        if not all(
            pair_file(folder, i).is_file()
            for i in range(first, min(first + config.batch, config.pairs))
        )
    ]
    for done in range(0, len(missing), world):
        if services.processes.agree(time.monotonic() > deadline):
            return False
        # The last round may have fewer batches than processes: some walk one twice.
        first = missing[min(done + services.processes.rank, len(missing) - 1)]
        rng = StepRng(services.config.seed, config.name, first, device=services.processes.device)
        batch = services.source.shots(rng, config.batch, config.frames)
        none = [False] * config.batch
        with torch.no_grad():
            captions = text.captions(batch.words, none)
        told = condition(batch, captions, dropped=none, quirks=services.config.quirks)
        x = rng.normal_like(batch.target)
        kept = [x] if 0 in kept_steps else []
        for step, state in enumerate(
            sample_states(
                teacher, told, told.unguided(text.unconditional(batch.words), config.guides), x,
                steps=config.sample_steps, shift=shift, guidance=config.guidance,
                context_clean=services.config.context_clean,
            ),
            start=1,
        ):  # fmt: skip
            if step in kept_steps or step == config.sample_steps:
                kept.append(state)
        states = torch.stack(kept, 1)
        for row in range(min(config.batch, config.pairs - first)):
            _write(pair_file(folder, first + row), batch, states, row, services.processes.rank)
        if (
            now := time.monotonic()
        ) - reported > services.config.log_s and services.processes.leads:
            reported = now
            finished = done + world
            left = (now - begun) / finished * (len(missing) - finished)
            _log.info("%s: %d of %d batches, eta %.0f s", config.name, finished, len(missing), left)
    services.processes.wait()
    return True


def _write(path: Path, batch: ShotBatch, states: Tensor, row: int, rank: int) -> None:
    words = batch.words
    data = {
        "context": batch.context[row].half().cpu(),
        "states": states[row].half().cpu(),
        "words": words[row].clone() if isinstance(words, Tensor) else list(words[row]),
        "shot": batch.shots[row],
        "context_shots": batch.context_shots[row].clone(),
    }
    partial = path.with_suffix(f".partial{rank}")
    torch.save(data, partial)
    partial.replace(path)


def read_pairs(folder: Path, indices: list[int], device: torch.device) -> PairBatch:
    """Read some trajectories as a batch.

    Args:
        folder: of the trajectories.
        indices: of those to read.
        device: to put them on.

    Raises:
        WeightsError: a file is missing or broken.
    """
    rows = []
    for index in indices:
        path = pair_file(folder, index)
        try:
            rows.append(torch.load(path, weights_only=True))
        except FileNotFoundError as error:
            raise WeightsError(f"{path}: is missing; run the stage that samples pairs") from error
        except Exception as error:
            raise WeightsError(f"{path}: cannot be read ({error}); delete it and rerun") from error
    states = torch.stack([row["states"].float() for row in rows]).to(device)
    batch = ShotBatch(
        context=torch.stack([row["context"].float() for row in rows]).to(device),
        target=states[:, -1],
        words=_words([row["words"] for row in rows]),
        shots=tuple(row["shot"] for row in rows),
        context_shots=torch.stack([row["context_shots"] for row in rows]),
    )
    return PairBatch(shots=batch, states=states)


def _words(rows: list[Tensor | list[str]]) -> Words:
    """Put captions of one sample each together, padded to the most shots."""
    if isinstance(rows[0], Tensor):
        tensors = [row for row in rows if isinstance(row, Tensor)]
        held = torch.zeros(len(rows), max(len(t) for t in tensors), tensors[0].shape[1],
                           dtype=torch.long)  # fmt: skip
        for index, row in enumerate(tensors):
            held[index, : len(row)] = row
        return held
    return tuple(tuple(str(p) for p in row) for row in rows)
