"""Everything a GPU has to settle, in one command: build, frames per second, tests, counters.

``make gpu-check OUT=DIR`` runs it. Parts stand in the order of what they tell: the first three
minutes give a build and frames per second of ``exact`` and ``fp8-tiny``, then come the baseline and
other attentions, then tests and benches. Each part is a process of its own under its own time
limit, so a hang or a crash costs that part alone; before the part that follows one, a fresh process
asks whether the GPU still works. Needs no network.

``--seconds N`` is the budget of the whole call. What does not fit is left for the next one:
``--resume`` goes on from the report in DIR (or in another folder, carried from a machine that is
gone). What passed is not run again, except the build; what reached its limit gets 1.7 times that;
what failed comes last. A report of other sources or of another GPU is refused.

DIR gets three files, written anew after each part: ``report.json`` (device, verdicts, figures),
``records.json`` (every record of a bench; ``--unpack`` makes it one file each) and ``log.txt``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from device_check.gpu import answers, discover
from device_check.part import Outcome, Part
from device_check.part_list import parts
from device_check.report import Report, ReportError, read_report, source_digest, unpack
from device_check.runner import TOLD_TO_STOP, run_parts, to_run

PASSED, NOT_PASSED, MISTAKE, NO_DEVICE, STOPPED, LEFT = range(6)
TOTAL_S = 530.0
"""For a whole call: under ten minutes with what starting and stopping take."""

_EXIT_CODES = """\
exit codes
  0 every part passed, or was skipped for lack of a program
  1 a part failed or reached its limit
  2 a mistake in the call, or a report that cannot be resumed
  3 no GPU was found; nothing ran
  4 the package could not be built, or the GPU stopped answering; the rest was not run
  5 nothing failed, but parts are left for a call with --resume
"""


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        description=__doc__, epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    out.add_argument("out", type=Path, metavar="DIR", help="folder of the three result files")
    out.add_argument("--only", metavar="PART,...", help="run these parts alone")
    out.add_argument("--skip", metavar="PART,...", help="do not run these parts")
    out.add_argument(
        "--list", action="store_true", help="list the parts and their limits, and stop"
    )
    out.add_argument(
        "--seconds", type=float, default=TOTAL_S, metavar="N",
        help=f"budget of the whole call (default {TOTAL_S:.0f})",
    )  # fmt: skip
    out.add_argument(
        "--resume", type=Path, nargs="?", const=Path(), metavar="DIR",
        help="go on from the report in this folder (default: the result folder itself)",
    )  # fmt: skip
    out.add_argument(
        "--unpack", type=Path, metavar="records.json",
        help="write its records to DIR/PART/NAME.json, and stop",
    )  # fmt: skip
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    begun = time.monotonic()
    asked = command_line().parse_args(argv)
    out: Path = asked.out.resolve()
    if asked.unpack is not None:
        _say(f"{len(unpack(asked.unpack, out))} records in {out}")
        return PASSED
    chosen = _chosen(asked.only, asked.skip)
    if asked.list:
        for part in chosen:
            _say(f"{part.name:20} {part.limit_s:4.0f} s")
        return PASSED
    report = _open_report(out, asked.resume)
    device = discover()
    if isinstance(device, str):
        if not report.outcomes:
            report.device = device
            report.write()
        _say(f"no GPU: {device}; nothing was run")
        return NO_DEVICE
    if report.outcomes and report.device != device:
        _mistake(f"--resume: got a report of {report.device}, wanted one of {device}")
    report.device, report.stopped = device, ""
    report.write()
    _run(to_run(chosen, report), report, begun, begun + asked.seconds)
    return _summary(report, chosen)


def _run(chosen: Sequence[Part], report: Report, begun: float, until: float) -> None:
    """Run the parts; told to stop, end the running one and keep what there is."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    def done(outcome: Outcome) -> None:
        _tell(outcome, time.monotonic() - begun, report)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
            reason = run_parts(
                chosen, report, Path(work), until=until, done=done, gpu_answers=answers
            )
    except KeyboardInterrupt:
        reason = TOLD_TO_STOP
    finally:
        signal.signal(signal.SIGTERM, before)
    report.stopped = reason or ""
    report.write()


def _open_report(out: Path, resume: Path | None) -> Report:
    """Begin a report, or take up an earlier one; an earlier one is never overwritten unasked."""
    sources = source_digest()
    try:
        if resume is not None:
            folder = out if resume == Path() else resume.resolve()
            return read_report(folder, out, sources)
        if (out / "report.json").is_file() and read_report(out, out, sources).outcomes:
            _mistake(f"{out}: has the report of an earlier call; add --resume, or name another DIR")
    except ReportError as error:
        _mistake(str(error))
    return Report(out=out, sources=sources)


def _chosen(only: str | None, skip: str | None) -> list[Part]:
    every = parts()
    names = [part.name for part in every]
    asked = {"--only": _names(only), "--skip": _names(skip)}
    for option, wanted in asked.items():
        unknown = [name for name in wanted if name not in names]
        if unknown:
            _mistake(f"{option}: no part {', '.join(unknown)}; there are {', '.join(names)}")
    return [
        part
        for part in every
        if (only is None or part.name in asked["--only"]) and part.name not in asked["--skip"]
    ]


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _tell(outcome: Outcome, at_s: float, report: Report) -> None:
    """Print what became of a part: a line, and of one that did not pass the end of its log."""
    _say(
        f"{at_s:5.0f} s  {outcome.verdict:10} {outcome.name:20} {outcome.wall_s:6.1f} s  "
        f"{_figures(outcome)}"
    )
    if outcome.verdict == "skipped":
        _say(f"  {outcome.detail}")
    elif outcome.verdict != "passed":
        _say(f"  {outcome.detail[:200]}")
        for test in outcome.hanging:
            _say(f"  did not end: {test}")
        for line in report.logs[outcome.name].splitlines()[-8:]:
            _say(f"  | {line[:200]}")


def _summary(report: Report, chosen: Sequence[Part]) -> int:
    """Repeat all figures, for a caller may see the end of the output only; give the exit code."""
    _say("---- figures")
    for outcome in report.outcomes.values():
        if outcome.figures:
            _say(f"{outcome.name:20} {_figures(outcome)}")
    verdicts = {
        part.name: report.outcomes[part.name].verdict if part.name in report.outcomes else "left"
        for part in chosen
    }
    for verdict in ("failed", "timed out", "cut short", "left", "skipped"):
        names = [name for name, found in verdicts.items() if found == verdict]
        if names:
            _say(f"---- {verdict}: {', '.join(names)}")
    found = set(verdicts.values())
    if report.stopped and report.stopped != TOLD_TO_STOP:
        _say(f"---- stopped: {report.stopped}")
        return STOPPED
    if found & {"failed", "timed out"}:
        return NOT_PASSED
    if found & {"cut short", "left"}:
        _say("---- parts are left: call again with --resume")
        return LEFT
    return PASSED


def _figures(outcome: Outcome) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else format(value, '.4g')}"
        for name, value in outcome.figures.items()
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _mistake(text: str) -> NoReturn:
    sys.stderr.write(f"error: {text}\n")
    raise SystemExit(MISTAKE)


if __name__ == "__main__":
    sys.exit(main())
