"""What the GPU check keeps of its parts: figures, records, and the sources they belong to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from device_check.part import Part
from device_check.report import FILES, Report, ReportError, figures_of, read_report, source_digest
from device_check.runner import run_part

from .gpu_parts import FIGURE, FOREVER, UNCHECKED, part_of


def test_figures_that_no_oracle_saw_are_marked(work: Path, report: Report) -> None:
    report.add(run_part(part_of("cut", UNCHECKED + "os.abort()", "{records}"), work, 100.0), work)
    report.add(run_part(part_of("whole", FIGURE, "{records}"), work, 100.0), work)
    figures = {name: outcome.figures for name, outcome in report.outcomes.items()}
    assert figures == {
        "cut": {"status": "not checked", "e2e_fps": 30.0},
        "whole": {"e2e_fps": 21.5, "e2e_fps.ratio": 2.0},
    }
    assert set(report.records) == {"cut/film.unchecked", "whole/film"}


def test_a_record_is_kept_while_its_part_still_runs(work: Path, report: Report) -> None:
    """What the caller of this command kills is lost, but not what its parts had measured."""
    seen: list[set[str]] = []

    def look() -> None:
        report.look(work)
        if report.records:
            seen.append(set(json.loads((report.out / "records.json").read_text())))
            raise KeyboardInterrupt

    part = part_of("part", UNCHECKED + FOREVER, "{records}")
    assert run_part(part, work, 100.0, look=look).verdict == "cut short"
    assert seen == [{"part/film.unchecked"}]


def test_a_verdict_takes_the_place_of_what_was_not_checked(report: Report, work: Path) -> None:
    folder = work / "records" / "film"
    folder.mkdir(parents=True)
    (folder / "a.unchecked.json").write_text('{"status": "not checked"}')
    report.look(work)
    (folder / "a.json").write_text('{"status": "ok"}')
    report.look(work)
    assert report.records == {"film/a": {"status": "ok"}}


def test_figures_name_the_kernel_and_the_baseline() -> None:
    metric = {"name": "kernel_ms", "p50": 1.5}
    records = {
        "bench/a": {"status": "ok", "metrics": [metric]},
        "bench/b": {"status": "ok", "metrics": [{**metric, "p50": 2.5}]},
        "film/x": {"status": "ok", "metrics": [], "method": {"baseline": {"attention": "cudnn"}}},
    }
    assert figures_of(records, "bench") == {"a kernel_ms": 1.5, "b kernel_ms": 2.5}
    assert figures_of(records, "film") == {"baseline": "cudnn"}


@pytest.mark.parametrize("content", [None, "{", '{"parts": []}'], ids=["none", "broken", "other"])
def test_what_is_no_report_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        for name in FILES:
            (tmp_path / name).write_text(content)
    with pytest.raises(ReportError, match=r"report\.json"):
        read_report(tmp_path, tmp_path, "0123")


def test_the_digest_tells_sources_apart(tmp_path: Path) -> None:
    for name in ("CMakeLists.txt", "pyproject.toml", "setup.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "kernels").mkdir()
    kernel = tmp_path / "kernels" / "adaln.py"
    kernel.write_text("x = 1\n")
    first = source_digest(tmp_path)
    (tmp_path / "README.md").write_text("no source")
    (tmp_path / "kernels" / "adaln.pyc").write_text("made from one")
    assert source_digest(tmp_path) == first
    kernel.write_text("x = 2\n")
    assert source_digest(tmp_path) != first
    assert source_digest() == source_digest()


def test_a_bench_that_dies_in_its_check_leaves_its_medians(
    work: Path, report: Report, student_file: Path
) -> None:
    code = (
        "import os, sys\n"
        "from shotstream_rt.bench import student_run\n"
        "from shotstream_rt.bench.__main__ import main\n"
        "student_run.reference_pipeline = lambda *_, **__: os.abort()\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable, "-c", code, "--student", str(student_file), "--random-weights", "--device",
        "cpu", "--threads", "1", "--quick", "--repeats", "1", "--warmup", "0", "--baseline",
        "--out", "{records}",
    ]  # fmt: skip
    report.add(run_part(Part(name="bench", command=command, limit_s=300), work, 300.0), work)
    outcome = report.outcomes["bench"]
    assert "ended by SIGABRT" in outcome.detail
    assert outcome.figures["status"] == "not checked"
    assert outcome.figures["baseline"] == "torch"
    assert float(outcome.figures["denoise_fps"]) > 0
    assert float(outcome.figures["denoise_no_commit_fps.ratio"]) > 0
