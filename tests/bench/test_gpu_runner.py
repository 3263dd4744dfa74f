"""How the GPU check runs its parts: within their limits, one after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from device_check import gpu, process, runner
from device_check.part import Outcome, Part
from device_check.report import FILES, Report, unpack
from device_check.runner import hanging_tests, run_part, run_parts, to_run

from ..patience import wait_for
from .gpu_parts import FIGURE, FOREVER, part_of, verdicts


@pytest.mark.parametrize(
    ("code", "verdict", "exit_code", "told"),
    [
        ("print('fine')", "passed", 0, "fine"),
        ("raise SystemExit(5)", "failed", 5, "SystemExit"),
        ("import os; os.abort()", "failed", -signal.SIGABRT, "ended by SIGABRT"),
        (FOREVER, "timed out", None, "killed after 1 s"),
    ],
    ids=["passes", "fails", "crashes", "hangs"],
)
def test_a_part_costs_only_itself(
    work: Path, code: str, verdict: str, exit_code: int | None, told: str
) -> None:
    outcome = run_part(part_of("part", code, limit_s=1 if code == FOREVER else 100), work, 1.0
                       if code == FOREVER else 100.0)  # fmt: skip
    assert (outcome.verdict, outcome.exit_code) == (verdict, exit_code)
    assert told in outcome.detail
    assert (work / "part.log").is_file()


def test_less_than_its_own_limit_is_cut_short(work: Path) -> None:
    assert run_part(part_of("part", FOREVER), work, 0.5).verdict == "cut short"


def test_a_missing_tool_is_a_skip_with_its_reason(work: Path) -> None:
    outcome = run_part(Part(name="x", command=["x"], limit_s=1, needs="no-such-tool"), work, 1.0)
    assert (outcome.verdict, outcome.detail) == ("skipped", "no-such-tool is not installed")


def test_what_a_killed_part_started_is_killed_with_it(work: Path) -> None:
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '1000'])\n"
        "print(child.pid, flush=True); child.wait()"
    )

    def look() -> None:
        if (work / "part.log").read_text():
            raise KeyboardInterrupt

    assert run_part(part_of("part", code), work, 100.0, look=look).verdict == "cut short"
    pid = int((work / "part.log").read_text())
    wait_for(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_that_does_not_die_is_left_behind(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(process, "DYING_S", 0.1)
    monkeypatch.setattr(process.os, "killpg", lambda pid, _: asked.append(pid))
    with (work / "log").open("w") as log:
        code = process.run_bounded(["sleep", "1000"], log, 0.2)
    monkeypatch.undo()
    assert code is None
    (pid,) = asked
    assert _runs(pid)  # nobody waited for its end
    os.killpg(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


@pytest.mark.parametrize("ends", ["by its own limit", "from outside"])
def test_the_hanging_test_is_named(work: Path, tmp_path: Path, ends: str) -> None:
    file = tmp_path / "test_three.py"
    file.write_text(
        "import time\n\ndef test_good(): pass\n\ndef test_bad(): assert False\n\n"
        "def test_hangs(): time.sleep(1000)\n"
    )
    own = ends == "by its own limit"
    limit = ["--timeout", "3", "--timeout-method", "thread"] if own else []
    command = [
        sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(tmp_path), "-v",
        "-p", "no:cacheprovider", *limit, str(file),
    ]  # fmt: skip

    def look() -> None:
        if not own and "test_hangs" in (work / "tests.log").read_text():
            raise KeyboardInterrupt

    outcome = run_part(Part(name="tests", command=command, limit_s=300), work, 300.0, look=look)
    assert outcome.verdict == ("failed" if own else "cut short")
    (name,) = outcome.hanging
    assert name.endswith("test_three.py::test_hangs")


def test_the_hanging_test_of_a_worker_is_named() -> None:
    log = """\
