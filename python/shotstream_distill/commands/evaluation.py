"""The commands that measure a model: evaluation, context gate, ablations, detectors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import AddCommand, Command, codec_file


def add_commands(add: AddCommand) -> dict[str, Command]:
    """Declare the commands; returns what runs each."""
    tune = add("tune-detector", "train the detector further")
    tune.add_argument("--minutes", type=float, required=True, help="wall time")
    tune.add_argument("--start", type=Path, help="weights to start from (default: shipped)")
    tune.add_argument("--codec", type=Path, help="codec.safetensors whose pictures it sees too")
    tune.add_argument("--out", type=Path, required=True, help="file to write")
    score = add("evaluate", "score a model on held-out stories")
    score.add_argument("--model", default="nano", help="nano or a student folder")
    score.add_argument("--profile", default="exact", help="of the session (default: exact)")
    score.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the session")
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
    score.add_argument("--plots", type=Path, help="folder for PNG plots (needs matplotlib)")
    score.add_argument("--teacher", type=Path, help="checkpoint that makes the films instead of "
                       "the model (of which the codec is used)")  # fmt: skip
    score.add_argument("--teacher-form", default="causal", choices=("causal", "bidirectional"))
    score.add_argument("--teacher-steps", type=int, default=50, help="of each chunk or shot")
    score.add_argument("--teacher-guidance", type=float, default=2.5, help="1 is none")
    score.add_argument("--against", type=Path, help="records to divide the adherence figures by")
    direct = add("directed", "measure what pins and re-reading after a prompt do")
    direct.add_argument("--model", default="nano", help="nano or a student folder")
    direct.add_argument("--stories", type=int, default=100, help="held-out stories")
    direct.add_argument("--seed", type=int, default=0, help="which held-out stories")
    direct.add_argument("--chunks", type=int, default=3, help="of each shot of films with pins")
    direct.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the sessions")
    direct.add_argument("--jobs", type=int, default=1, help="processes")
    direct.add_argument("--records", type=Path, help="file of finished stories, to go on from")
    gate = add("gate", "examine whether a checkpoint uses its context")
    gate.add_argument("--model", default="nano", help="nano, a student folder or a checkpoint")
    gate.add_argument("--teacher", action="store_true", help="it is a bidirectional teacher")
    gate.add_argument("--bank", type=Path, help="training shards, for a better probe")
    gate.add_argument("--folder", type=Path, default=Path("runs/gate"), help="keeps the scenes")
    identity = add("fit-identity", "fit the descriptors that consistency is measured with")
    identity.add_argument("--stories", type=int, default=200, help="drawn stories")
    identity.add_argument("--codec", type=Path, help="codec.safetensors (default: shipped)")
    identity.add_argument("--out", type=Path, required=True, help="file to write")
    ablate = add("ablate", "train and measure the variants of a table")
    ablate.add_argument("--table", required=True, help="indicator, context, caption, stages, "
                        "recipes or a JSON file")  # fmt: skip
    ablate.add_argument("--minutes", type=float, required=True, help="training of each variant")
    ablate.add_argument("--folder", type=Path, help="default: runs/ablations/TABLE")
    ablate.add_argument("--stories", type=int, default=40, help="held-out stories of a variant")
    ablate.add_argument("--shots", type=int, default=5, help="shots of each story")
    ablate.add_argument("--seed", type=int, default=3, help="which held-out stories")
    ablate.add_argument("--jobs", type=int, default=1, help="processes of the evaluation")
    ablate.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return {
        "tune-detector": _tune_detector,
        "fit-identity": _fit_identity,
        "evaluate": _evaluate,
        "directed": _directed,
        "gate": _gate,
        "ablate": _ablate,
    }


def _tune_detector(options: argparse.Namespace) -> dict[str, Any]:
    from ..evaluation.detectors import DETECTOR_FILE
    from ..evaluation.tune_detector import tune_detector

    return tune_detector(
        options.start or DETECTOR_FILE, options.out, options.minutes, codec_file=options.codec
    )


def _fit_identity(options: argparse.Namespace) -> dict[str, Any]:
    from ..evaluation.fit_identity import fit_identity

    return {"cosines": fit_identity(options.out, codec_file(options), stories=options.stories)}


def _directed(options: argparse.Namespace) -> dict[str, Any]:
    from ..evaluation.directed import DirectedConfig, directed, table_lines

    report = directed(
        DirectedConfig(
            model=options.model, stories=options.stories, seed=options.seed, chunks=options.chunks,
            dtype=options.dtype, jobs=options.jobs, records=options.records,
        )
    )  # fmt: skip
    print(*table_lines(report), sep="\n")  # noqa: T201 - a command's output
    return report


def _gate(options: argparse.Namespace) -> dict[str, Any]:
    from ..evaluation.context_gate import context_gate

    verdict = context_gate(
        options.model, folder=options.folder, bidirectional=options.teacher, bank=options.bank
    )
    passed = "passed" if verdict.passed else "failed"
    print(f"{options.model}: {passed}: {verdict.summary}")  # noqa: T201 - a command's output
    return {"passed": verdict.passed, **verdict.figures}


def _ablate(options: argparse.Namespace) -> dict[str, Any]:
    from ..ablations.runner import AblationConfig, ablate
    from ..evaluation.text_table import markdown_table

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
    from ..evaluation.evaluate import EvaluationConfig, evaluate, measure_ceilings
    from ..evaluation.teacher_film import TeacherConfig
    from ..evaluation.text_table import report_lines

    teacher = options.teacher and TeacherConfig(
        checkpoint=options.teacher, form=options.teacher_form, steps=options.teacher_steps,
        guidance=options.teacher_guidance,
    )  # fmt: skip
    config = EvaluationConfig(
        model=options.model, profile=options.profile, dtype=options.dtype,
        captions=options.captions, stories=options.stories,
        shots=options.shots, seed=options.seed, threads=options.threads, jobs=options.jobs,
        ceilings=options.ceilings, records=options.records, sheet=options.sheet,
        teacher=teacher, against=options.against,
    )  # fmt: skip
    if options.only_ceilings:
        return measure_ceilings(config)
    report = evaluate(config)
    print(*report_lines(report), sep="\n")  # noqa: T201 - a command's output
    if options.plots is not None:
        from ..evaluation.plots import plot_report

        report["plots"] = [str(path) for path in plot_report(report, options.plots)]
    return report
