"""Part ``build``: the native core, and meanwhile the Triton kernels for this GPU.

The core is built by CMake directly, which needs no setuptools of a certain age; by pip if that
fails. Kernels go into Triton's own cache, in processes side by side, so that the parts that follow
find them compiled. A kernel that does not compile is told and left to the part that needs it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from device_check.part import ROOT
from device_check.process import PYTHON, environment

KERNELS_S = 60.0
"""For compiling kernels, counted from the start; what is missing then is compiled on first use."""

MOST_PROCESSES = 12


def build_core(attempts: Sequence[Callable[[], None]] | None = None) -> str | None:
    """Build the native core by the first attempt that works.

    Args:
        attempts: in order; default: CMake, then pip.

    Returns:
        Why it still cannot be imported, or None.
    """
    reason: str | None = "nothing was tried"
    for attempt in (by_cmake, by_pip) if attempts is None else attempts:
        try:
            attempt()
        except (OSError, subprocess.CalledProcessError, ImportError) as error:
            reason = f"{attempt.__name__}: {error}"
            _say(reason)
            continue
        reason = import_failure()
        if reason is None:
            return None
        _say(f"{attempt.__name__}: built, but: {reason}")
    return reason


def import_failure() -> str | None:
    """Return why the native core cannot be imported, or None if it can."""
    code = "import shotstream_rt._native as core; print(core.build_info())"
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode == 0:
        _say(done.stdout.strip())
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def find_cmake() -> str:
    """Return the path of CMake, beside the interpreter or on PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    path = shutil.which("cmake", path=environment()["PATH"])
    if path is None:
        raise FileNotFoundError(f"no cmake beside {PYTHON} or on PATH; pip install cmake")
    return path


def by_cmake() -> None:
    """Configure and build the Python extension into the package's folder."""
    import nanobind

    cmake = find_cmake()
    folder = ROOT / "build" / f"gpu-check-{sys.implementation.cache_tag}"
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    version = found[1] if found else "0.0.0"
    configure = [
        cmake, "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release",
        "-DSHOTSTREAM_BINDINGS=ON", "-DSHOTSTREAM_TESTS=OFF",
        # A compiler of tomorrow may warn of something new; that is no reason to measure nothing.
        "-DSHOTSTREAM_WARNINGS_AS_ERRORS=OFF",
        f"-DSHOTSTREAM_VERSION={version}", f"-DPython_EXECUTABLE={PYTHON}",
        f"-Dnanobind_DIR={nanobind.cmake_dir()}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={ROOT / 'python' / 'shotstream_rt'}",
    ]  # fmt: skip
    jobs = str(os.cpu_count() or 1)
    build = [cmake, "--build", str(folder), "--target", "_native", "--parallel", jobs]
    for command in (configure, build):
        subprocess.run(command, cwd=ROOT, env=environment(), check=True)


def by_pip() -> None:
    """Install the checkout in place, without network."""
    subprocess.run(
        [PYTHON, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-e",
         "."],
        cwd=ROOT, env=environment(), check=True,
    )  # fmt: skip


def start_compiling(processes: int, arguments: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """Start compiling the kernels, each process its share of them."""
    program = str(Path(__file__).with_name("compile_kernels.py"))
    return [
        subprocess.Popen(
            [PYTHON, program, "--share", f"{number}/{processes}", *arguments], cwd=ROOT,
            env=environment(),
        )
        for number in range(processes)
    ]  # fmt: skip


def finish_compiling(running: Sequence[subprocess.Popen[bytes]], until: float) -> None:
    """Wait for the compiling processes until a ``time.monotonic()``, end the rest, say which."""
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
    unfinished = [process for process in running if process.poll() is None]
    for process in unfinished:
        process.kill()
    if unfinished:
        _say(f"kernels: {len(unfinished)} of {len(running)} processes were ended unfinished")


def main(argv: Sequence[str] | None = None) -> int:
    """Build; exit code 1 if the native core cannot be imported."""
    parser = argparse.ArgumentParser(description=__doc__)
    cores = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=max(1, min(MOST_PROCESSES, cores - 2)))
    parser.add_argument("--kernels-seconds", type=float, default=KERNELS_S)
    parser.add_argument("kernels", nargs="*", help="arguments for compile_kernels.py")
    asked = parser.parse_args(argv)
    until = time.monotonic() + asked.kernels_seconds
    running = start_compiling(asked.processes, asked.kernels)
    reason = build_core()
    finish_compiling(running, until if reason is None else time.monotonic())
    if reason is not None:
        _say(f"no native core: {reason}")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
