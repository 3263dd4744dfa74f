"""Progress on standard error: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from shotstream_rt.printable import printable
from shotstream_rt.terminal import write_safely

_LIVE_S, _PLAIN_S = 0.1, 2.0


class Progress:
    """Shows where a film is: shot, chunk, frames per second, time left.

    Args:
        shots: shots of the film.
        frames: frames expected in all, for the time left.
        out: where to write; default: standard error, if there is one.
        quiet: write nothing.
    """

    def __init__(
        self, *, shots: int, frames: int, out: TextIO | None = None, quiet: bool = False
    ) -> None:
        self._shots, self._expected, self._quiet = shots, frames, quiet
        self._out = sys.stderr if out is None else out
        self._live = self._out is not None and not self._out.closed and self._out.isatty()
        self._begun_s = self._shown_s = time.monotonic()
        self._frames = 0
        self._open_line = False

    def frame(self, shot: int, chunk: int) -> None:
        """Count one frame; writes at most ten times (plain: once in two seconds) a second."""
        self._frames += 1
        now = time.monotonic()
        last = self._frames == self._expected
        if self._quiet or (
            now - self._shown_s < (_LIVE_S if self._live else _PLAIN_S) and not last
        ):
            return
        self._shown_s = now
        rate = self._frames / max(now - self._begun_s, 1e-9)
        left_s = max(0.0, (self._expected - self._frames) / rate)
        line = (
            f"shot {shot + 1}/{self._shots}  chunk {chunk + 1}  "
            f"frame {self._frames}/{self._expected}  {rate:.1f} fps  {left_s:.0f} s left"
        )
        self._write(line)

    def note(self, line: str) -> None:
        """Write a line of its own."""
        if self._quiet:
            return
        self.end()
        write_safely(self._out, f"{printable(line)}\n")

    def end(self) -> None:
        """Close the live line."""
        if self._open_line:
            write_safely(self._out, "\n")
            self._open_line = False

    def _write(self, line: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            write_safely(self._out, "\r" + line[:width].ljust(width))
            self._open_line = True
        else:
            write_safely(self._out, f"{line}\n")
