"""A whole run: every stage in order, each from the products of earlier ones, resumable anywhere.

Called by ``python -m shotstream_distill run``. A stage whose product exists is done; one with a
checkpoint goes on from it.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from shotstream_rt.errors import ConfigError

from ..common.processes import Processes
from ..common.product import Weights, load_product, save_product, start_weights
from .data_sources import make_services
from .inter_shot_stage import InterShotStage
from .intra_shot_stage import IntraShotStage
from .ode_pairs import make_pairs
from .ode_stage import OdeStage
from .run_config import RunConfig
from .stage_config import (
    DmdConfig,
    OdeConfig,
    OptimizerConfig,
    PairsConfig,
    TeacherConfig,
    TrainedConfig,
)
from .stage_gate import Gate, GateError, examine
from .stage_services import Stage, StageServices
from .teacher_stage import TeacherStage
from .trainer import Trainer

_log = logging.getLogger("shotstream_distill.paper.run")


class Run:
    """A run in its folder.

    Args:
        config: what to do.
        folder: where everything goes, made if missing.
        processes: who takes part.
        gate: exam of each network a stage makes.

    Raises:
        ConfigError: the folder holds another run.
    """

    def __init__(
        self, config: RunConfig, folder: Path, processes: Processes, gate: Gate | None = None
    ) -> None:
        self.config, self.folder = config, folder
        self._processes, self._gate = processes, gate
        self._remember_config()

    def go(self, deadline: float = math.inf) -> dict[str, Any] | None:
        """Run every stage that is not done.

        Args:
            deadline: stop, with everything saved, when ``time.monotonic()`` passes it.

        Returns:
            Per stage its figures: judged loss at the start and the end, seconds, gate; ``None`` if
            time ran out before the last stage was done.
        """
        services = make_services(self.config, self.folder, self._processes)
        report: dict[str, Any] = {}
        for stage in self.config.stages:
            if isinstance(stage, PairsConfig):
                teacher = self._weights(stage.teacher)
                if not make_pairs(services, stage, teacher, self.folder / stage.name, deadline):
                    return None
                report[stage.name] = {"pairs": stage.pairs}
            elif isinstance(stage, TrainedConfig):
                figures = self._train(services, stage, deadline)
                if figures is None:
                    return None
                report[stage.name] = figures
        return report

    def product(self, stage: str) -> Path:
        """Return the file of a stage's product."""
        return self.folder / f"{stage}.pt"

    def _train(
        self, services: StageServices, config: TrainedConfig, deadline: float
    ) -> dict[str, Any] | None:
        path, told = self.product(config.name), self.folder / f"{config.name}.json"
        if path.is_file() and told.is_file():
            _log.info("%s: done before", config.name)
            done: dict[str, Any] = json.loads(told.read_text("utf-8"))
            return done
        stage, optimizers = self._stage(services, config)
        trainer = Trainer(services, config, optimizers, stage, self.folder)
        history = trainer.run(deadline=deadline)
        if not trainer.done:
            _log.info("%s: out of time at step %d of %d", config.name, trainer.step, config.steps)
            return None
        weights = stage.product()
        first, last = history.judged
        report: dict[str, Any] = {
            "steps": config.steps, "train_s": round(trainer.train_s, 1),
            "loss": {"first": first, "last": last, "fell": history.fell},
        }  # fmt: skip
        _log.info("%s: judged loss %.4f, then %.4f", config.name, first, last)
        if self._processes.leads:
            save_product(
                path, weights, steps=config.steps, train_s=trainer.train_s, stage=config.name
            )
        self._examine(config.kind, path, report)
        if self._processes.leads:
            told.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        self._processes.wait()
        return report

    def _examine(self, kind: str, product: Path, report: dict[str, Any]) -> None:
        """Let the leading process examine a product; all of them stop if it must."""
        error: GateError | None = None
        if self._processes.leads:
            try:
                verdict = examine(self._gate, kind, product, self.config.gate)
                if verdict is not None:
                    report["gate"] = {"passed": verdict.passed, **verdict.figures}
            except GateError as failed:
                error = failed
        if self._processes.agree(error is not None):
            raise error or GateError(f"{product}: gate failed on the leading process")

    def _stage(
        self, services: StageServices, config: TrainedConfig
    ) -> tuple[Stage, dict[str, OptimizerConfig]]:
        start = self._weights(config.start)
        if isinstance(config, TeacherConfig):
            return TeacherStage(services, config, start), {"teacher": config.optimizer}
        if isinstance(config, OdeConfig):
            pairs = next(s for s in self.config.stages if s.name == config.pairs)
            assert isinstance(pairs, PairsConfig)
            stage = OdeStage(services, config, start, self.folder / config.pairs, pairs.pairs)
            return stage, {"student": config.optimizer}
        assert isinstance(config, DmdConfig)
        make = IntraShotStage if config.kind == "intra_shot" else InterShotStage
        matched = make(services, config, start, self._weights(config.teacher))
        return matched, {"student": config.optimizer, "critic": config.critic}

    def _weights(self, stage: str) -> Weights:
        """Return a stage's product, or what the run starts from."""
        if stage:
            return load_product(self.product(stage))
        return start_weights(
            self.config.start, self.config.stream.model, text=self.config.text.kind == "nano",
            seed=self.config.seed,
        )  # fmt: skip

    def _remember_config(self) -> None:
        path = self.folder / "run.json"
        mine = self.config.to_dict()
        if path.is_file():
            # Read as a configuration: a run begun before a setting existed has its default.
            theirs = RunConfig.from_dict(json.loads(path.read_text("utf-8"))).to_dict()
            changed = sorted(k for k in mine if mine[k] != theirs.get(k))
            if changed:
                raise ConfigError(
                    f"{self.folder}: holds a run with another {', '.join(changed)}; wanted the "
                    "same configuration to go on with, or an empty folder"
                )
        elif self._processes.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        self._processes.wait()
