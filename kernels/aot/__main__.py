"""The command line of bundles: ``python -m shotstream_rt.kernels.aot``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import triton

from ...errors import ShotStreamError
from ..check.compile_cases import compile_cases
from ..tuning import ARCHITECTURES
from .build import Built, build, cases_of
from .check import check_bundle
from .manifest import BundleManifest, KernelEntry

_EPILOG = """\
what a bundle is for
  Without one, Triton compiles each kernel when it is first called: seconds each, with a C compiler
  at hand. With one, a process loads machine code that was compiled, checked and measured before.
  A launch that the bundle has nothing for is an error; it never compiles.

how a bundle is used
  SHOTSTREAM_KERNELS=DIR python -m shotstream_rt generate ...
  or, before a session is opened: shotstream_rt.kernels.launch.open_bundle(DIR)

examples
  python -m shotstream_rt.kernels.aot build --out kernels-bundle --jobs 8
  python -m shotstream_rt.kernels.aot build --out hopper --arch 90 --line-info
  python -m shotstream_rt.kernels.aot inspect hopper
  python -m shotstream_rt.kernels.aot check hopper --json

exit codes
  0 done; 1 a kernel is over its budget (nothing is written) or a bundle is damaged or stale;
  2 a mistake in the call
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    out = argparse.ArgumentParser(
        prog="python -m shotstream_rt.kernels.aot",
        description="Compile kernels ahead of time, without a GPU, and look at what came out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = out.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("build", help="compile every kernel into a bundle")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    one.add_argument(
        "--arch", type=int, nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES),
        metavar="SM", help="compute capabilities, 90 for sm_90 (default: all)",
    )  # fmt: skip
    one.add_argument("--kernel", nargs="+", metavar="NAME", help="compile cases (default: all)")
    one.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
        help="processes that compile (default: one per core)",
    )  # fmt: skip
    one.add_argument(
        "--line-info", action="store_true",
        help="keep source lines for profilers; same instructions, about three times the size",
    )  # fmt: skip
    two = commands.add_parser("inspect", help="show what a bundle holds")
    three = commands.add_parser("check", help="hold a bundle against its hashes and the sources")
    for command in (two, three):
        command.add_argument("bundle", type=Path, metavar="DIR", help="folder of the bundle")
    for command in (one, two, three):
        command.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command."""
    commands = parser()
    chosen = commands.parse_args(argv)
    try:
        if chosen.command == "build":
            _check_build(commands, chosen)
            return _build(chosen)
        if chosen.command == "inspect":
            return _inspect(chosen)
        return _check(chosen)
    except ShotStreamError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _check_build(commands: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    cases = [case for sm in chosen.arch for case in compile_cases(sm)]
    if not all(isinstance(case.kernel, triton.runtime.JITFunction) for case in cases):
        commands.error("TRITON_INTERPRET: got 1, wanted 0: interpreted kernels are not compiled")
    known = list(dict.fromkeys(case.name for case in cases))
    unknown = sorted(set(chosen.kernel or ()) - set(known))
    if unknown:
        commands.error(f"--kernel: got {', '.join(unknown)}, wanted some of {', '.join(known)}")
    if chosen.jobs < 1:
        commands.error(f"--jobs: got {chosen.jobs}, wanted at least 1")


def _build(chosen: argparse.Namespace) -> int:
    work = cases_of(sorted(set(chosen.arch)), chosen.kernel or ())
    failures: list[str] = []

    def tell(built: Built) -> None:
        print(_row(built.entry), "; ".join(built.failures) or "ok", flush=True)  # noqa: T201
        name = f"sm_{built.entry.capability} {built.entry.name}"
        failures.extend(f"{name}: {failure}" for failure in built.failures)

    started = perf_counter()
    manifest = build(chosen.out, work, jobs=chosen.jobs, line_info=chosen.line_info, told=tell)
    seconds = perf_counter() - started
    summary = {
        "schema_version": 1,
        "bundle": str(chosen.out) if manifest else None,
        "entries": len(work),
        "architectures": sorted(set(chosen.arch)),
        "cubin_bytes": sum(e.cubin_bytes for e in manifest.kernels) if manifest else 0,
        "seconds": round(seconds, 1),
        "failures": sorted(failures),
    }
    said = f"{chosen.out}: {len(work)} entries, {summary['cubin_bytes']} bytes of machine code"
    print(said if manifest else "nothing written", f"in {seconds:.0f} s")  # noqa: T201
    if chosen.json:
        print(json.dumps(summary))  # noqa: T201
    return 0 if manifest else 1


def _inspect(chosen: argparse.Namespace) -> int:
    manifest = BundleManifest.read(chosen.bundle)
    for entry in manifest.kernels:
        print(_row(entry), f"{entry.cubin_bytes} bytes", entry.kernel)  # noqa: T201
    if chosen.json:
        print(json.dumps({"schema_version": 1, **dataclasses.asdict(manifest)}))  # noqa: T201
    return 0


def _check(chosen: argparse.Namespace) -> int:
    manifest, problems = check_bundle(chosen.bundle)
    for problem in problems:
        print(problem)  # noqa: T201
    print(f"{len(manifest.kernels)} entries, {len(problems)} problems")  # noqa: T201
    if chosen.json:
        summary = {
            "schema_version": 1,
            "bundle": str(chosen.bundle),
            "entries": len(manifest.kernels),
            "problems": problems,
        }
        print(json.dumps(summary))  # noqa: T201
    return 1 if problems else 0


def _row(entry: KernelEntry) -> str:
    return (
        f"sm_{entry.capability:<4}{entry.name:28}{entry.registers:4} registers"
        f"{entry.spill_bytes:5} B spilled{entry.shared_bytes:8} B shared{entry.num_warps:4} warps "
    )


if __name__ == "__main__":
    sys.exit(main())
