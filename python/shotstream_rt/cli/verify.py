"""``verify``: recompute golden vectors and compare."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shotstream_rt import verify
from shotstream_rt.errors import ConfigError

if TYPE_CHECKING:
    from shotstream_rt.verify import CaseReport

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_EXAMPLES = """\
A case is a pair NAME.safetensors + NAME.json: a_ schedules, b_ one block, c_ the network,
d_ films with shipped options, e_ films with others, f_ the VAE, g_ the teacher.
float32 must agree to 1e-4 (tables to the last bit); bfloat16 may be 1.3 times as far from the
float32 values as the original's own bfloat16 is.

Examples:
  python -m shotstream_rt verify tests/golden
  python -m shotstream_rt verify tests/golden --dtype bfloat16 --json
  python -m shotstream_rt verify tests/golden --case e_ --all
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with golden vectors")
    parser.add_argument("--dtype", choices=sorted(_TYPES), default="float32",
                        help="type to compute in (default: float32)")  # fmt: skip
    parser.add_argument("--case", metavar="PREFIX", default="", help="only cases of this name")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--all", action="store_true", help="print every comparison")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of standard output"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare every case; exit code 0 when all pass, else 1."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dtype = _TYPES[arguments.dtype]
    cases = [c for c in verify.find(arguments.folder) if c.name.startswith(arguments.case)]
    if not cases:
        raise ConfigError(f"--case: no case in {arguments.folder} begins with {arguments.case!r}")
    reports = []
    for case in cases:
        start = time.perf_counter()
        report = verify.run(case, dtype)
        reports.append(report)
        _print(report, time.perf_counter() - start, arguments.all)
    passed = all(report.passed for report in reports)
    sys.stdout.write(f"{'all passed' if passed else 'FAILED'} ({arguments.dtype})\n")
    if arguments.json:
        sys.stdout.write(json.dumps(_as_json(reports, arguments.dtype, passed)) + "\n")
    return 0 if passed else 1


def _print(report: CaseReport, seconds: float, everything: bool) -> None:
    worst = report.worst
    sys.stdout.write(
        f"{report.case:24} {'pass' if report.passed else 'FAIL'}  {len(report.checks):3} tensors  "
        f"worst {worst.name}: {worst.error:.2e} (limit {worst.limit:.2e})  {seconds:.1f} s\n"
    )
    for check in report.checks:
        if everything or not check.passed:
            verdict = "pass" if check.passed else "FAIL"
            sys.stdout.write(f"  {verdict}  {check.name:44} {check.error:.2e}\n")
    sys.stdout.flush()


def _as_json(reports: list[CaseReport], dtype: str, passed: bool) -> dict[str, object]:
    return {
        "dtype": dtype,
        "passed": passed,
        "cases": [
            {
                "case": report.case,
                "passed": report.passed,
                "worst": {"name": report.worst.name, "error": report.worst.error,
                          "limit": report.worst.limit},
                "tensors": {
                    check.name: {"error": check.error, "limit": check.limit,
                                 "passed": check.passed}
                    for check in report.checks
                },
            }
            for report in reports
        ],
    }  # fmt: skip
