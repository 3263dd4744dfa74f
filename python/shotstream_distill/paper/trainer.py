"""The one loop for all stages: steps, curves, sheets, checkpoints; resumable to the step.

Called by the run. A stage gives losses and owns its learners; the loop knows nothing of what is
learned. Random numbers are addressed by step, so a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.checkpoint import read_checkpoint

from ..common.product import write_whole
from ..common.step_rng import StepRng
from .monitor import Monitor
from .stage_config import OptimizerConfig, TrainedConfig
from .stage_services import Stage, StageServices

_log = logging.getLogger("shotstream_distill.paper.trainer")


def rate_scale(config: OptimizerConfig, taken: int, progress: float) -> float:
    """Factor on the learning rate: linear warm-up, then cosine to the final share.

    Args:
        config: warm-up and final share.
        taken: steps taken.
        progress: share of the stage that is done.
    """
    warm = min(1.0, (taken + 1) / (config.warmup_steps + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warm * (config.final_rate + (1 - config.final_rate) * cosine)


_JUDGED_DRAWS = 8


@dataclass(slots=True, kw_only=True)
class History:
    """What is known of a stage's course.

    Attributes:
        losses: of every step, by learner.
        judged: the stage's own figure on the same few draws, at its start and at its end.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    judged: list[float] = field(default_factory=list)

    @property
    def fell(self) -> bool:
        """Whether the judged loss fell."""
        return len(self.judged) == 2 and self.judged[1] < self.judged[0]


class Trainer:
    """Drives a stage.

    Args:
        services: shared parts.
        config: of the stage.
        optimizers: settings by learner.
        stage: the stage.
        folder: the run's; the checkpoint and curves go there.
    """

    def __init__(
        self,
        services: StageServices,
        config: TrainedConfig,
        optimizers: dict[str, OptimizerConfig],
        stage: Stage,
        folder: Path,
    ) -> None:
        self._services, self._config, self._stage = services, config, stage
        self._optimizers = optimizers
        self._folder = folder
        self._checkpoint = folder / f"{config.name}.resume.pt"
        self.history = History()
        self.step, self.train_s = 0, 0.0

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.step == self._config.steps

    def run(self, stop_at: int | None = None, deadline: float = math.inf) -> History:
        """Train to the end from the last checkpoint on.

        Args:
            stop_at: stop after this step.
            deadline: stop when ``time.monotonic()`` passes it.

        Returns:
            The stage's course, what came before a restart included.
        """
        services, config = self._services, self._config
        if self._checkpoint.is_file():
            self._resume()
        end = config.steps if stop_at is None else min(stop_at, config.steps)
        begun = time.monotonic() - self.train_s
        saved = time.monotonic()
        with Monitor(services, config, self._folder, self.step) as monitor:
            while self.step < end and not services.processes.agree(time.monotonic() > deadline):
                if self.step == 0:
                    judging = time.monotonic()
                    self.history.judged = [self._judge()]
                    begun += time.monotonic() - judging
                self._one_step(monitor)
                self.train_s = time.monotonic() - begun
                monitor.progress(self.step, self.train_s)
                if self.step % services.config.sheet_steps == 0 or self.step == config.steps:
                    rng = StepRng(services.config.seed, "sheet", 0, rank=services.processes.rank,
                                device=services.processes.device)  # fmt: skip
                    monitor.sheet(self._stage, rng, self.step)
                if services.processes.agree(
                    time.monotonic() - saved > services.config.checkpoint_s
                ):
                    saved = time.monotonic()
                    self.save()
            if self.done and len(self.history.judged) == 1:
                self.history.judged.append(self._judge())
        self.save()
        return self.history

    @torch.no_grad()
    def _judge(self) -> float:
        """Mean loss over fixed draws, with the weights as they are; changes nothing."""
        services, stage = self._services, self._stage
        losses = []
        for index in range(_JUDGED_DRAWS):
            rng = StepRng(
                services.config.seed, f"{self._config.name}/judged", index,
                rank=services.processes.rank, device=services.processes.device,
            )  # fmt: skip
            losses.append(stage.judge(rng).float())
        return float(services.processes.mean(torch.stack(losses).mean()))

    def _one_step(self, monitor: Monitor) -> None:
        services, config = self._services, self._config
        told: dict[str, list[Tensor]] = {}
        learner = ""
        for part in range(config.accumulate):
            rng = StepRng(
                services.config.seed, config.name, self.step, part=part,
                rank=services.processes.rank, device=services.processes.device,
            )  # fmt: skip
            outcome = self._stage.loss(self.step, rng)
            learner = outcome.learner
            (outcome.loss / config.accumulate).backward()
            for name, value in {"loss": outcome.loss, **outcome.scalars}.items():
                told.setdefault(name, []).append(value.detach().float())
        scalars = {
            name: float(services.processes.mean(torch.stack(values).mean()))
            for name, values in told.items()
        }
        trained = self._stage.learners[learner]
        scale = rate_scale(self._optimizers[learner], trained.step_count, self.step / config.steps)
        scalars["gradient_norm"] = trained.step(scale)
        self.history.losses.setdefault(learner, []).append(scalars["loss"])
        self.step += 1
        monitor.scalars(learner, scalars, self.step)

    def save(self) -> None:
        """Write everything needed to go on; every process must call it."""
        memories = self._gathered(self._stage.memory())
        data = {
            "stage": self._config.name,
            "step": self.step,
            "train_s": self.train_s,
            "world": self._services.processes.world,
            "learners": {n: learner.state() for n, learner in self._stage.learners.items()},
            "memories": memories,
            "losses": self.history.losses,
            "judged": self.history.judged,
        }
        if self._services.processes.leads:
            write_whole(self._checkpoint, data)
        self._services.processes.wait()

    def _gathered(self, memory: dict[str, object]) -> list[dict[str, object]]:
        if self._services.processes.mesh is None:
            return [memory]
        gathered: list[dict[str, object]] = [{} for _ in range(self._services.processes.world)]
        dist.all_gather_object(gathered, memory)
        return gathered

    def _resume(self) -> None:
        data = read_checkpoint(self._checkpoint)
        world = self._services.processes.world
        if data.get("stage") != self._config.name or data.get("world") != world:
            raise WeightsError(
                f"{self._checkpoint}: got a checkpoint of stage {data.get('stage')!r} on "
                f"{data.get('world')} process(es), wanted {self._config.name!r} on {world}; "
                "delete it or use another folder"
            )
        for name, learner in self._stage.learners.items():
            learner.restore(data["learners"][name])
        self._stage.restore(data["memories"][self._services.processes.rank])
        self.history = History(losses=data["losses"], judged=data["judged"])
        self.step, self.train_s = data["step"], data["train_s"]
        _log.info("%s: resumed at step %d, %.0f s", self._config.name, self.step, self.train_s)
