"""Spans of OpenTelemetry: what they say, and that nothing is missing without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shotstream_rt.serve import spans
from shotstream_rt.serve.client import Client

CAT = "Wide shot: a red cat walks right on a beach."


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Let what makes spans be looked for again, now and afterwards."""
    spans._tracer.cache_clear()
    yield
    spans._tracer.cache_clear()


def test_a_film_leaves_spans(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, url: str, http: httpx.Client
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, kept = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session) as client:
        ask = client.cut(CAT)
        after_ms = client.outcome(ask).after_ms
        client._ask("glass", ask=ask.id, ms=after_ms + 80)
    http.delete(f"/v1/sessions/{session}")
    found: dict[str, Any] = {}
    for span in kept.get_finished_spans():
        assert span.attributes["shotstream.session"] == session
        assert span.end_time > span.start_time
        found.setdefault(span.name, span)
    assert set(found) == {
        "shotstream.session.open", "shotstream.ask", "shotstream.ask.glass", "shotstream.chunk",
    }  # fmt: skip
    asked = found["shotstream.ask"]
    assert asked.attributes["shotstream.ask"] == ask.id
    assert asked.attributes["shotstream.kind"] == "cut"
    assert asked.attributes["shotstream.state"] == "applied"
    assert (asked.end_time - asked.start_time) / 1e6 == pytest.approx(after_ms, abs=0.1)
    assert found["shotstream.chunk"].attributes["shotstream.chunk"] == 0


def test_without_an_sdk_there_are_none(forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "find_spec", lambda name: None)
    spans.record("ask", 1.0, kind="cut")
    assert spans._tracer() is None
