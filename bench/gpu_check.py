"""Everything a GPU has to settle, in one command: build, tests, sanitizer, benches, counters.

``make gpu-check OUT=DIR`` runs it; ``ONLY=a,b`` runs some parts, which is how what did not fit into
nine minutes is caught up on. Each part is a process of its own under its own time limit, so a hang
or a crash costs that part alone. Needs no network. Three files come out, written anew after each
part: ``report.json`` (device and verdicts), ``records.json`` (every record of a bench; ``unpack``
turns it into one file each) and ``log.txt``. Exit code 0: all parts passed; 1: some did not; 2: a
mistake in the call; 3: no GPU was found (nothing ran).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
NO_DEVICE = 3
TOTAL_S = 530.0
"""For all parts together: under ten minutes with what starting and stopping take."""

_LOG_CHARACTERS = 120_000
"""Kept of a part's log: its end."""

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
        name: in reports, and for ``--only``.
        command: ``{records}`` stands for the folder that records go to.
        limit_s: seconds after which it is killed with everything it started.
        needs: a program without which it is skipped, with the reason in the report.
    """

    name: str
    command: Sequence[str]
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


_GLUON_TESTS, _GLUON_BENCH = "tests/kernels/test_triton_hopper.py", "bench/bench_triton_hopper.py"


def parts() -> list[Part]:
    """All parts, the most telling first; what no time is left for is skipped."""
    kernels = [PYTHON, "-m", "pytest", "-q", "--device", "cuda", "--workload", "kernels-1536",
               "--dtype", "bfloat16", "--roofline", "--records", "{records}"]  # fmt: skip
    return [
        Part(
            name="build",
            command=[PYTHON, "-m", "pip", "install", "--no-build-isolation", "--no-deps",
                     "--no-index", "-e", "."],
            limit_s=80,
        ),
        _tests("tests-rest", gpu_tests(), 90),
        _bench("student-exact", ["--workload", "student-1.3b", "--dtype", "bfloat16",
                                 "--baseline", "--roofline", "--repeats", "2"], 90),
        _tests("tests-kernels", ["tests/kernels", "--ignore", _GLUON_TESTS], 110),
        # Apart, for warps that wait for one another can wait for ever.
        _tests("tests-gluon", [_GLUON_TESTS], 100),
        _film("film-exact", "exact", ["--baseline", "--roofline", "--repeats", "1"], 110),
        _film("film-fp8-tiny", "fp8-tiny", ["--roofline"], 60),
        _film("film-fast", "fast", ["--roofline"], 60),
        _film("film-tiny", "tiny", [], 60),
        _film("film-fp8", "fp8", [], 60),
        Part(
            name="kernels",
            command=[*kernels, "bench", "--ignore", "bench/bench_chunk_decoder.py", "--ignore",
                     _GLUON_BENCH],
            limit_s=90,
        ),
        Part(name="gluon", command=[*kernels, _GLUON_BENCH], limit_s=90),
        Part(name="decoders", command=[*kernels, "bench/bench_chunk_decoder.py"], limit_s=60),
        _bench("compare-0-21", ["--workload", "film-480p-0-21", "--dtype", "bfloat16"], 60),
        _bench("compare-0-21-tiny", ["--workload", "film-480p-0-21", "--dtype", "bfloat16",
                                     "--profile", "tiny"], 60),
        _bench("student-0-21", ["--workload", "student-1.3b-0-21", "--dtype", "bfloat16"], 60),
        _bench("student-eager", ["--workload", "student-1.3b", "--dtype", "bfloat16", "--backend",
                                 "eager", "--repeats", "1"], 60),
        _bench("student-fp8", ["--workload", "student-1.3b", "--dtype", "bfloat16", "--profile",
                               "fp8", "--roofline", "--repeats", "2"], 60),
        Part(
            name="golden",
            command=[PYTHON, "-m", "shotstream_rt", "verify", "tests/golden", "--json"],
            limit_s=60,
        ),
        Part(
            name="sanitizer",
            # Without torch's memory pool, so that every tensor has an end that can be overrun.
            command=["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer",
                     "--error-exitcode", "9", PYTHON, "-m", "pytest", "-q", "-x", "-m", "gpu",
                     "-k", "adaln or append or renoise or noise or norm or pack or silu",
                     "tests/kernels"],
            limit_s=120,
            needs="compute-sanitizer",
        ),
        Part(
            name="counters",
            command=["ncu", "--profile-from-start", "off", "--clock-control", "none",
                     "--launch-count", "60", "--section", "SpeedOfLight", "--section", "Occupancy",
                     "--section", "LaunchStats", PYTHON, "-m", "shotstream_rt.bench", "profile",
                     "--workload", "student-1.3b", "--dtype", "bfloat16", "--backend", "eager"],
            limit_s=90,
            needs="ncu",
        ),
    ]  # fmt: skip


def gpu_tests() -> list[str]:
    """Test files outside ``tests/kernels`` with anything for a GPU.

    Named one by one: a machine with a GPU need not have what the other tests import.
    """
    marks = ("mark.gpu", "mark.tensorrt")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(path.relative_to(ROOT))
        for path in files
        if "kernels" not in path.parts and any(mark in path.read_text("utf-8") for mark in marks)
    ]


def _tests(name: str, where: list[str], limit_s: float) -> Part:
    """The tests that need a GPU, side by side where that is possible: they mostly compile."""
    workers = ["-n", "6"] if importlib.util.find_spec("xdist") else []
    command = [PYTHON, "-m", "pytest", "-m", "gpu or tensorrt", "-q", "--maxfail", "20"]
    return Part(name=name, command=[*command, *workers, *where], limit_s=limit_s)


def _bench(name: str, arguments: list[str], limit_s: float) -> Part:
    command = [PYTHON, "-m", "shotstream_rt.bench", "--device", "cuda", "--out", "{records}"]
    return Part(name=name, command=[*command, *arguments], limit_s=limit_s)


def _film(name: str, profile: str, arguments: list[str], limit_s: float) -> Part:
    workload = ["--workload", "film-480p", "--dtype", "bfloat16", "--profile", profile]
    return _bench(name, [*workload, *arguments], limit_s)


def discover() -> dict[str, object] | str:
    """Describe the first CUDA device, or say why there is none."""
    found = subprocess.run(
        [PYTHON, "-c", _DISCOVER], capture_output=True, text=True, timeout=120, check=False
    )
    if found.returncode != 0:
        return (found.stderr.strip().splitlines() or ["torch did not start"])[-1]
    device: dict[str, object] = json.loads(found.stdout.splitlines()[-1])
    return device


def run(part: Part, work: Path, limit_s: float | None = None) -> Outcome:
    """Run a part, its output in ``work/NAME.log`` and its records in ``work/records``."""
    if part.needs and shutil.which(part.needs) is None:
        return _skipped(part, f"{part.needs} is not installed")
    limit_s = part.limit_s if limit_s is None else limit_s
    records = work / "records"
    records.mkdir(exist_ok=True)
    command = [word.replace("{records}", str(records)) for word in part.command]
    paths = os.pathsep.join(filter(None, [str(ROOT / "python"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    begun = time.monotonic()
    with (work / f"{part.name}.log").open("w") as log:
        # A session of its own: a hung kernel's helpers are killed together with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Outcome(name=part.name, verdict="timed out", wall_s=round(limit_s, 1),
                           exit_code=None, detail=f"killed after {limit_s:.0f} s")  # fmt: skip
    verdict = "passed" if code == 0 else "failed"
    return Outcome(name=part.name, verdict=verdict, wall_s=round(time.monotonic() - begun, 1),
                   exit_code=code, detail=" ".join(command))  # fmt: skip


def run_all(
    chosen: Sequence[Part], work: Path, *, total_s: float = TOTAL_S
) -> Iterator[list[Outcome]]:
    """Run parts one after the other; yields all outcomes so far after each.

    A part gets its own limit or what is left of ``total_s``, whichever is less; with less than a
    third of its limit left it is skipped.
    """
    until = time.monotonic() + total_s
    outcomes: list[Outcome] = []
    for part in chosen:
        left_s = until - time.monotonic()
        if left_s < part.limit_s / 3:
            outcomes.append(_skipped(part, f"{max(left_s, 0):.0f} s were left; run it by --only"))
        else:
            outcomes.append(run(part, work, min(part.limit_s, left_s)))
        yield outcomes


def write_results(out: Path, work: Path, device: object, outcomes: Sequence[Outcome]) -> None:
    """Write the three files, each atomically."""
    report = {"device": device, "parts": [asdict(outcome) for outcome in outcomes]}
    _replace(out / "report.json", json.dumps(report, indent=2) + "\n")
    files = sorted((work / "records").glob("*.json"))  # atomically written, so never half a file
    records = {path.stem: json.loads(path.read_text("utf-8")) for path in files}
    _replace(out / "records.json", json.dumps(records, indent=1) + "\n")
    logs = []
    for outcome in outcomes:
        log = work / f"{outcome.name}.log"
        text = log.read_text("utf-8", "replace") if log.is_file() else outcome.detail
        logs.append(f"===== {outcome.name}: {outcome.verdict}\n{text[-_LOG_CHARACTERS:]}\n")
    _replace(out / "log.txt", "\n".join(logs))


def unpack(records: Path, folder: Path) -> list[Path]:
    """Write every record of a ``records.json`` to a file of its own, as ``compare`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, record in json.loads(records.read_text("utf-8")).items():
        path = folder / f"{name}.json"
        _replace(path, json.dumps(record, indent=2) + "\n")
        written.append(path)
    return written


def _skipped(part: Part, why: str) -> Outcome:
    return Outcome(name=part.name, verdict="skipped", wall_s=0, exit_code=None, detail=why)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _chosen(only: str | None) -> list[Part]:
    every = parts()
    if only is None:
        return every
    wanted = [name.strip() for name in only.split(",")]
    unknown = sorted(set(wanted) - {part.name for part in every})
    if unknown:
        known = ", ".join(part.name for part in every)
        sys.stderr.write(f"error: --only: no part {', '.join(unknown)}; there are {known}\n")
        raise SystemExit(2)
    return [part for part in every if part.name in wanted]


def main(argv: list[str] | None = None) -> int:
    """Run all parts and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of the three result files")
    parser.add_argument("--only", metavar="PART,...", help="run these parts")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for all parts together")
    parser.add_argument(
        "--unpack", type=Path, metavar="records.json", help="write its records into DIR, and stop"
    )
    asked = parser.parse_args(argv)
    out: Path = asked.out.resolve()
    if asked.unpack is not None:
        sys.stdout.write(f"{len(unpack(asked.unpack, out))} records in {out}\n")
        return 0
    chosen = _chosen(asked.only)
    out.mkdir(parents=True, exist_ok=True)
    device = discover()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        work = Path(folder)
        write_results(out, work, device, [])
        if isinstance(device, str):
            sys.stdout.write(f"no GPU: {device}; nothing was run\n")
            return NO_DEVICE
        outcomes: list[Outcome] = []
        for outcomes in run_all(chosen, work, total_s=asked.seconds):
            write_results(out, work, device, outcomes)
            done = outcomes[-1]
            sys.stdout.write(f"{done.verdict:10} {done.name:18} {done.wall_s:6.1f} s\n")
            if done.verdict != "passed":
                sys.stdout.write(_last_lines(work / f"{done.name}.log") or f"  {done.detail}\n")
            sys.stdout.flush()
    return 0 if all(outcome.verdict in ("passed", "skipped") for outcome in outcomes) else 1


def _last_lines(log: Path, count: int = 6) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-count:] if log.is_file() else []
    return "".join(f"  {line[:200]}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
