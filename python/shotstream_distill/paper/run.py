"""A whole run: every stage in order, each from the products of earlier ones, resumable anywhere.

Called by ``python -m shotstream_distill run``. A stage whose product exists is done; one with a
checkpoint goes on from it.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.errors import ConfigError
from shotstream_rt.model.codec import LatentCodec
from shotstream_rt.model.loading import NANO_FOLDER
from shotstream_rt.model.nano_codec import NanoCodec

from ..make_bank import LONG_LATENTS, SHORT_LATENTS, make_bank
from .gate import Gate, examine
from .intra_shot_stage import IntraShotStage
from .inter_shot_stage import InterShotStage
from .nano_shots import NanoShots
from .ode_pairs import make_pairs
from .ode_stage import OdeStage
from .processes import Processes
from .product import load_product, save_product, start_weights
from .run_config import RunConfig
from .stage_config import (
    DmdConfig,
    OdeConfig,
    OptimizerConfig,
    PairsConfig,
    StageConfig,
    TeacherConfig,
    TrainedConfig,
)
from .teacher_stage import TeacherStage
from .trainer import Trainer
from .workshop import ShotSource, Stage, TextSide, Weights, Workshop

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

    def go(self) -> dict[str, Any]:
        """Run every stage that is not done.

        Returns:
            Per stage its figures: losses at the start and the end, seconds, gate.
        """
        shop = self._workshop()
        report: dict[str, Any] = {}
        for stage in self.config.stages:
            begun = time.monotonic()
            if isinstance(stage, PairsConfig):
                make_pairs(shop, stage, self._weights(stage.teacher), self.folder / stage.name)
                report[stage.name] = {"pairs": stage.pairs}
            elif isinstance(stage, TrainedConfig):
                report[stage.name] = self._train(shop, stage)
            report[stage.name]["seconds"] = round(time.monotonic() - begun, 1)
        return report

    def product(self, stage: str) -> Path:
        """Return the file of a stage's product."""
        return self.folder / f"{stage}.pt"

    def _train(self, shop: Workshop, config: TrainedConfig) -> dict[str, Any]:
        path, told = self.product(config.name), self.folder / f"{config.name}.json"
        if path.is_file() and told.is_file():
            _log.info("%s: done before", config.name)
            done: dict[str, Any] = json.loads(told.read_text("utf-8"))
            return done
        stage, optimizers = self._stage(shop, config)
        trainer = Trainer(shop, config, optimizers, stage, self.folder)
        history = trainer.run()
        weights = stage.product()
        report: dict[str, Any] = {"steps": config.steps, "train_s": round(trainer.train_s, 1)}
        report["losses"] = {
            name: dict(zip(("first", "last"), history.ends(name), strict=True))
            for name in history.losses
        }
        if self._processes.leads:
            save_product(
                path, weights, steps=config.steps, train_s=trainer.train_s, stage=config.name
            )
            verdict = examine(self._gate, config.kind, path, self.config.gate)
            if verdict is not None:
                report["gate"] = {"passed": verdict.passed, **verdict.figures}
            told.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        self._processes.wait()
        return report

    def _stage(
        self, shop: Workshop, config: TrainedConfig
    ) -> tuple[Stage, dict[str, OptimizerConfig]]:
        start = self._weights(config.start)
        if isinstance(config, TeacherConfig):
            return TeacherStage(shop, config, start), {"teacher": config.optimizer}
        if isinstance(config, OdeConfig):
            pairs = next(s for s in self.config.stages if s.name == config.pairs)
            assert isinstance(pairs, PairsConfig)
            stage = OdeStage(shop, config, start, self.folder / config.pairs, pairs.pairs)
            return stage, {"student": config.optimizer}
        assert isinstance(config, DmdConfig)
        make = IntraShotStage if config.kind == "intra_shot" else InterShotStage
        matched = make(shop, config, start, self._weights(config.teacher))
        return matched, {"student": config.optimizer, "critic": config.critic}

    def _weights(self, stage: str) -> Weights:
        """Return a stage's product, or what the run starts from."""
        if stage:
            return load_product(self.product(stage))
        return start_weights(
            self.config.start, self.config.stream.model, text=self.config.text.kind == "nano",
            seed=self.config.seed,
        )  # fmt: skip

    def _workshop(self) -> Workshop:
        frames = max(stage.frames for stage in self.config.stages)
        codec, text = self._codec(), self._frozen_text()
        return Workshop(
            config=self.config, processes=self._processes, codec=codec, text=text,
            source=self._source(frames, codec),
        )  # fmt: skip

    def _codec(self) -> LatentCodec:
        path = Path(self.config.codec) if self.config.codec else NANO_FOLDER / "codec.safetensors"
        if self.config.text.kind == "nano":
            return NanoCodec.load(path, device=self._processes.device)
        raise NotImplementedError

    def _frozen_text(self) -> TextSide | None:
        return None

    def _source(self, frames: int, codec: LatentCodec) -> ShotSource:
        data = self.config.data
        folder = Path(data.path)
        if data.kind == "drawn":
            folder = self.folder / "bank"
            length = LONG_LATENTS if data.whole_shots else SHORT_LATENTS
            if frames > length:
                raise ConfigError(
                    f"frames: got {frames}, and drawn shots have {length} latent frames; set "
                    "data.whole_shots or shorten the stages"
                )
            if self._processes.leads and not any(folder.glob("*.pt")):
                path = Path(self.config.codec) if self.config.codec else NANO_FOLDER
                path = path if path.is_file() else path / "codec.safetensors"
                make_bank(
                    folder, path, shards=1, stories=data.stories, first_seed=data.first_seed,
                    long=data.whole_shots,
                )  # fmt: skip
            self._processes.wait()
        return NanoShots(folder, frames)

    def _remember_config(self) -> None:
        path = self.folder / "run.json"
        mine = self.config.to_dict()
        if path.is_file():
            theirs = json.loads(path.read_text("utf-8"))
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
