"""Everything a GPU has to settle, in one command: build, tests, sanitizer, benches.

``make gpu-check OUT=DIR`` runs it. Each part is a process of its own under its own time limit, so a
hang or a crash costs that part alone; after each one ``DIR/report.json`` is written anew. Needs no
network. Exit code 0: all parts passed; 1: some did not; 3: no GPU was found (nothing ran).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
NO_DEVICE = 3

_DISCOVER = """
import json, torch
if not torch.cuda.is_available():
    raise SystemExit("torch sees no CUDA device (torch.cuda.is_available() is false)")
p = torch.cuda.get_device_properties(0)
print(json.dumps({"name": p.name, "sm": [p.major, p.minor], "memory_bytes": p.total_memory,
                  "torch": torch.__version__, "cuda": torch.version.cuda}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to run.

    Attributes:
        name: also the name of its log file.
        command: ``{out}`` stands for the folder of results.
        limit_s: seconds after which it is killed with everything it started.
        needs: a program without which it is skipped, with the reason in the report.
    """

    name: str
    command: list[str]
    limit_s: float
    needs: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a part: ``passed``, ``failed``, ``timed out`` or ``skipped``."""

    name: str
    verdict: str
    wall_s: float
    exit_code: int | None
    detail: str


def parts() -> list[Part]:
    """All parts in order; their limits add up to less than nine minutes."""
    bench = [PYTHON, "-m", "shotstream_rt.bench", "--device", "cuda", "--json", "--out", "{out}"]
    student = [*bench, "--workload", "student-1.3b", "--dtype", "bfloat16", "--repeats", "2"]
    return [
        Part(
            name="build",
            command=[PYTHON, "-m", "pip", "install", "--no-build-isolation", "--no-deps",
                     "--no-index", "-e", "."],
            limit_s=70,
        ),
        Part(
            name="tests",
            command=[PYTHON, "-m", "pytest", "-m", "gpu or tensorrt", "-q", "--maxfail", "20",
                     "tests"],
            limit_s=140,
        ),
        Part(
            name="golden",
            command=[PYTHON, "-m", "shotstream_rt", "verify", "tests/golden", "--json"],
            limit_s=50,
        ),
        Part(
            name="sanitizer",
            command=["compute-sanitizer", "--error-exitcode", "9", PYTHON, "-m", "pytest", "-q",
                     "-m", "gpu", "tests/backends"],
            limit_s=70,
            needs="compute-sanitizer",
        ),
        Part(
            name="bench-kernels",
            command=[PYTHON, "-m", "pytest", "bench", "-q", "--device", "cuda", "--workload",
                     "kernels-1536", "--dtype", "bfloat16", "--records", "{out}/kernels"],
            limit_s=60,
        ),
        Part(name="bench-eager", command=[*student, "--backend", "eager"], limit_s=70),
        Part(name="bench-cuda-graph", command=[*student, "--backend", "cuda_graph"], limit_s=70),
    ]  # fmt: skip


def discover() -> dict[str, object] | str:
    """Describe the first CUDA device, or say why there is none."""
    found = subprocess.run(
        [PYTHON, "-c", _DISCOVER], capture_output=True, text=True, timeout=120, check=False
    )
    if found.returncode != 0:
        return (found.stderr.strip().splitlines() or ["torch did not start"])[-1]
    device: dict[str, object] = json.loads(found.stdout.splitlines()[-1])
    return device


def run(part: Part, out: Path) -> Outcome:
    """Run a part, its output in ``out/NAME.log``."""
    if part.needs and shutil.which(part.needs) is None:
        return Outcome(name=part.name, verdict="skipped", wall_s=0, exit_code=None,
                       detail=f"{part.needs} is not installed")  # fmt: skip
    command = [word.replace("{out}", str(out)) for word in part.command]
    begun = time.monotonic()
    with (out / f"{part.name}.log").open("w") as log:
        # A session of its own: a hung kernel's helpers are killed together with it.
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(part.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Outcome(name=part.name, verdict="timed out", wall_s=part.limit_s,
                           exit_code=None, detail=f"killed after {part.limit_s:g} s")  # fmt: skip
    verdict = "passed" if code == 0 else "failed"
    return Outcome(name=part.name, verdict=verdict, wall_s=round(time.monotonic() - begun, 1),
                   exit_code=code, detail=" ".join(command))  # fmt: skip


def write_report(out: Path, device: object, outcomes: list[Outcome]) -> None:
    """Write ``report.json`` atomically."""
    report = {"device": device, "parts": [asdict(outcome) for outcome in outcomes]}
    partial = out / "report.json.partial"
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / "report.json")


def main(argv: list[str] | None = None) -> int:
    """Run all parts and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of records and logs")
    out: Path = parser.parse_args(argv).out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    device = discover()
    write_report(out, device, [])
    if isinstance(device, str):
        sys.stdout.write(f"no GPU: {device}; nothing was run\n")
        return NO_DEVICE
    outcomes: list[Outcome] = []
    for part in parts():
        outcome = run(part, out)
        outcomes.append(outcome)
        write_report(out, device, outcomes)
        sys.stdout.write(f"{outcome.verdict:10} {part.name:18} {outcome.wall_s:6.1f} s\n")
        sys.stdout.flush()
    return 0 if all(outcome.verdict in ("passed", "skipped") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
