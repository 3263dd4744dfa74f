"""The later stages of nano as a table, and the one way to run them.

Each stage but the reader's begins with a finished student and leaves another. The command line
offers every row of ``STAGES`` under its name; a student's lineage names its rows in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from shotstream_rt.errors import ConfigError

from ...common.processes import Processes, join
from ...common.product import Weights, start_weights
from ...world.bank import LatentBank
from ..recipe import (
    BestOfConfig,
    GuidanceConfig,
    OmissionConfig,
    ReaderConfig,
    RewardConfig,
    SelfTaughtConfig,
)
from .best_of_stage import BestOfTrainer
from .fact_reader import FactReader, load_reader
from .guidance_stage import GuidanceTrainer
from .omission_stage import OmissionTrainer
from .reward_stage import RewardTrainer
from .train_reader import ReaderTrainer


class StageTrainer(Protocol):
    """A stage's loop."""

    def train(self, duration_s: float) -> None:
        """Go on until the stage has had this much time in total."""

    def write_product(self, path: Path) -> dict[str, Any]:
        """Write what ships; returns figures worth reporting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInputs:
    """What a stage works with.

    Attributes:
        run: folder of checkpoints and of what ships; made if missing.
        bank: folder of latent shards.
        start: ``nano``, a student folder or a checkpoint to begin with; of the reader's stage the
            reader's weights. ``None``: the stage's default.
        reader: weights of ``train-reader``, where the stage needs them.
    """

    run: Path
    bank: Path
    start: str | None = None
    reader: Path | None = None

    def student(self, config: SelfTaughtConfig | RewardConfig) -> Weights:
        """Read the student to begin with."""
        return start_weights(self.start or "nano", config.model, text=True, seed=config.seed)

    def fact_reader(self) -> FactReader:
        """Read the reader of facts."""
        if self.reader is None:
            raise ConfigError("reader: got none, wanted the weights that train-reader writes")
        return load_reader(self.reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDefinition:
    """A row of the table.

    Attributes:
        purpose: one line for the command's help.
        product: file of what ships, in the run's folder.
        needs_reader: whether the stage reads pictures with the reader of facts.
        trainer: makes the loop for the processes that take part.
    """

    purpose: str
    product: str = "student.pt"
    needs_reader: bool = False
    trainer: Callable[[StageInputs, Processes], StageTrainer]


def _train_reader(inputs: StageInputs, processes: Processes) -> ReaderTrainer:
    start = Path(inputs.start) if inputs.start else None
    return ReaderTrainer(ReaderConfig(), inputs.run, inputs.bank, start, processes)


def _reward(inputs: StageInputs, processes: Processes) -> RewardTrainer:
    config, reader = RewardConfig(), inputs.fact_reader()
    bank, start = LatentBank(inputs.bank), inputs.student(config)
    return RewardTrainer(config, inputs.run, bank, start, reader, processes)


def _guide(inputs: StageInputs, processes: Processes) -> GuidanceTrainer:
    config = GuidanceConfig()
    bank, start = LatentBank(inputs.bank), inputs.student(config)
    return GuidanceTrainer(config, inputs.run, bank, start, processes)


def _choose(inputs: StageInputs, processes: Processes) -> BestOfTrainer:
    config, reader = BestOfConfig(), inputs.fact_reader()
    bank, start = LatentBank(inputs.bank), inputs.student(config)
    return BestOfTrainer(config, inputs.run, bank, start, reader, processes)


def _recall(inputs: StageInputs, processes: Processes) -> OmissionTrainer:
    config = OmissionConfig()
    bank, start = LatentBank(inputs.bank), inputs.student(config)
    return OmissionTrainer(config, inputs.run, bank, start, processes)


STAGES = {
    "train-reader": StageDefinition(
        purpose="train the reader of facts that reward-nano and choose-nano need",
        product="reader.safetensors",
        trainer=_train_reader,
    ),
    "reward-nano": StageDefinition(
        purpose="reward a few-step student for what a reader sees in its films",
        needs_reader=True,
        trainer=_reward,
    ),
    "guide-nano": StageDefinition(
        purpose="teach a few-step student what guidance makes of its last steps",
        trainer=_guide,
    ),
    "choose-nano": StageDefinition(
        purpose="teach a few-step student the best of its own answers",
        needs_reader=True,
        trainer=_choose,
    ),
    "recall-nano": StageDefinition(
        purpose="teach a few-step student to draw what captions leave out and the context shows",
        trainer=_recall,
    ),
}


def run_stage(name: str, inputs: StageInputs, minutes: float) -> dict[str, Any]:
    """Run or resume a stage and write what ships.

    Args:
        name: row of ``STAGES``.
        inputs: what the stage works with.
        minutes: time of the stage in total; time before a resume counts.

    Returns:
        ``product``: path of the file written; and the stage's figures.

    Raises:
        ConfigError: inputs that the stage cannot work with.
        WeightsError: a file to begin with, or a reader, that is missing or does not fit.
    """
    stage = STAGES[name]
    torch.set_num_threads(1)
    product = inputs.run / stage.product
    with join("cpu") as processes:
        trainer = stage.trainer(inputs, processes)
        inputs.run.mkdir(parents=True, exist_ok=True)
        trainer.train(minutes * 60)
        figures = trainer.write_product(product)
    return {"product": str(product), **figures}
