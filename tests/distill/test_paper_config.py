"""Presets and their checks, the dry run, and what one frame is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream_distill.common.sequence import Captions
from shotstream_distill.paper.dry_run import dry_run
from shotstream_distill.paper.quirks import Quirks
from shotstream_distill.paper.run_config import PRESETS, RunConfig
from shotstream_distill.paper.sampler import student_steps
from shotstream_distill.paper.shot_batch import ShotBatch, condition, told_target_caption
from shotstream_rt.config import ScheduleConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.plan.schedule import Schedule

NAMES = sorted(path.stem for path in PRESETS.glob("*.json"))


def smoke() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((PRESETS / "nano-smoke.json").read_text("utf-8"))
    return copy.deepcopy(data)


def test_there_are_the_three_presets() -> None:
    assert NAMES == ["nano", "nano-smoke", "wan-1.3b"]


@pytest.mark.parametrize("name", NAMES)
def test_presets_survive_a_round_trip(name: str) -> None:
    config = RunConfig.read(name)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    kinds = [stage.kind for stage in config.stages if stage.kind != "teacher"]
    assert kinds == ["ode_pairs", "ode", "intra_shot", "inter_shot"]


def test_the_full_preset_is_the_papers() -> None:
    config = RunConfig.read("wan-1.3b")
    assert config.stream.model.dim == 1536
    assert config.stages[-1].lora_rank == 256  # type: ignore[attr-defined]
    pairs = next(stage for stage in config.stages if stage.kind == "ode_pairs")
    schedule = Schedule.from_config(config.stream.schedule)
    assert student_steps(schedule, pairs.sample_steps, 8.0) == [0, 13, 25, 37]  # type: ignore[attr-defined]


BROKEN: list[tuple[str, list[str | int], object, str]] = [
    ("unknown key", ["sede"], 1, "run: unknown key(s) sede"),
    ("wrong type", ["seed"], "seven", "run.seed: got 'seven', wanted an integer"),
    ("bool for a number", ["seed"], True, "run.seed"),
    ("precision", ["precision"], "float16", "one of float32, bfloat16"),
    ("stage kind", ["stages", 0, "kind"], "techer", "wanted one of teacher"),
    ("rate", ["stages", 0, "optimizer", "rate"], 0, "rate: got 0.0, wanted a positive number"),
    ("frames", ["stages", 2, "frames"], 4, "a multiple of the chunk's 3"),
    ("later stage", ["stages", 2, "start"], "intra-shot", "wanted an earlier stage"),
    ("not pairs", ["stages", 2, "pairs"], "teacher", "a stage of kind ode_pairs"),
    ("same name", ["stages", 2, "name"], "teacher", "names used once"),
    ("unsafe name", ["stages", 0, "name"], "../x", "letters, digits"),
    ("turns", ["stages", 4, "shots"], 2, "no common factor"),
    ("accumulate", ["stages", 4, "accumulate"], 2, "a step of inter_shot is one shot"),
    ("time range", ["stages", 3, "min_time"], 990, "min_time below max_time"),
    ("share", ["stages", 0, "text_drop"], 1.5, "a share in [0, 1]"),
    ("model", ["stream", "model", "dim"], 63, "run.stream"),
    ("stages", ["stages"], {}, "wanted a list"),
    ("no stage", ["stages"], [], "at least one"),
    ("drawn with path", ["data", "path"], "x", "nothing for drawn stories"),
    ("text of films", ["data"], {"kind": "films", "path": "a.csv"}, "umt5 with films"),
]


@pytest.mark.parametrize(("path", "value", "message"), [b[1:] for b in BROKEN],
                         ids=[b[0] for b in BROKEN])  # fmt: skip
def test_mistakes_are_named(path: list[str | int], value: object, message: str) -> None:
    data: Any = smoke()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(data)
    assert message in str(caught.value)


def test_missing_keys_and_files_are_named(tmp_path: Path) -> None:
    data = smoke()
    del data["stages"][1]["teacher"]
    with pytest.raises(ConfigError, match=r"missing key.*teacher"):
        RunConfig.from_dict(data)
    with pytest.raises(ConfigError, match="nano-smoke"):
        RunConfig.read("no-such-preset")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        RunConfig.read(str(tmp_path / "broken.json"))


def test_a_sampler_must_meet_the_students_levels() -> None:
    schedule = Schedule.from_config(ScheduleConfig())
    with pytest.raises(ValueError, match="sample_steps: got 12"):
        student_steps(schedule, 12, 8.0)


def test_full_size_fits_the_cards_it_was_made_for(capsys: pytest.CaptureFixture[str]) -> None:
    report = dry_run(RunConfig.read("wan-1.3b"))["bytes"]
    teacher, inter = report["teacher"], report["inter-shot"]
    assert teacher["trained_parameters"] == 283_392_000
    assert inter["trained_parameters"] == 2 * 349_962_240
    assert inter["frozen_networks"] == 2 * 1_418_996_800
    for parts in report.values():
        assert 2**30 < parts["activations"] < 60 * 2**30
    assert "GiB" in capsys.readouterr().out


def batch() -> ShotBatch:
    return ShotBatch(
        context=torch.ones(3, 6, 16, 2, 2),
        target=torch.zeros(3, 3, 16, 2, 2),
        words=torch.zeros(3, 3, 4, dtype=torch.long),
        shots=(0, 2, 1),
        context_shots=torch.tensor([[0] * 6, [0, 0, 0, 1, 1, 1], [0] * 6]),
    )


def captions() -> Captions:
    return Captions(embeddings=torch.randn(3, 3, 4, 8), lengths=torch.full((3, 3), 4), text_len=4)


def test_a_first_shot_reads_its_own_caption_with_flag_one() -> None:
    told = condition(batch(), captions(), dropped=[False, False, True], quirks=Quirks())
    assert told.flags.tolist() == [[0] * 6 + [1], [0, 0, 0, 1, 1, 1, 2], [0] * 6 + [1]]
    assert told.caption_index.tolist() == [[0] * 7, [0, 0, 0, 1, 1, 1, 2], [1] * 7]
    assert told.context[0].abs().sum() == 0
    assert told.context[2].abs().sum() == 0
    assert told.context[1].min() == 1


def test_the_original_reads_captions_by_flag() -> None:
    quirks = Quirks(caption_by_flag=True)
    told = condition(batch(), captions(), dropped=[False] * 3, quirks=quirks)
    assert told.caption_index[0].tolist() == [0] * 6 + [1]  # a first shot reads the second's
    assert torch.equal(told.caption_index, told.flags)


def test_the_target_caption_can_serve_all_frames() -> None:
    held = captions()
    told = told_target_caption(condition(batch(), held, dropped=[False] * 3, quirks=Quirks()))
    assert torch.equal(told.captions.embeddings[1, 0], held.embeddings[1, 2])
    assert told.caption_index.abs().sum() == 0
