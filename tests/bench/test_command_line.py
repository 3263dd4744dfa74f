from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shotstream_rt.backends import registry
from shotstream_rt.bench.__main__ import main
from shotstream_rt.bench.record import BenchRecord, read_record, write_record
from shotstream_rt.bench.workloads import student_workload
from shotstream_rt.config import StreamConfig
from shotstream_rt.export.case_folder import exported

STUDENT = ["--random-weights", "--no-vae", "--threads", "1", "--shots", "1", "--repeats", "1",
           "--warmup", "0", "--device", "cpu"]  # fmt: skip


def test_last_line_is_one_json_record(
    student_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "record.json"
    arguments = ["--student", str(student_file), *STUDENT, "--json", "--out", str(saved)]
    assert main(arguments) == 0
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert data["schema_version"] == 1
    assert data["status"] == "ok"
    assert data["shot_s"] > 0
    shot = next(metric for metric in data["metrics"] if metric["name"] == "shot_s")
    assert data["shot_s"] == shot["min"]
    assert BenchRecord.from_dict(data) == read_record(saved)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps what one backend exports for the next: they read the same."""
    return tmp_path_factory.mktemp("engines")


@pytest.mark.parametrize("entry", registry.ENTRIES, ids=lambda entry: entry.name)
def test_every_backend_is_measured_and_checked_or_says_why_not(
    entry: registry.BackendEntry,
    student_file: Path,
    engines: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    why = entry.unavailable_reason(torch.device("cpu"))
    words = ["--student", str(student_file), *STUDENT, "--backend", entry.name, "--json"]
    if entry.name in registry.ENGINE_LIBRARIES and why is None:
        recipe = student_workload(student_file, shots=1).recipe
        config = StreamConfig.from_dict(recipe["stream"])
        with exported(config, torch.float32, engines) as folder:
            words += ["--engines", str(folder)]
    code = main(words)
    output = capsys.readouterr()
    if why is None:
        record = json.loads(output.out.splitlines()[-1])
        assert code == 0
        assert record["backend"]["resolved"] == entry.name
        assert record["correctness"]["passed"]
    else:
        assert code != 0
        assert why in output.out + output.err


def test_table_is_for_people(student_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--student", str(student_file), *STUDENT, "--baseline"]) == 0
    out = capsys.readouterr().out
    assert "correctness passed" in out
    assert "shot_s" in out
    assert "best ratio" in out


def test_plots_are_drawn(student_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    folder = tmp_path / "plots"
    assert (
        main(["--student", str(student_file), *STUDENT, "--roofline", "--plots", str(folder)]) == 0
    )
    assert {path.name.rpartition("--")[2] for path in folder.iterdir()} == {
        f"{name}.{suffix}"
        for name in ("chunks", "stages", "latency", "roofline")
        for suffix in ("png", "svg")
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--student", "{file}"],
        ["--random-weights"],
        ["--no-vae"],
        ["--workload", "kernels-256"],
        ["--workload", "nope"],
        ["--shots", "0"],
        ["--repeats", "0"],
        ["--dtype", "int8"],
        ["--model", "/no/such/folder"],
        ["--student", "/no/such.json", "--random-weights"],
        ["--student", "{file}", "--random-weights", "--backend", "abacus"],
        ["--student", "{file}", "--random-weights", "--device", "tpu"],
        ["--student", "{file}", "--random-weights", "--profile", "fast"],
        ["--student", "{file}", "--random-weights", "--profile", "tiny"],
        ["compare", "/no/such.json", "/no/such.json"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_mistakes_of_the_caller_exit_with_two(
    arguments: list[str], student_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.replace("{file}", str(student_file)) for argument in arguments]
    try:
        code = main(filled)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    assert "error:" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for word in ("examples", "shot_s", "--workload", "exit codes"):
        assert word in out


def test_workloads_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "nano-story" in listed
    assert any(line.startswith("tiny") and "lossy" in line for line in listed.splitlines())


def test_compare_tells_by_exit_code(
    make_record: Callable[..., BenchRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        str(write_record(make_record({"shot_s": ("s", seconds)}), tmp_path / f"{seconds}.json"))
        for seconds in (1.0, 1.05, 3.0)
    ]
    assert main(["compare", paths[0], paths[1]]) == 0
    assert main(["compare", paths[0], paths[2]]) == 1
    assert main(["compare", paths[0], paths[2], "--tolerance", "4", "--json"]) == 0
    verdicts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert verdicts[0]["ratio"] == pytest.approx(3.0)
