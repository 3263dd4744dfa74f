"""Trains and measures every variant of a table, each with the same time; resumable anywhere.

Called by ``python -m shotstream_distill ablate``. Finished variants are skipped, an unfinished one
goes on from its checkpoints and its measured stories. Equal time is turned into steps once, by
timing a few steps of every stage of the base, so that a busy machine changes nothing later on.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_rt.errors import ConfigError

from ..common.processes import Processes, join
from ..common.product import load_product, save_product, start_weights
from ..evaluation.context_gate import run_gate
from ..evaluation.evaluate import EvaluationConfig, evaluate
from ..evaluation.text_table import markdown_table
from ..nano.flow import train_flow
from ..nano.recipe import DistillConfig, TrainConfig
from ..nano.ship import ship
from ..nano.trajectory import distill_nano
from ..paper.data_sources import codec_file, make_services
from ..paper.finish import ship_run
from ..paper.ode_pairs import make_pairs
from ..paper.run import Run
from ..paper.run_config import RunConfig
from ..paper.stage_config import DmdConfig, PairsConfig, StageConfig, TrainedConfig
from .shared_stages import take_over
from .table import AblationTable, Variant, column

_log = logging.getLogger("shotstream_distill.ablations")

_TIMED_STEPS, _TIMED_ROUNDS = 6, 2
_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationConfig:
    """What to run.

    Attributes:
        table: committed table or JSON file.
        minutes: training time of each variant.
        folder: where everything goes.
        stories: held-out stories of each variant's evaluation.
        shots: shots of each.
        seed: which held-out stories.
        jobs: processes of the evaluation.
        device: of the training.
    """

    table: str
    minutes: float
    folder: Path
    stories: int = 40
    shots: int = 5
    seed: int = 3
    jobs: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the time."""
        if not self.minutes > 0:
            raise ConfigError(f"minutes: got {self.minutes}, wanted a positive number")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    partial.replace(path)


def remember(config: AblationConfig, table: AblationTable) -> None:
    """Note what the folder belongs to, or check it.

    Raises:
        ConfigError: the folder holds another ablation.
    """
    mine = {
        "minutes": config.minutes, "stories": config.stories, "shots": config.shots,
        "seed": config.seed, "base": table.base_config(), "shares": dict(table.shares),
        "variants": json.loads(json.dumps([dataclasses.asdict(v) for v in table.variants])),
    }  # fmt: skip
    path = config.folder / "ablation.json"
    if not path.is_file():
        write_json(path, mine)
        return
    theirs = json.loads(path.read_text("utf-8"))
    changed = sorted(key for key in mine if mine[key] != theirs.get(key))
    if changed:
        raise ConfigError(
            f"{config.folder}: holds an ablation with another {', '.join(changed)}; wanted the "
            "same to go on with, or an empty folder"
        )


def steps_of_a_round(stage: TrainedConfig) -> int:
    """Steps after which a stage's costs repeat: a student's step and its critic's."""
    return stage.critic_updates + 1 if isinstance(stage, DmdConfig) else 1


def time_stages(config: RunConfig, folder: Path, processes: Processes) -> dict[str, float]:
    """Return seconds of one step (or one trajectory) of every stage; kept in ``timing.json``.

    Args:
        config: the base of the table.
        folder: of the ablation; ``timing.json`` and scratch files go there.
        processes: who takes part.
    """
    path = folder / "timing.json"
    if path.is_file():
        known: dict[str, float] = json.loads(path.read_text("utf-8"))
        return known
    stages: list[StageConfig] = []
    for stage in config.stages:
        if isinstance(stage, PairsConfig):
            stages.append(dataclasses.replace(stage, pairs=stage.batch))
        elif isinstance(stage, TrainedConfig):
            steps = max(_TIMED_STEPS, _TIMED_ROUNDS * steps_of_a_round(stage))
            stages.append(dataclasses.replace(stage, steps=steps))
    short = dataclasses.replace(config, name="timing", stages=tuple(stages), gate="off")
    place = folder / "timing"
    run = Run(short, place, processes)
    report = run.go()
    assert report is not None
    seconds: dict[str, float] = {}
    for stage in stages:
        if isinstance(stage, PairsConfig):
            shop, weights = (
                make_services(short, place, processes), load_product(run.product(stage.teacher))
            )  # fmt: skip
            begun = time.monotonic()
            make_pairs(shop, stage, weights, place / f"{stage.name}-timed-{time.time_ns()}")
            seconds[stage.name] = (time.monotonic() - begun) / stage.pairs
        elif isinstance(stage, TrainedConfig):
            seconds[stage.name] = report[stage.name]["train_s"] / stage.steps
    write_json(path, seconds)
    return seconds


def amounts(
    config: RunConfig, shares: Mapping[str, float], seconds: Mapping[str, float], minutes: float
) -> dict[str, int]:
    """Return the steps (or trajectories) of every stage that its share of the time allows.

    Args:
        config: the run whose stages get steps.
        shares: of the time, by stage.
        seconds: of one step, by stage, from ``time_stages``.
        minutes: of the whole variant.
    """
    found = {}
    for stage in config.stages:
        count = shares[stage.name] * minutes * _SECONDS / max(seconds[stage.name], 1e-6)
        if isinstance(stage, TrainedConfig):
            found[stage.name] = max(int(count), steps_of_a_round(stage))
        elif isinstance(stage, PairsConfig):
            found[stage.name] = max(int(count), stage.batch)
    return found


