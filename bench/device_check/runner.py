"""Runs parts one after the other, each within its own limit and all within one budget."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .gpu import ANSWER_S
from .part import Outcome, Part, Verdict
from .process import environment, run_bounded
from .report import Report

MORE_TIME = 1.7
"""Times its former limit, for a part that reached it."""

TOLD_TO_STOP = "told to stop"
"""By a signal to this process; what is done stays, and a call with ``--resume`` goes on."""

_LEAST_SHARE = 0.5
"""Of its limit that a part must have left to be begun."""

_VERDICTS = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
_TEST_LINE = re.compile(
    r"(?:\[gw\d+\]\s+)?(?:\[\s*\d+%\]\s+)?"
    rf"(?:({_VERDICTS})\s+)?(\S+\.py::[^\s\[]+(?:\[.*?\](?=\s|$))?)(?:\s+({_VERDICTS})\b)?"
)
_LOST_WORKER = re.compile(r"crashed while running '([^']+)'")


def run_part(
    part: Part, work: Path, limit_s: float, *, look: Callable[[], None] = lambda: None
) -> Outcome:
    """Run a part, its output in ``work/NAME.log`` and its records in ``work/records/NAME``.

    Args:
        part: to run.
        work: an existing folder.
        limit_s: its own limit, or less where less time is left.
        look: called about once a second while it runs.
    """
    if part.needs and shutil.which(part.needs, path=environment()["PATH"]) is None:
        return Outcome(name=part.name, verdict="skipped", detail=f"{part.needs} is not installed")
    records, log = work / "records" / part.name, work / f"{part.name}.log"
    records.mkdir(parents=True, exist_ok=True)
    command = [word.replace("{records}", str(records)) for word in part.command]
    begun = time.monotonic()
    interrupted = False
    code: int | None = None
    with log.open("w") as out:
        try:
            code = run_bounded(command, out, limit_s, look=look)
        except KeyboardInterrupt:
            interrupted = True
    detail = " ".join(command)
    verdict: Verdict = "passed" if code == 0 else "failed"
    if interrupted:
        verdict, detail = "cut short", TOLD_TO_STOP
    elif code is None:
        verdict = "timed out" if limit_s >= part.limit_s else "cut short"
        detail = f"killed after {limit_s:.0f} s"
    elif code < 0:
        detail = f"ended by {signal.Signals(-code).name}: {detail}"
    hanging = [] if code == 0 else hanging_tests(log.read_text("utf-8", "replace"))
    return Outcome(
        name=part.name, verdict=verdict, wall_s=round(time.monotonic() - begun, 1),
        exit_code=code, detail=detail, limit_s=round(limit_s, 1), hanging=hanging,
    )  # fmt: skip


def hanging_tests(log: str) -> list[str]:
    """Return the tests that had begun and not ended, from the output of ``pytest -v``."""
    begun: dict[str, None] = {}
    ended = set()
    for line in log.splitlines():
        found = _TEST_LINE.match(line)
        if found is None:
            continue
        before, name, after = found.groups()
        if before or after:
            ended.add(name)
        else:
            begun[name] = None
    lost = dict.fromkeys(_LOST_WORKER.findall(log))
    return [*lost, *(name for name in begun if name not in ended and name not in lost)]


def to_run(chosen: Sequence[Part], report: Report) -> list[Part]:
    """Return what a run has still to do after what its report says was done.

    What passed is done, except a vital part: a fresh machine needs it again. What reached its limit
    gets ``MORE_TIME`` times that. What failed comes last, for it has said what it knows.
    """
    open_parts: list[Part] = []
    failed: list[Part] = []
    for part in chosen:
        outcome = report.outcomes.get(part.name)
        verdict = None if outcome is None else outcome.verdict
        if part.vital or outcome is None or verdict in ("left", "cut short", "skipped"):
            open_parts.append(part)
        elif verdict == "timed out":
            limit_s = round(outcome.limit_s * MORE_TIME, 1)
            open_parts.append(replace(part, limit_s=limit_s))
        elif verdict == "failed":
            failed.append(part)
    return [*open_parts, *failed]


def run_parts(
    parts: Sequence[Part],
    report: Report,
    work: Path,
    *,
    until: float,
    done: Callable[[Outcome], None],
    gpu_answers: Callable[[float], bool],
) -> str | None:
    """Run parts and keep the report up to date.

    Args:
        parts: in order.
        report: written anew after each part, and while one runs whenever it has a new record.
        work: an existing folder for logs and records.
        until: ``time.monotonic()`` at which the whole run ends; what would have less than half of
            its limit is left for the next call.
        done: told each outcome.
        gpu_answers: given the seconds that it may take, whether the GPU still works; asked before
            a part that follows one that did not pass.

    Returns:
        Why the run ended before its time, or None.
    """
    suspect: str | None = None
    for part in parts:
        left_s = until - time.monotonic()
        if left_s < part.limit_s * _LEAST_SHARE:
            detail = f"{max(left_s, 0):.0f} s were left, its limit is {part.limit_s:.0f} s"
            report.add(Outcome(name=part.name, verdict="left", detail=detail), work)
            continue
        if suspect is not None:
            if not gpu_answers(min(ANSWER_S, left_s)):
                return f"the GPU did not answer after {suspect}"
            suspect, left_s = None, until - time.monotonic()
        outcome = run_part(
            part, work, min(part.limit_s, max(left_s, 0.0)), look=lambda: report.look(work)
        )
        report.add(outcome, work)
        done(report.outcomes[part.name])
        if outcome.detail == TOLD_TO_STOP:
            return TOLD_TO_STOP
        if outcome.verdict not in ("passed", "skipped"):
            if part.vital:
                return f"{part.name} did not pass, and nothing works without it"
            suspect = part.name
    return None