tests/a.py::test_one[cpu 1]
tests/a.py::test_two
tests/b.py::test_three
tests/b.py::test_four
[gw0] [ 25%] PASSED tests/a.py::test_one[cpu 1]
[gw1] [ 50%] FAILED tests/a.py::test_two
worker 'gw2' crashed while running 'tests/b.py::test_three'
E   assert tests.py == 3
FAILED tests/a.py::test_two - AssertionError: x.py::y
"""
    assert hanging_tests(log) == ["tests/b.py::test_three", "tests/b.py::test_four"]


def _run(
    chosen: Sequence[Part], report: Report, work: Path, *, seconds: float = 300,
    works: Sequence[bool] = (),
) -> tuple[str | None, int]:  # fmt: skip
    """Run parts; returns why it stopped, and how often the GPU was asked."""
    answers = iter(works)
    asked = 0

    def answer(limit_s: float) -> bool:
        nonlocal asked
        asked += 1
        assert 0 < limit_s <= gpu.ANSWER_S
        return next(answers, True)

    reason = run_parts(
        chosen, report, work, until=time.monotonic() + seconds, done=lambda _: None,
        gpu_answers=answer,
    )  # fmt: skip
    return reason, asked


def test_what_is_done_is_written_before_the_next_part(report: Report, work: Path) -> None:
    peek = "import sys, pathlib; print(pathlib.Path(sys.argv[1], 'report.json').read_text())"
    chosen = [
        part_of("good", FIGURE, "{records}"),
        part_of("bad", "import os; print('last words', flush=True); os.abort()"),
        part_of("peek", peek, str(report.out)),
    ]
    assert _run(chosen, report, work) == (None, 1)
    assert verdicts(report.out) == {"good": "passed", "bad": "failed", "peek": "passed"}
    seen = json.loads((work / "peek.log").read_text())
    assert [part["verdict"] for part in seen["parts"]] == ["passed", "failed"]
    log = (report.out / "log.txt").read_text()
    assert "last words" in log and "===== peek: passed" in log
    assert sorted(path.name for path in report.out.iterdir()) == sorted(FILES)
    (path,) = unpack(report.out / "records.json", work / "results")
    assert path == work / "results" / "good" / "film.json"
    assert json.loads(path.read_text())["metrics"][0]["p50"] == 21.5


def test_the_gpu_is_asked_after_a_part_that_went_wrong(report: Report, work: Path) -> None:
    chosen = [
        part_of("good", ""), part_of("hangs", FOREVER, limit_s=0.5),
        part_of("fails", "raise SystemExit(1)"), part_of("next", ""),
    ]  # fmt: skip
    assert _run(chosen, report, work) == (None, 2)
    assert verdicts(report.out)["next"] == "passed"


def test_a_lost_gpu_ends_the_run(report: Report, work: Path) -> None:
    chosen = [part_of("hangs", FOREVER, limit_s=0.5), part_of("next", "")]
    reason, _ = _run(chosen, report, work, works=[False])
    assert reason == "the GPU did not answer after hangs"
    assert verdicts(report.out) == {"hangs": "timed out"}


def test_nothing_is_run_without_what_is_vital(report: Report, work: Path) -> None:
    chosen = [part_of("build", "raise SystemExit(1)", vital=True), part_of("next", "")]
    reason, asked = _run(chosen, report, work)
    assert (reason, asked) == ("build did not pass, and nothing works without it", 0)
    assert verdicts(report.out) == {"build": "failed"}


def test_what_does_not_fit_is_left_and_what_does_is_run(
    report: Report, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LEAST_SHARE", 0.1)  # so that there is time to begin the first
    chosen = [
        part_of("cut", FOREVER, limit_s=3), part_of("large", "", limit_s=300),
        part_of("small", "", limit_s=0.5),
    ]  # fmt: skip
    begun = time.monotonic()
    _run(chosen, report, work, seconds=2)
    assert verdicts(report.out)["cut"] == "cut short"
    assert verdicts(report.out)["large"] == "left"
    assert "its limit is 300 s" in report.outcomes["large"].detail
    assert time.monotonic() - begun < 500  # or it waited for what it should have killed


def test_a_resumed_run_does_what_is_open_first(report: Report) -> None:
    verdicts = {"build": "passed", "done": "passed", "slow": "timed out", "bad": "failed",
                "cut": "cut short", "late": "left", "tool": "skipped"}  # fmt: skip
    for name, verdict in verdicts.items():
        report.outcomes[name] = Outcome(name=name, verdict=verdict, limit_s=10)  # type: ignore[arg-type]
    chosen = [part_of(name, "", limit_s=10) for name in (*verdicts, "new")]
    chosen[0] = replace(chosen[0], vital=True)
    again = to_run(chosen, report)
    assert [part.name for part in again] == [
        "build", "slow", "cut", "late", "tool", "new", "bad",
    ]  # fmt: skip
    assert [part.limit_s for part in again] == [10, 17, 10, 10, 10, 10, 10]
