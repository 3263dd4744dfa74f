"""The commands that train nano: its bank of latents, the student, its later stages."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..nano.later_stages.stages import STAGES, StageInputs, run_stage
from .shared import AddCommand, Command, codec_file

_RUN, _BANK = Path("runs/nano"), Path("runs/bank")


def add_commands(add: AddCommand) -> dict[str, Command]:
    """Declare the commands; returns what runs each."""
    bank = add("make-bank", "draw stories and encode them (may run beside training)")
    bank.add_argument("--bank", type=Path, default=_BANK, help="folder of shards")
    bank.add_argument("--codec", type=Path, help="codec.safetensors (default: the shipped one)")
    bank.add_argument("--shards", type=int, default=40, help="shards to write")
    bank.add_argument("--stories", type=int, default=64, help="stories per shard")
    bank.add_argument("--first-seed", type=int, default=0, help="seed of the first story")
    bank.add_argument("--long", action="store_true", help="whole shots, not their beginnings")
    for name, text in (
        ("train-nano", "flow matching of the student, resumable"),
        ("distill-nano", "distillation to four steps, resumable"),
    ):
        train = add(name, text)
        train.add_argument("--run", type=Path, default=_RUN, help="folder of checkpoints")
        train.add_argument("--bank", type=Path, default=_BANK, help="folder of shards")
        train.add_argument("--minutes", type=float, required=True, help="wall time in total")
        train.add_argument("--start", type=Path, help="checkpoint that a new run begins with")
    for name, stage in STAGES.items():
        later = add(name, f"{stage.purpose}, resumable")
        later.add_argument("--run", type=Path, required=True,
                           help=f"folder of checkpoints and of {stage.product}")  # fmt: skip
        later.add_argument("--bank", type=Path, default=_BANK,
                           help="folder of shards (make-bank --long). train-reader keeps the last "
                           "of two or more for its test, and wants 5000 shots")  # fmt: skip
        later.add_argument("--minutes", type=float, required=True, help="wall time in total")
        later.add_argument("--start", help="nano, a student folder or a checkpoint (default: "
                           "nano); a reader's weights for train-reader")  # fmt: skip
        if stage.needs_reader:
            later.add_argument("--reader", type=Path, required=True,
                               help="reader.safetensors of train-reader")  # fmt: skip
    ship = add("ship-nano", "write a checkpoint as a student folder")
    ship.add_argument("--checkpoint", type=Path, default=_RUN / "distilled.pt")
    ship.add_argument("--codec", type=Path, help="codec.safetensors (default: the shipped one)")
    ship.add_argument("--out", type=Path, required=True, help="folder to write")
    ship.add_argument("--words", type=int, help="leading words of the vocabulary that it was "
                      "trained with (default: all)")  # fmt: skip
    ship.add_argument("--lineage", default="{}", help="JSON object kept in student.json")
    return {
        "make-bank": _make_bank,
        "train-nano": _train,
        "distill-nano": _distill,
        "ship-nano": _ship,
        **dict.fromkeys(STAGES, _later_stage),
    }


def _make_bank(options: argparse.Namespace) -> dict[str, Any]:
    from ..world.make_bank import make_bank

    make_bank(
        options.bank, codec_file(options), shards=options.shards, stories=options.stories,
        first_seed=options.first_seed, long=options.long,
    )  # fmt: skip
    return {"bank": str(options.bank)}


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from ..nano.flow import train_flow

    train_flow(options.run, options.bank, options.minutes, start=options.start)
    return {"checkpoint": str(options.run / "flow.pt")}


def _distill(options: argparse.Namespace) -> dict[str, Any]:
    from ..nano.trajectory import distill_nano

    distill_nano(options.run, options.bank, options.minutes, start=options.start)
    return {"checkpoint": str(options.run / "distilled.pt")}


def _later_stage(options: argparse.Namespace) -> dict[str, Any]:
    inputs = StageInputs(
        run=options.run, bank=options.bank, start=options.start,
        reader=getattr(options, "reader", None),
    )  # fmt: skip
    return run_stage(options.command, inputs, options.minutes)


def _ship(options: argparse.Namespace) -> dict[str, Any]:
    from ..nano.recipe import NANO_MODEL
    from ..nano.ship import ship

    ship(
        options.checkpoint, options.out, NANO_MODEL, codec_file(options),
        json.loads(options.lineage), words=options.words,
    )  # fmt: skip
    return {"out": str(options.out)}
