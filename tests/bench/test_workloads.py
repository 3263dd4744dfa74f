from __future__ import annotations

import json
from pathlib import Path

import pytest

from shotstream_rt.bench.workloads import (
    Workload,
    bundled_workloads,
    find_workload,
    student_workload,
)
from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.story import Story

FOLDER = Path(__file__).resolve().parents[2] / "bench/workloads"


def test_every_file_is_a_workload_of_its_name() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(bundled_workloads())


def test_recipes_can_be_used() -> None:
    for workload in bundled_workloads().values():
        if workload.kind == "student":
            StreamConfig.from_dict(workload.recipe["stream"])
        if workload.kind == "film":
            story = Story.bundled(workload.recipe["story"])
            assert len(story.shots) >= workload.recipe["shots"]


def test_fingerprint_covers_recipe_and_request(tiny_workload: Workload) -> None:
    asked = {"backend": "auto", "dtype": "float32"}
    known = tiny_workload.fingerprint(asked)
    assert known == tiny_workload.fingerprint(dict(reversed(asked.items())))
    assert known != tiny_workload.fingerprint({**asked, "dtype": "bfloat16"})
    assert known != tiny_workload.with_recipe(shots=1).fingerprint(asked)


def test_changed_recipe_shows_in_the_id(tiny_workload: Workload) -> None:
    assert tiny_workload.with_recipe(shots=2) is tiny_workload
    assert tiny_workload.with_recipe(shots=7).id == "tiny-shots-7"
    assert tiny_workload.with_recipe(shots=7).recipe["shots"] == 7


def test_student_file_becomes_a_workload(student_file: Path) -> None:
    workload = student_workload(student_file, shots=3)
    assert workload.id == "student-24x2-4x6"
    assert workload.recipe["shots"] == 3
    assert workload.recipe["text_tokens"] == 6  # no more than text_len


def test_a_student_of_the_family_is_measured_with_its_own_settings() -> None:
    workload = student_workload("longlive", shots=1)
    assert workload.id == "student-longlive-1536x30-60x104"
    wanted = STUDENTS["longlive"].stream(ModelConfig())
    assert StreamConfig.from_dict(workload.recipe["stream"]) == wanted
    with pytest.raises(ConfigError, match="one of shotstream, self-forcing"):
        student_workload("longlives", shots=1)


@pytest.mark.parametrize(
    "text,message",
    [("{", "cannot be read"), ("[]", "JSON object"), ('{"width": 3}', "width"),
     ('{"dim": 7}', "num_heads")],
)  # fmt: skip
def test_broken_student_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        student_workload(path, shots=1)
    assert "broken.json" in str(caught.value)


def test_unknown_workload_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="nano-story"):
        find_workload("nope")


@pytest.mark.parametrize(
    "change", [{"kind": "dance"}, {"recipe": {"seed": 1}}, {"schema_version": 9}, {"colour": 1}]
)
def test_malformed_workload_is_rejected(change: dict[str, object]) -> None:
    data = json.loads((FOLDER / "nano-story.json").read_text("utf-8"))
    with pytest.raises(ConfigError):
        Workload.from_dict({**data, **change})
