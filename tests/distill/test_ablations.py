"""Ablation tables: committed ones are valid; a run skips what is done and reports intervals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from shotstream_distill.ablations import runner
from shotstream_distill.ablations.runner import AblationConfig, ablate, amounts
from shotstream_distill.ablations.shared_stages import take_over
from shotstream_distill.ablations.table import TABLES, AblationTable, column
from shotstream_distill.evaluation.text_table import markdown_table
from shotstream_distill.paper.run_config import RunConfig
from shotstream_distill.paper.stage_config import DmdConfig, PairsConfig, StageConfig, TeacherConfig
from shotstream_rt.errors import ConfigError

COMMITTED = sorted(path.stem for path in TABLES.glob("*.json") if path.stem != "base")


def test_the_papers_tables_are_there() -> None:
    assert set(COMMITTED) == {"indicator", "context", "caption", "stages", "recipes"}


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_tables_are_valid(name: str) -> None:
    table = AblationTable.read(name)
    for variant in table.variants:
        config = table.config(variant)
        shares = table.time_shares(variant)
        assert sum(shares.values()) == pytest.approx(1)
        if variant.recipe == "paper":
            assert set(shares) == {stage.name for stage in config.stages}
        assert RunConfig.from_dict(config.to_dict()) == config


def _variant(table: str, name: str) -> RunConfig:
    read = AblationTable.read(table)
    return read.config(next(v for v in read.variants if v.name == name))


def test_variants_change_what_they_say() -> None:
    assert not _variant("indicator", "none").stream.shot.shot_phase
    assert _variant("indicator", "none").stream.shot.multi_caption
    assert _variant("indicator", "rope-phase").stream.shot.shot_phase
    assert _variant("context", "first").stream.cache.context_choice == "first"
    target = _variant("caption", "target-caption")
    assert not target.stream.shot.multi_caption
    assert target.quirks.single_caption
    kinds = [stage.kind for stage in _variant("stages", "stage-2-only").stages]
    assert "inter_shot" in kinds
    assert "intra_shot" not in kinds


def test_a_dropped_stage_s_followers_build_on_what_it_built_on() -> None:
    later = _variant("stages", "both").stages
    assert [stage.name for stage in later] == ["teacher", "intra-shot", "inter-shot"]
    assert isinstance(later[0], TeacherConfig)
    assert later[0].start == ""  # the dropped single frames began with the run's start
    assert isinstance(later[2], DmdConfig)
    assert later[2].start == "intra-shot"


def test_every_variant_of_a_table_costs_the_same() -> None:
    table = AblationTable.read("stages")
    base = RunConfig.from_dict(table.base_config())
    seconds = {stage.name: 0.5 + index for index, stage in enumerate(base.stages)}
    for variant in table.variants:
        config = table.config(variant)
        found = amounts(config, table.time_shares(variant), seconds, 60)
        cost = sum(seconds[name] * count for name, count in found.items())
        assert cost == pytest.approx(3600, rel=0.02)


def _run_folder(folder: Path, config: RunConfig) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(config.to_dict()), "utf-8")
    return folder


def _finish(folder: Path, stage: StageConfig) -> None:
    names = [f"{stage.name}.pt", f"{stage.name}.json"]
    if isinstance(stage, PairsConfig):
        names = [f"{stage.name}/{index:06d}.pt" for index in range(stage.pairs)]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{folder}: {name}", "utf-8")


def test_what_another_variant_did_alike_is_taken_over(tmp_path: Path) -> None:
    alone, whole = _variant("recipes", "paper-without-dmd"), _variant("recipes", "paper")
    names = [stage.name for stage in alone.stages]
    assert names == ["frames", "teacher", "pairs", "ode"]
    other = _run_folder(tmp_path / "alone/run", alone)
    for stage in alone.stages:
        _finish(other, stage)
    mine = _run_folder(tmp_path / "whole/run", whole)
    (mine / "teacher.json").write_text("mine", "utf-8")
    assert take_over(mine, [tmp_path / "none", other]) == names
    assert (mine / "teacher.json").read_text("utf-8") == "mine"
    assert (mine / "ode.pt").read_text("utf-8") == f"{other}: ode.pt"
    assert len(list((mine / "pairs").iterdir())) == 4
    # A last stage of another length is not the same.
    longer = dataclasses.replace(whole.stages[3], steps=2)  # type: ignore[call-arg]
    changed = dataclasses.replace(whole, stages=(*whole.stages[:3], longer, *whole.stages[4:]))
    third = _run_folder(tmp_path / "longer/run", changed)
    assert take_over(third, [other]) == names[:3]


def test_half_done_and_different_stages_are_not_taken_over(tmp_path: Path) -> None:
    config = _variant("recipes", "paper")
    other = _run_folder(tmp_path / "other/run", config)
    for stage in config.stages[:4]:
        _finish(other, stage)
    (other / "pairs/000002.pt").unlink()
    mine = _run_folder(tmp_path / "mine/run", config)
    assert take_over(mine, [other]) == ["frames", "teacher"]
    assert not (mine / "pairs").exists()
    changed = _run_folder(tmp_path / "changed/run", dataclasses.replace(config, seed=9))
    assert take_over(changed, [other]) == []
    assert [path.name for path in changed.iterdir()] == ["run.json"]


def _table(tmp_path: Path, **changes: Any) -> Path:
    data = {
        "title": "Two seeds",
        "base": "nano-smoke",
        "shares": {"teacher": 0.6, "pairs": 0.1, "ode": 0.1, "intra-shot": 0.1, "inter-shot": 0.1},
        "columns": ["adherence", "tint", "last_clarity", "hue"],
        "variants": [{"name": "a"}, {"name": "b", "changes": {"seed": 7}}],
        **changes,
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data), "utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ["beauty"]}, "columns"),
        ({"variants": [{"name": "a"}]}, "at least two"),
        ({"variants": [{"name": "a"}, {"name": "b", "changes": {"stages.x.batch": 1}}]}, "'x'"),
        ({"variants": [{"name": "a"}, {"name": "b", "drop": ["intra-shot"]}]}, "add up"),
        ({"shares": {"teacher": 1.0, "pairs": 0.5}}, "add up"),
        ({"surprise": 1}, "unknown"),
    ],
)
def test_a_wrong_table_is_told_before_anything_is_trained(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        AblationTable.read(str(_table(tmp_path, **changes)))


def _figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 10}


def _report(value: float) -> dict[str, Any]:
    tint = {"given": value, "own": 0.0, "n": 30, "intervals": {"given": [value, value + 0.1]}}
    return {
        "means": {"adherence": _figure(value)},
        "by_shot": [{"clarity": _figure(0.1)}, {"clarity": _figure(0.9)}],
        "tint": tint,
    }


def test_columns_are_found_in_reports() -> None:
    report = _report(0.5)
    assert column(report, "last_clarity") == _figure(0.9)
    assert column(report, "tint") == {"value": 0.5, "low": 0.5, "high": 0.6, "n": 30}
    assert column(report, "hue") is None


def test_finished_variants_are_skipped_and_differences_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def train(
        config: AblationConfig, table: AblationTable, variant: Any, processes: Any, seconds: Any
    ) -> Path:
        trained.append(variant.name)
        return config.folder / str(variant.name) / "student"

    def measure(config: Any) -> dict[str, Any]:
        if "broken" in trained:
            raise RuntimeError("stopped")
        return _report(0.2 if "a" in Path(config.model).parent.name else 0.8)

    monkeypatch.setattr(runner, "train_variant", train)
    monkeypatch.setattr(runner, "evaluate", measure)
    monkeypatch.setattr(runner, "time_stages", lambda *_: {})
    config = AblationConfig(table=str(_table(tmp_path)), minutes=1, folder=tmp_path / "out")
    trained.append("broken")
    with pytest.raises(RuntimeError, match="stopped"):
        ablate(config)
    trained.clear()
    first = ablate(config)
    assert trained == ["a", "b"]
    assert ablate(config) == first
    assert trained == ["a", "b"]
    assert first["apart"]["adherence"] == [["a", "b"]]
    assert first["apart"]["last_clarity"] == []
    assert json.loads((tmp_path / "out/table.json").read_text("utf-8")) == first
    text = (tmp_path / "out/table.md").read_text("utf-8")
    assert text == markdown_table(first)
    assert "| b | 0.800 [0.790, 0.810] |" in text
    other = AblationConfig(table=config.table, minutes=2, folder=config.folder)
    with pytest.raises(ConfigError, match="another minutes"):
        ablate(other)


def test_time_has_to_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="minutes"):
        AblationConfig(table="stages", minutes=0, folder=tmp_path)
