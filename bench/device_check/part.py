"""A part of the check, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

Verdict = Literal["passed", "failed", "timed out", "cut short", "skipped", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process to run.

    Attributes:
        name: in reports, and for ``--only``.
        command: ``{records}`` stands for the folder that its records go to.
        limit_s: seconds after which it is killed with everything it started; about twice what it
            should take.
        needs: a program without which it is skipped, with the reason in the report.
        vital: whether no other part makes sense without it; run again whenever a run is resumed.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    needs: str | None = None
    vital: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a part.

    Attributes:
        name: of the part.
        verdict: ``passed``; ``failed`` (ended with another exit code than 0, or by a signal);
            ``timed out`` (reached its own limit); ``cut short`` (the whole run had no more time);
            ``skipped`` (cannot run here, for the reason in ``detail``); ``left`` (not begun, for
            the next call).
        wall_s: seconds it took.
        exit_code: of the process; negative for a signal; None where it did not end by itself.
        detail: the command, or why it has no exit code.
        limit_s: what it was allowed.
        hanging: tests that had begun and not ended.
        figures: medians by name; with ``status`` where they are not those of a passed check.
    """

    name: str
    verdict: Verdict
    wall_s: float = 0.0
    exit_code: int | None = None
    detail: str = ""
    limit_s: float = 0.0
    hanging: Sequence[str] = ()
    figures: Mapping[str, float | str] = field(default_factory=dict)
