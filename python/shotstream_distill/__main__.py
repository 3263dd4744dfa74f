"""Command line of the training package.

    run            the paper's whole pipeline by preset: teacher to streaming student
    make-bank      draw stories and encode them (may run beside training)
    train-nano     flow matching of the student, resumable
    distill-nano   distillation to four steps, resumable
    train-reader   train the reader of facts that reward-nano needs
    reward-nano    reward a few-step student for what a reader sees in its films, resumable
    guide-nano     teach a few-step student what guidance makes of its last steps, resumable
    choose-nano    teach a few-step student the best of its own answers, resumable
    recall-nano    teach a few-step student to recall what captions leave out, resumable
    carry-over     take a student over to a codec that was trained further
    ship-nano      write a checkpoint as a student folder
    train-codec    train the codec on drawn clips, resumable
    graft-codec    give a codec another one's decoder; its latents stay
    tune-detector  train the evaluation's detector further
    evaluate       score a model on held-out stories
    fit-identity   fit the descriptors that consistency is measured with
    gate           examine whether a checkpoint uses its context
    ablate         train and measure the variants of a table

Every command takes ``--json``: one JSON object as the last line of standard output. Exit code 2
means a mistake in the arguments.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from shotstream_rt.errors import ShotStreamError

from .paper.command import add_options, run_command

_RUN, _BANK = Path("runs/nano"), Path("runs/bank")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shotstream_distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="one JSON object as the last line")
        return made

    add_options(command("run", "run or resume a preset's whole pipeline"))
    bank = command("make-bank", "draw stories and encode them into shards")
    bank.add_argument("--bank", type=Path, default=_BANK, help="folder of shards")
    bank.add_argument("--codec", type=Path, help="codec.safetensors (default: the shipped one)")
    bank.add_argument("--shards", type=int, default=40, help="shards to write")
    bank.add_argument("--stories", type=int, default=64, help="stories per shard")
    bank.add_argument("--first-seed", type=int, default=0, help="seed of the first story")
    bank.add_argument("--long", action="store_true", help="whole shots, not their beginnings")
    for name, text in (
        ("train-nano", "flow matching of the student"),
        ("distill-nano", "distillation to four steps"),
    ):
        train = command(name, text)
        train.add_argument("--run", type=Path, default=_RUN, help="folder of checkpoints")
        train.add_argument("--bank", type=Path, default=_BANK, help="folder of shards")
        train.add_argument("--minutes", type=float, required=True, help="wall time in total")
        train.add_argument("--start", type=Path, help="checkpoint that a new run begins with")
    reader = command("train-reader", "train the reader of facts that reward-nano needs")
    reader.add_argument("--bank", type=Path, default=_BANK, help="folder of shards, two or more; "
                        "the last is kept for the test. Few stories are learned by heart: 5000 "
                        "shots at least")  # fmt: skip
    reader.add_argument("--minutes", type=float, required=True, help="wall time")
    reader.add_argument("--start", type=Path, help="weights to start from (default: none)")
    reader.add_argument("--out", type=Path, required=True, help="file to write")
    for name, told, read in (
        ("reward-nano", "reward a few-step student for what a reader sees in its films", True),
        ("guide-nano", "teach a few-step student what guidance makes of its last steps", False),
        ("choose-nano", "teach a few-step student the best of its own answers", True),
        ("recall-nano", "teach a few-step student to recall what captions leave out", False),
    ):
        stage = command(name, told)
        stage.add_argument("--run", type=Path, default=_RUN, help="folder of checkpoints")
        stage.add_argument("--bank", type=Path, default=_BANK, help="folder of shards (--long)")
        stage.add_argument("--minutes", type=float, required=True, help="wall time in total")
        if read:
            stage.add_argument("--reader", type=Path, required=True, help="weights of train-reader")
        stage.add_argument("--start", default="nano", help="nano, a student folder or a checkpoint")
    carry = command("carry-over", "carry a student over to a codec that was trained further")
    carry.add_argument("--checkpoint", type=Path, required=True, help="of train- or distill-nano")
    carry.add_argument("--old", type=Path, required=True, help="codec it was trained on")
    carry.add_argument("--new", type=Path, required=True, help="codec it shall work with")
    carry.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    ship = command("ship-nano", "write a checkpoint as a student folder")
    ship.add_argument("--checkpoint", type=Path, default=_RUN / "distilled.pt")
    ship.add_argument("--codec", type=Path, help="codec.safetensors (default: the shipped one)")
    ship.add_argument("--out", type=Path, required=True, help="folder to write")
    ship.add_argument("--words", type=int, help="leading words of the vocabulary that it was "
                      "trained with (default: all)")  # fmt: skip
    ship.add_argument("--lineage", default="{}", help="JSON object kept in student.json")
    train = command("train-codec", "train the codec on drawn clips")
    train.add_argument("--run", type=Path, default=Path("runs/codec"), help="folder of checkpoints")
    train.add_argument("--start", type=Path, help="weights to start from (default: none)")
    train.add_argument("--minutes", type=float, required=True, help="wall time in total")
    train.add_argument("--freeze-encoder", action="store_true",
                       help="train the decoder alone: latents and students stay valid")  # fmt: skip
    train.add_argument("--rough-share", type=float, default=0.0,
                       help="share of clips whose latents are as wrong as a student's: steadier "
                       "pictures from a student for a little less detail")  # fmt: skip
    train.add_argument("--keep-latents", type=float, default=0.0,
                       help="weight of the distance from the latents that the codec begins with: "
                       "the encoder learns and students stay valid (0: off; try 0.05)")  # fmt: skip
    train.add_argument("--rate", type=float, default=2e-3,
                       help="learning rate (default: 2e-3; 1e-3 from good weights)")  # fmt: skip
    train.add_argument("--clip-frames", type=int, default=5, help="frames of a clip, 1 + 4k")
    graft = command("graft-codec", "give a codec another one's decoder; its latents stay")
    graft.add_argument("--encoder", type=Path, required=True, help="codec whose latents stay")
    graft.add_argument("--decoder", type=Path, required=True, help="codec whose decoder is taken")
    graft.add_argument("--out", type=Path, required=True, help="file to write")
    tune = command("tune-detector", "train the detector further")
    tune.add_argument("--minutes", type=float, required=True, help="wall time")
    tune.add_argument("--start", type=Path, help="weights to start from (default: shipped)")
    tune.add_argument("--codec", type=Path, help="codec.safetensors whose pictures it sees too")
    tune.add_argument("--out", type=Path, required=True, help="file to write")
    score = command("evaluate", "score a model on held-out stories")
    score.add_argument("--model", default="nano", help="nano or a student folder")
    score.add_argument("--profile", default="exact", help="of the session (default: exact)")
    score.add_argument("--captions", default="story", choices=("story", "spare"), help="spare: "
                       "everyone is described once, and later shots must recall it "
                       "(default: story)")  # fmt: skip
    score.add_argument("--stories", type=int, default=100, help="held-out stories")
    score.add_argument("--shots", type=int, default=5, help="shots of each story")
    score.add_argument("--seed", type=int, default=0, help="which held-out stories")
    score.add_argument("--threads", type=int, default=1, help="CPU threads of the student")
    score.add_argument("--jobs", type=int, default=1, help="processes")
    score.add_argument("--ceilings", action="store_true", help="score drawn frames and codec too")
    score.add_argument("--only-ceilings", action="store_true", help="score true pictures only")
    score.add_argument("--records", type=Path, help="file of finished stories, to go on from")
    score.add_argument("--sheet", type=Path, help="PNG of the first stories")
    score.add_argument("--pretrained", type=Path, help="folder of the paper's networks, if any")
    score.add_argument("--plots", type=Path, help="folder for PNG plots (needs matplotlib)")
    score.add_argument("--teacher", type=Path, help="checkpoint that makes the films instead of "
                       "the model (of which the codec is used)")  # fmt: skip
    score.add_argument("--teacher-form", default="causal", choices=("causal", "bidirectional"))
    score.add_argument("--teacher-steps", type=int, default=50, help="of each chunk or shot")
    score.add_argument("--teacher-guidance", type=float, default=2.5, help="1 is none")
    score.add_argument("--against", type=Path, help="records to divide the adherence figures by")
    gate = command("gate", "examine whether a checkpoint uses its context")
    gate.add_argument("--model", default="nano", help="nano, a student folder or a checkpoint")
    gate.add_argument("--teacher", action="store_true", help="it is a bidirectional teacher")
    gate.add_argument("--bank", type=Path, help="training shards, for a better probe")
    gate.add_argument("--folder", type=Path, default=Path("runs/gate"), help="keeps the scenes")
    ablate = command("ablate", "train and measure the variants of a table")
    ablate.add_argument("--table", required=True, help="indicator, context, caption, stages, "
                        "recipes or a JSON file")  # fmt: skip
    ablate.add_argument("--minutes", type=float, required=True, help="training of each variant")
    ablate.add_argument("--folder", type=Path, help="default: runs/ablations/TABLE")
    ablate.add_argument("--stories", type=int, default=40, help="held-out stories of a variant")
    ablate.add_argument("--shots", type=int, default=5, help="shots of each story")
    ablate.add_argument("--seed", type=int, default=3, help="which held-out stories")
    ablate.add_argument("--jobs", type=int, default=1, help="processes of the evaluation")
    ablate.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    identity = command("fit-identity", "fit the descriptors that consistency is measured with")
    identity.add_argument("--stories", type=int, default=200, help="drawn stories")
    identity.add_argument("--codec", type=Path, help="codec.safetensors (default: shipped)")
    identity.add_argument("--out", type=Path, required=True, help="file to write")
    return parser


def _teach_itself(options: argparse.Namespace) -> dict[str, Any]:
    from .recall import RecallTrainer
    from .recipe import GuideConfig, RecallConfig, SelfTaughtConfig
    from .self_guidance import SelfGuidanceTrainer
    from .self_taught import SelfTaughtTrainer, teach_itself

    stages: dict[str, tuple[type[SelfTaughtTrainer], SelfTaughtConfig]] = {
        "guide-nano": (SelfGuidanceTrainer, GuideConfig()),
        "recall-nano": (RecallTrainer, RecallConfig()),
    }
    trainer, recipe = stages[options.command]
    made = teach_itself(
        trainer, recipe, options.run, options.bank, options.minutes, start=options.start
    )
    return {"checkpoint": str(made)}


def _gate(options: argparse.Namespace) -> dict[str, Any]:
    from .metrics.gate import context_gate

    verdict = context_gate(
        options.model, folder=options.folder, bidirectional=options.teacher, bank=options.bank
    )
    passed = "passed" if verdict.passed else "failed"
    print(f"{options.model}: {passed}: {verdict.summary}")  # noqa: T201 - a command's output
    return {"passed": verdict.passed, **verdict.figures}


def _ablate(options: argparse.Namespace) -> dict[str, Any]:
    from .ablations.runner import AblationConfig, ablate
    from .metrics.text_table import markdown_table

    folder = options.folder or Path("runs/ablations") / Path(options.table).stem
    table = ablate(
        AblationConfig(
            table=options.table, minutes=options.minutes, folder=folder, stories=options.stories,
            shots=options.shots, seed=options.seed, jobs=options.jobs, device=options.device,
        )
    )  # fmt: skip
    print(markdown_table(table), end="")  # noqa: T201 - a command's output
    for name, reason in table["missing"].items():
        print(f"{name}: {reason}")  # noqa: T201 - a command's output
    return table


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    from .evaluate import EvaluationConfig, evaluate, measure_ceilings
    from .metrics.teacher_film import TeacherConfig
    from .metrics.text_table import report_lines

    teacher = options.teacher and TeacherConfig(
        checkpoint=options.teacher, form=options.teacher_form, steps=options.teacher_steps,
        guidance=options.teacher_guidance,
    )  # fmt: skip
    config = EvaluationConfig(
        model=options.model, profile=options.profile, captions=options.captions,
        stories=options.stories,
        shots=options.shots, seed=options.seed, threads=options.threads, jobs=options.jobs,
        ceilings=options.ceilings, records=options.records, sheet=options.sheet,
        pretrained=options.pretrained, teacher=teacher, against=options.against,
    )  # fmt: skip
    if options.only_ceilings:
        return measure_ceilings(config)
    report = evaluate(config)
    print(*report_lines(report), sep="\n")  # noqa: T201 - a command's output
    if options.plots is not None:
        from .metrics.plots import plot_report

        report["plots"] = [str(path) for path in plot_report(report, options.plots)]
    return report


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from shotstream_rt.model.loading import NANO_FOLDER

    codec = getattr(options, "codec", None) or NANO_FOLDER / "codec.safetensors"
    if options.command == "run":
        return run_command(options)
    if options.command == "make-bank":
        from .make_bank import make_bank

        make_bank(
            options.bank, codec, shards=options.shards, stories=options.stories,
            first_seed=options.first_seed, long=options.long,
        )  # fmt: skip
        return {"bank": str(options.bank)}
    if options.command == "train-nano":
        from .flow import train_flow

        train_flow(options.run, options.bank, options.minutes, start=options.start)
        return {"checkpoint": str(options.run / "flow.pt")}
    if options.command == "distill-nano":
        from .trajectory import distill_nano

        distill_nano(options.run, options.bank, options.minutes, start=options.start)
        return {"checkpoint": str(options.run / "distilled.pt")}
    if options.command == "train-reader":
        from .train_reader import train_reader

        return {
            "right": train_reader(options.bank, options.out, options.minutes, start=options.start)
        }
    if options.command == "reward-nano":
        from .reward import reward_nano

        made = reward_nano(
            options.run, options.bank, options.minutes, options.reader, start=options.start
        )
        return {"checkpoint": str(made)}
    if options.command in ("guide-nano", "recall-nano"):
        return _teach_itself(options)
    if options.command == "choose-nano":
        from .choice import choose_nano

        made = choose_nano(
            options.run, options.bank, options.minutes, options.reader, start=options.start
        )
        return {"checkpoint": str(made)}
    if options.command == "carry-over":
        from .carry_over import carry_over_file

        return carry_over_file(options.checkpoint, options.old, options.new, options.out)
    if options.command == "ship-nano":
        from .recipe import NANO_MODEL
        from .ship import ship

        ship(
            options.checkpoint, options.out, NANO_MODEL, codec, json.loads(options.lineage),
            words=options.words,
        )  # fmt: skip
        return {"out": str(options.out)}
    if options.command == "train-codec":
        from .train_codec import CodecConfig, train_codec

        recipe = CodecConfig(
            freeze_encoder=options.freeze_encoder, rough_share=options.rough_share,
            keep_latents=options.keep_latents, clip_frames=options.clip_frames, rate=options.rate,
        )  # fmt: skip
        return train_codec(options.run, options.start, options.minutes, recipe)
    if options.command == "graft-codec":
        from .graft_codec import graft_codec

        return graft_codec(options.encoder, options.decoder, options.out)
    if options.command == "tune-detector":
        from .detectors import DETECTOR_FILE
        from .tune_detector import tune_detector

        return tune_detector(
            options.start or DETECTOR_FILE, options.out, options.minutes, codec_file=options.codec
        )
    if options.command == "gate":
        return _gate(options)
    if options.command == "ablate":
        return _ablate(options)
    if options.command == "fit-identity":
        from .metrics.fit_identity import fit_identity

        return {"cosines": fit_identity(options.out, codec, stories=options.stories)}
    return _evaluate(options)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    # The runtime reports every session and shot; here only this package's progress matters.
    logging.getLogger("shotstream_rt").setLevel(logging.WARNING)
    try:
        report = _run(options)
    except (ShotStreamError, OSError, ValueError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    if options.json:
        print(json.dumps(report))  # noqa: T201 - a command's output
    return 0


if __name__ == "__main__":
    status = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from .paper.processes import leave

        leave(status)
    sys.exit(status)
