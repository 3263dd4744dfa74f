"""Spans of OpenTelemetry, where its SDK is installed; without it nothing is done.

Which SDK, and where it sends spans to, is the host's choice: a program sets its provider, the
command runs as ``opentelemetry-instrument python -m shotstream_rt serve``.
"""

from __future__ import annotations

import time
from functools import cache
from importlib.util import find_spec
from typing import Any


def record(name: str, took_s: float, **attributes: str | int | float) -> None:
    """Record something that has just ended.

    Args:
        name: of the span, such as ``ask``.
        took_s: how long it took, in seconds.
        attributes: what it was about; names get the prefix ``shotstream.``.
    """
    tracer = _tracer()
    if tracer is None:
        return
    end_ns = time.time_ns()
    span = tracer.start_span(
        f"shotstream.{name}",
        start_time=end_ns - round(took_s * 1e9),
        attributes={f"shotstream.{key}": value for key, value in attributes.items()},
    )
    span.end(end_ns)


@cache
def _tracer() -> Any:
    """Return what makes spans; None without an SDK, whose interface alone would do it in vain."""
    try:
        if find_spec("opentelemetry.sdk") is None:
            return None
    except ModuleNotFoundError:
        return None
    from opentelemetry import trace

    return trace.get_tracer("shotstream_rt")
