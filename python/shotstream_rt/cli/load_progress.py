"""How far a model is loaded, on standard error, where that takes long enough to be wondered at."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from shotstream_rt.terminal import write_safely

_AFTER_S, _EVERY_LIVE_S, _EVERY_PLAIN_S = 1.0, 0.2, 5.0
_NAMES = {
    "fetch": "fetching", "student": "loading the student", "codec": "loading the decoder",
    "text": "loading the text encoder",
}  # fmt: skip


class LoadLine:
    """A ``Tell`` that writes: one live line on a terminal, plain lines elsewhere.

    Nothing is written in the first second, so that small models load silently.

    Args:
        out: where to write; default: standard error, if there is one.
        quiet: write nothing.
    """

    def __init__(self, *, out: TextIO | None = None, quiet: bool = False) -> None:
        self._out = sys.stderr if out is None else out
        self._quiet = quiet or self._out is None or self._out.closed
        self._live = not self._quiet and self._out is not None and self._out.isatty()
        self._begun_s = self._shown_s = time.monotonic()
        self._width = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Write how far a stage is.

        Args:
            stage: see ``loading.progress.Tell``.
            done: bytes.
            total: bytes.
        """
        now = time.monotonic()
        every_s = _EVERY_LIVE_S if self._live else _EVERY_PLAIN_S
        if self._quiet or now - self._begun_s < _AFTER_S or now - self._shown_s < every_s:
            return
        self._shown_s = now
        share = f"{100 * done // total} %" if total else "-"
        line = f"{_NAMES.get(stage, stage)}: {share} of {total / 1e9:.2f} GB"
        if self._live:
            self._width = max(self._width, len(line))
            write_safely(self._out, f"\r{line.ljust(self._width)}")
        else:
            write_safely(self._out, f"{line}\n")

    def __enter__(self) -> LoadLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Remove the live line."""
        if self._width:
            write_safely(self._out, f"\r{' ' * self._width}\r")
            self._width = 0
