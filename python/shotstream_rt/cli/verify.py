"""``verify``: recompute golden vectors and compare."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shotstream_rt import env, verify
from shotstream_rt.checks import check_range
from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.placement import resolve_device
from shotstream_rt.terminal import tell, tell_json

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
  python -m shotstream_rt verify tests/golden --backend cuda_graph --device cuda
  python -m shotstream_rt verify tests/golden --backend onnxruntime --engines /tmp/engines
  python -m shotstream_rt verify tests/golden --case e_ --all
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with golden vectors")
    parser.add_argument("--dtype", choices=sorted(_TYPES), default="float32",
                        help="type to compute in (default: float32)")  # fmt: skip
    parser.add_argument(
        "--backend", metavar="NAME", default="eager",
        help="what runs the films of d_ and e_; all else is single passes and blocks, which eager "
        "runs (default: eager)",
    )  # fmt: skip
    parser.add_argument(
        "--engines", metavar="DIR", type=Path,
        help="where exported passes of the cases are kept and looked for, for backends that run "
        "such (default: exported anew, and dropped)",
    )  # fmt: skip
    parser.add_argument(
        "--form", choices=("passes", "segments"), default="passes",
        help="what such backends run: whole passes, or a block's segments with our kernels "
        "beside them (default: passes)",
    )  # fmt: skip
    parser.add_argument(
        "--kernels", metavar="NAME",
        help="kernel set, such as torch (default: SHOTSTREAM_KERNEL_SET, else auto)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME", default="cpu",
        help="where the student runs: auto, cpu, cuda or cuda:N (default: cpu)",
    )  # fmt: skip
    parser.add_argument("--case", metavar="PREFIX", default="", help="only cases of this name")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--all", action="store_true", help="print every comparison")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of standard output"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare every case; exit code 0 when all pass, else 1."""
    if arguments.threads is not None:
        check_range("--threads", arguments.threads, 1, 1024)
    asked = verify.VerifyOptions(
        dtype=_TYPES[arguments.dtype],
        backend=arguments.backend,
        kernels=arguments.kernels or env.kernel_set(),
        device=resolve_device(arguments.device),
        engines=arguments.engines,
        form=arguments.form,
    )
    cases = [c for c in verify.find(arguments.folder) if c.name.startswith(arguments.case)]
    if not cases:
        raise ConfigError(f"--case: no case in {arguments.folder} begins with {arguments.case!r}")
    reports = []
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads or threads)
    try:
        for case in cases:
            start = time.perf_counter()
            report = verify.run(case, asked)
            reports.append(report)
            _print(report, time.perf_counter() - start, arguments.all)
    finally:
        torch.set_num_threads(threads)
    passed = all(report.passed for report in reports)
    tell(f"{'all passed' if passed else 'FAILED'} ({arguments.dtype})")
    if arguments.json:
        tell_json(_as_json(reports, arguments.dtype, passed))
    return 0 if passed else 1


def _print(report: CaseReport, seconds: float, everything: bool) -> None:
    worst = report.worst
    tell(
        f"{report.case:24} {'pass' if report.passed else 'FAIL'}  {len(report.checks):3} tensors  "
        f"worst {worst.name}: {worst.error:.2e} (limit {worst.limit:.2e})  {seconds:.1f} s"
    )
    for check in report.checks:
        if everything or not check.passed:
            verdict = "pass" if check.passed else "FAIL"
            tell(f"  {verdict}  {check.name:44} {check.error:.2e}")


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
