"""What oneDNN says of its own calls on a CPU, added up by kind.

oneDNN writes one line per call to the standard output of the process, from native code; here that
goes to a file while one looks. Which product, in which type and with which kernel: the first thing
to know where a CPU spends its time outside this package's own kernels.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_FIELDS_AFTER_EXEC = 3
"""Engine, kind of primitive, kernel: what every version writes behind ``exec``."""
_MOST_LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class OneDnnTotal:
    """Calls of one kind.

    Attributes:
        kind: such as ``matmul``, ``convolution`` or ``reorder`` (a change of layout or type).
        kernel: oneDNN's name of the code it chose, such as ``brg_matmul:avx2``.
        shape: the problem as oneDNN writes it.
        n: calls.
        ms: their time together.
    """

    kind: str
    kernel: str
    shape: str
    n: int
    ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "kind": self.kind, "kernel": self.kernel, "shape": self.shape, "n": self.n,
            "ms": round(self.ms, 4),
        }  # fmt: skip


@contextmanager
def onednn_calls() -> Iterator[list[OneDnnTotal]]:
    """Note oneDNN's calls in the ``with`` block; the list is filled when it ends.

    What the process writes to standard output meanwhile is written when it is over.
    """
    found: list[OneDnnTotal] = []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+b") as log:
        os.dup2(log.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                yield found
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").splitlines()
            calls = [line for line in lines if line.startswith("onednn_verbose")]
            sys.stdout.writelines(
                f"{line}\n" for line in lines if not line.startswith("onednn_verbose")
            )
        found += add_up(calls)


def add_up(lines: Sequence[str]) -> list[OneDnnTotal]:
    """Add up lines that oneDNN wrote, longest first; lines that are no calls are left out.

    Args:
        lines: such as ``onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx2,undef,...,
            1x384:384x1152,0.21``; the last field is milliseconds, the one before it the shape.
    """
    totals: dict[tuple[str, str, str], list[float]] = {}
    for line in lines:
        fields = line.strip().split(",")
        if "exec" not in fields:
            continue
        rest = fields[fields.index("exec") + 1 :]
        if len(rest) <= _FIELDS_AFTER_EXEC + 1:
            continue
        try:
            ms = float(rest[-1])
        except ValueError:
            continue
        totals.setdefault((rest[1], rest[2], rest[-2]), []).append(ms)
    rows = [
        OneDnnTotal(kind=kind, kernel=kernel, shape=shape, n=len(times), ms=sum(times))
        for (kind, kernel, shape), times in totals.items()
    ]
    return sorted(rows, key=lambda row: -row.ms)


def onednn_lines(totals: Sequence[OneDnnTotal]) -> list[str]:
    """Return a table for people."""
    whole = sum(total.ms for total in totals)
    if not totals:
        return ["oneDNN ran nothing: this package's own kernels and torch's did all the work"]
    head = f"oneDNN: {sum(total.n for total in totals)} calls, {whole:.1f} ms in all threads"
    lines = [head, f"{'ms':>10}{'share %':>9}{'calls':>8}  kind, kernel, shape"]
    lines += [
        f"{total.ms:>10.2f}{100 * total.ms / whole:>9.1f}{total.n:>8}  {total.kind}, "
        f"{total.kernel}, {total.shape}"
        for total in totals[:_MOST_LINES]
    ]
    if len(totals) > _MOST_LINES:
        lines.append(f"and {len(totals) - _MOST_LINES} more; --json tells all")
    return lines
