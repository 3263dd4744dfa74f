"""A server in a process of its own, with what it takes from the machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shotstream_rt.errors import ConfigError, ShotStreamError

from .serve_player import Address

_END_S = 60
_STAT_UTIME = 11
"""Place of ``utime`` behind the name in ``/proc/PID/stat``; ``stime`` follows it."""


class ServerProcess:
    """A running server.

    Args:
        address: where it is.
        pid: its process; None for one that was not started here, of which nothing can be read.
    """

    def __init__(self, address: Address, pid: int | None = None) -> None:
        self.address = address
        # Only Linux tells these of another process.
        self._folder = Path(f"/proc/{pid}") if pid and Path("/proc/self/statm").exists() else None
        self._pid = pid

    def cpu_s(self) -> float | None:
        """Return the CPU time that all its threads took so far, in seconds."""
        return None if self._folder is None else _cpu_s(self._folder)

    def loop_cpu_s(self) -> float | None:
        """Return that of the thread which talks with the viewers alone, its first."""
        return None if self._folder is None else _cpu_s(self._folder / "task" / str(self._pid))

    def resident_mib(self) -> float | None:
        """Return the memory that it holds."""
        if self._folder is None:
            return None
        pages = int((self._folder / "statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_s(folder: Path) -> float:
    # The name may have spaces and brackets; what follows its last bracket has none.
    fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    ticks = int(fields[_STAT_UTIME]) + int(fields[_STAT_UTIME + 1])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(words: Sequence[str]) -> Iterator[ServerProcess]:
    """Start ``python -m shotstream_rt serve`` on a free port; ended with the ``with`` block.

    Its threads share one arena, as docs/live.md advises for programs that run for weeks.

    Args:
        words: further options of ``serve``.

    Raises:
        ConfigError: the server refuses an option.
        ShotStreamError: it does not start, or does not end as a server should.
    """
    command = [sys.executable, "-m", "shotstream_rt", "serve", "--port", "0", "--json", *words]
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            told = _told(process.stdout.readline())
            if "url" not in told:
                process.wait()
                kind = ConfigError if process.returncode == 2 else ShotStreamError
                raise kind(f"serve: {told.get('error', 'it ended without a word')}")
            yield ServerProcess(Address.of(told["url"]), process.pid)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(_END_S)
            except subprocess.TimeoutExpired:
                raise ShotStreamError(f"serve: it did not end within {_END_S} s") from None
            if code != 0:
                said.seek(0)
                last = (said.read().strip().splitlines() or ["no output"])[-1]
                raise ShotStreamError(f"serve: it ended with {code}: {last}")
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _told(line: str) -> dict[str, str]:
    try:
        told: dict[str, str] = json.loads(line)
    except ValueError:
        return {}
    return told
