"""``bench startup``: what a cold start's time went into."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.bench import startup_run
from shotstream_rt.bench.__main__ import main

SECOND = 10**9
MOMENTS = [("start Python", 1), ("import torch", 3), ("load the model", 7), ("first chunk", 12)]


@pytest.fixture
def two_starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let no process start; the second of two would have taken a second longer to import."""
    asked: list[dict[str, Any]] = []

    def start(wanted: dict[str, Any], *, cold: bool) -> tuple[int, dict[str, Any]]:
        late = len(asked)
        asked.append({**wanted, "cold": cold})
        moments = [(name, (100 + at + late * (at > 1)) * SECOND) for name, at in MOMENTS]
        chunks = [0, 5 * SECOND, 7 * SECOND, 9 * SECOND]
        info = {"device": "cpu", "backend": "eager", "kernel_set": "cpu", "dtype": "float32",
                "profile": "exact", "threads": 1, "more": 0}  # fmt: skip
        return 100 * SECOND, {"moments": moments, "chunks": chunks, "info": info}

    monkeypatch.setattr(startup_run, "_start", start)
    return asked


def test_stages_add_up_to_the_start(
    two_starts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["startup", "--repeats", "2", "--device", "cpu", "--threads", "1", "--cold", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    samples = {stage["name"]: stage["samples"] for stage in told["stages"]}
    assert samples == {
        "start Python": [1, 1], "import torch": [2, 3], "load the model": [4, 4],
        "first chunk": [5, 5],
    }  # fmt: skip
    assert (told["total"]["min"], told["total"]["max"], told["startup_s"]) == (12, 13, 12.5)
    assert told["steady_chunk_ms"] == 2000  # the first interval is not one of a chunk
    assert told["cold"] and all(asked["cold"] for asked in two_starts)
    assert [asked["threads"] for asked in two_starts] == [1, 1]
    assert told["method"]["command"].endswith(" ".join(words[1:]))
    assert {"hardware", "software", "git"} <= told.keys()


def test_the_table_has_every_stage(
    two_starts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["startup", "--repeats", "2"]) == 0
    rows = {line[:24].strip(): line[24:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["import torch"] == ["2.500", "20.0", "2.000", "3.000"]
    assert rows["to the first chunk"] == ["12.500", "100.0", "12.000", "13.000"]


@pytest.mark.usefixtures("two_starts")
def test_the_picture_is_a_bar_of_stages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    picture = tmp_path / "start.svg"
    assert main(["startup", "--repeats", "2", "--plot", str(picture)]) == 0
    drawn = picture.read_text("utf-8")
    assert drawn.startswith("<?xml")


def test_a_mistake_of_the_caller_is_told_before_anything_starts(
    two_starts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    (tmp_path / "file").touch()
    mistakes = (["--repeats", "0"], ["--profile", "turbo"], ["--plot", str(tmp_path / "a.doc")],
                ["--plot", str(tmp_path / "file" / "a.png")])  # fmt: skip
    for words in mistakes:
        assert main(["startup", *words]) == 2
    assert two_starts == []
    assert capsys.readouterr().err.count("error:") == len(mistakes)


def test_what_the_process_refuses_is_the_callers_mistake(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["startup", "--repeats", "1", "--model", "/no/such/model"]) == 2
    assert "/no/such/model" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_start_from_empty_caches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real processes: an import of torch without bytecode takes its time."""
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    words = ["startup", "--repeats", "1", "--device", "cpu", "--threads", "1", "--json"]
    for cold in ([], ["--cold"]):
        assert main([*words, *cold]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert [stage["name"] for stage in told["stages"]] == [
            "start Python", "import torch", "import shotstream_rt", "load the model",
            "open a session", "first chunk",
        ]  # fmt: skip
        assert all(stage["min"] > 0 for stage in told["stages"])
        assert told["cold"] == bool(cold)
        assert told["steady_chunk_ms"] > 0