def train_variant(
    config: AblationConfig, table: AblationTable, variant: Variant, processes: Processes,
    seconds: Mapping[str, float],
) -> Path:  # fmt: skip
    """Train a variant, or go on with it; returns its student's folder.

    Args:
        config: what to run.
        table: base and variants.
        variant: the one to train.
        processes: who takes part.
        seconds: of one step, by stage.
    """
    folder = config.folder / variant.name
    student, shares = folder / "student", table.time_shares(variant)
    plain = table.config(variant)
    stream, start = plain.stream, ""
    if variant.recipe != "paper":
        bank, model, phase = Path(plain.data.path), stream.model, stream.shot.shot_phase
        flow = TrainConfig(model=model, shot_phase=phase, computing_time=True)
        distil = DistillConfig(model=model, shot_phase=phase, computing_time=True)
        begun = None if plain.start == "random" else folder / "start.pt"
        if begun is not None and processes.leads:
            weights = start_weights(plain.start, model, text=True, seed=plain.seed)
            save_product(begun, weights, steps=0, train_s=0.0, stage="start")
        processes.wait()
        train_flow(folder, bank, shares["flow"] * config.minutes, flow, begun)
        distill_nano(folder, bank, shares["distil"] * config.minutes, distil)
        start = str(folder / "distilled.pt")
    if variant.recipe == "causal":
        lineage = {"table": table.name, "variant": variant.name, "minutes": config.minutes}
        ship(
            folder / "distilled.pt", student, stream.model, codec_file(plain), lineage,
            stream=stream,
        )  # fmt: skip
        return student
    wanted = table.config(variant, amounts(plain, shares, seconds, config.minutes))
    if start:
        wanted = dataclasses.replace(wanted, start=start)
    run = Run(wanted, folder / "run", processes, run_gate(wanted, config.folder / "gate"))
    if processes.leads:
        others = (config.folder / v.name / "run" for v in table.variants if v is not variant)
        take_over(run.folder, others)
    processes.wait()
    run.go()
    ship_run(run, student)
    return student


def ablate(config: AblationConfig) -> dict[str, Any]:
    """Train and measure every variant of a table.

    Returns:
        Plain JSON types: ``title``, ``minutes``, ``columns``, ``rows`` (variant, figures with
        intervals, seconds), ``missing``, and ``apart``: by column, the pairs of variants whose
        intervals do not overlap. Also written as ``table.json``, ``table.md`` and, where matplotlib
        is installed, ``table.png``.
    """
    table = AblationTable.read(config.table)
    remember(config, table)
    rows: list[dict[str, Any]] = []
    with join(config.device) as processes:
        base = RunConfig.from_dict(table.base_config())
        staged = any(variant.recipe != "causal" for variant in table.variants)
        seconds = time_stages(base, config.folder, processes) if staged else {}
        for number, variant in enumerate(table.variants, start=1):
            told = config.folder / variant.name / "report.json"
            if told.is_file():
                _log.info("%s: done before", variant.name)
                report = json.loads(told.read_text("utf-8"))
            else:
                _log.info("%s: variant %d of %d", variant.name, number, len(table.variants))
                begun = time.monotonic()
                student = train_variant(config, table, variant, processes, seconds)
                report = evaluate(
                    EvaluationConfig(
                        model=str(student), stories=config.stories, shots=config.shots,
                        seed=config.seed, jobs=config.jobs,
                        records=config.folder / variant.name / "records.jsonl",
                    )
                )  # fmt: skip
                report["wall_s"] = round(time.monotonic() - begun)
                write_json(told, report)
            figures = {name: column(report, name) for name in table.columns}
            rows.append({"variant": variant.name, "figures": figures, "wall_s": report["wall_s"]})
            result = _result(table, config, rows)
            write_json(config.folder / "table.json", result)
    (config.folder / "table.md").write_text(markdown_table(result), "utf-8")
    _plot(result, config.folder / "table.png")
    return result


def _result(
    table: AblationTable, config: AblationConfig, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    apart: dict[str, list[list[str]]] = {}
    for name in table.columns:
        there = [(row["variant"], row["figures"][name]) for row in rows if row["figures"][name]]
        apart[name] = [
            [first, second]
            for index, (first, a) in enumerate(there)
            for second, b in there[index + 1 :]
            if a["high"] < b["low"] or b["high"] < a["low"]
        ]
    return {
        "table": table.name, "title": table.title, "minutes": config.minutes,
        "stories": config.stories, "shots": config.shots, "columns": list(table.columns),
        "rows": rows, "missing": dict(table.missing), "apart": apart,
    }  # fmt: skip


def _plot(result: Mapping[str, Any], path: Path) -> None:
    try:
        from ..evaluation.plots import plot_table
    except ImportError as error:
        _log.warning("no plot: %s; pip install 'shotstream_rt[bench]'", error)
        return
    plot_table(result, path)
