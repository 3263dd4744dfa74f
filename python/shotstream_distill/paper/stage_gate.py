"""The gate behind a stage: a function of its product, whose verdict may stop the run.

Called by the run after each stage whose product is a network. What is examined (does the model use
its context?) is in ``evaluation/context_gate.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shotstream_rt.errors import ShotStreamError

_log = logging.getLogger("shotstream_distill.paper.stage_gate")


class GateError(ShotStreamError):
    """A stage's product failed its exam and the run is told to stop there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """An exam's outcome.

    Attributes:
        passed: the verdict.
        summary: one line for a person.
        figures: numbers behind it, as plain JSON types.
    """

    passed: bool
    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)


Gate = Callable[[str, Path], GateReport]
"""Of the stage's kind and its product's file."""


def examine(
    gate: Gate | None, kind: str, product: Path, policy: Literal["off", "warn", "stop"]
) -> GateReport | None:
    """Put a product to the test.

    Args:
        gate: the examination; ``None`` for none.
        kind: of the stage.
        product: its file.
        policy: what a failure does: nothing, a warning, or an error.

    Raises:
        GateError: it failed and the policy is ``stop``.
    """
    if gate is None or policy == "off":
        return None
    report = gate(kind, product)
    if report.passed:
        _log.info("%s: gate passed: %s", product.stem, report.summary)
    elif policy == "stop":
        raise GateError(
            f"{product}: gate failed: {report.summary}; train longer, or set gate: warn"
        )
    else:
        _log.warning("%s: gate failed: %s", product.stem, report.summary)
    return report
