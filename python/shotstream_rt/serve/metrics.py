"""What an operator sees of a server, as Prometheus reads it; ``docs/operate.md`` lists every name.

Labels are few and known beforehand, never the name of a film or of a viewer: what is kept does not
grow with the films that were ever opened. A frame costs two additions, whoever watches; what can be
counted when somebody asks is counted then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, get_args

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..types import Event, RequestKind, RequestState
from .from_server import Doing, ErrorCode
from .from_viewer import ASKS

if TYPE_CHECKING:
    from .films import Films

PLAIN = "text/plain; version=0.0.4"
"""Media type of Prometheus' text format."""
STALL_S = 0.1
"""A frame that is later than this stalls the picture; players hide less than that."""
_POSITIONS = 8
"""Chunks of a shot that are told apart; those behind them count as one position."""

_WAITS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
_CHUNK_S = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

REQUESTS: tuple[str, ...] = get_args(RequestKind)
OUTCOMES: tuple[str, ...] = tuple(state for state in get_args(RequestState) if state != "waiting")


class Metrics:
    """The metrics of one server, in a registry of their own.

    ``generate_latest`` of the registry runs on the event loop's thread, as everything else here but
    ``hear``, which any thread may call.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._frames = self._counter("frames", "Frames sent, each counted once for all viewers.")
        self._late_s = self._counter(
            "late_seconds", "Seconds for which pictures waited for a frame that was due."
        )
        self._stalls = self._counter("stalls", f"Frames that came more than {STALL_S} s late.")
        self._dropped = self._counter(
            "dropped_frames", "Frames that a viewer did not get because it was slow."
        )
        self._first_frame_s = self._histogram(
            "time_to_first_frame",
            "From joining, or from the ask that began the film, to the viewer's first frame.",
        )
        self._joined = self._counter("viewers_joined", "Viewers that joined a film.")
        self._given_up = self._counter(
            "viewers_given_up", "Viewers that were let go because they took nothing any more."
        )
        self._opened = self._counter("sessions_opened", "Films opened.")
        self._failures = self._counter("failures", "Times that making a film failed.")
        self._asks = self._counter("asks", "Asks of viewers, by kind.", "kind")
        self._outcomes = self._counter(
            "ask_outcomes", "What became of cuts, prompts, retakes and undos.", "kind", "state"
        )
        self._applied_s = self._histogram(
            "ask_to_applied", "From an ask's arrival to sending the first frame that shows it.",
            "kind",
        )  # fmt: skip
        self._glass_s = self._histogram(
            "ask_to_glass", "From pressing a key to the frame on a page's screen, as pages tell.",
            "kind",
        )  # fmt: skip
        self._chunk_s = self._histogram(
            "chunk", "Making a chunk, by its place in its shot.", "position", buckets=_CHUNK_S
        )
        self._errors = self._counter("errors", "Messages answered with an error.", "code")
        self._responses = self._counter(
            "http_responses", "Answers over HTTP.", "method", "route", "status"
        )
        for kind in ASKS:
            self._asks.labels(kind)
        for kind in REQUESTS:
            self._applied_s.labels(kind)
            self._glass_s.labels(kind)
            for state in OUTCOMES:
                self._outcomes.labels(kind, state)
        for code in get_args(ErrorCode):
            self._errors.labels(code)
        # Looked up once: one chunk of each film per second or so.
        self._chunk_at = [self._chunk_s.labels(str(at)) for at in range(_POSITIONS)]
        self._chunk_at.append(self._chunk_s.labels(f"{_POSITIONS}+"))

    def watch(self, films: Films) -> None:
        """Tell of a server's films, too, from now on."""
        self.registry.register(_Now(films))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    # What happens in films.

    def hear(self, event: Event) -> None:
        """Take note of what a session tells; for ``Session.on_event``, on any thread."""
        if event.kind == "chunk_made" and event.place is not None:
            self._chunk_at[min(event.place.chunk, _POSITIONS)].observe(event.took_s)
        elif event.kind == "failed":
            self._failures.inc()

    def frame(self, late_s: float) -> None:
        """Count a frame that was sent.

        Args:
            late_s: seconds by which it came later than it was due; 0 or more.
        """
        self._frames.inc()
        if late_s > 0:
            self._late_s.inc(late_s)
            if late_s > STALL_S:
                self._stalls.inc()

    def opened(self) -> None:
        """Count a film that was opened."""
        self._opened.inc()

    # What viewers do, and what becomes of it.

    def joined(self) -> None:
        """Count a viewer."""
        self._joined.inc()

    def first_frame(self, waited_s: float) -> None:
        """Note how long a viewer waited for its first frame, in seconds."""
        self._first_frame_s.observe(waited_s)

    def dropped(self, frames: int) -> None:
        """Count frames that a viewer will not get."""
        self._dropped.inc(frames)

    def given_up(self) -> None:
        """Count a viewer that took nothing any more."""
        self._given_up.inc()

    def ask(self, kind: str) -> None:
        """Count an ask; ``kind`` is one of ``ASKS``."""
        self._asks.labels(kind).inc()

    def outcome(self, kind: RequestKind, state: RequestState, after_s: float = 0.0) -> None:
        """Note what became of an ask.

        Args:
            kind: of the ask.
            state: what became of it.
            after_s: seconds from its arrival to sending the first frame that shows it.
        """
        self._outcomes.labels(kind, state).inc()
        if state == "applied":
            self._applied_s.labels(kind).observe(after_s)

    def glass(self, kind: RequestKind, after_s: float) -> None:
        """Note what a page measured, in seconds."""
        self._glass_s.labels(kind).observe(after_s)

    def error(self, code: ErrorCode) -> None:
        """Count a message that was answered with an error."""
        self._errors.labels(code).inc()

    def response(self, method: str, route: str | None, status: int) -> None:
        """Count an answer over HTTP.

        Args:
            method: as the client sent it.
            route: the route's own pattern, never the path that was asked for; None for no route.
            status: HTTP's.
        """
        known = method if method in _METHODS else "other"
        self._responses.labels(known, route or "none", str(status)).inc()

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"shotstream_{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, *labels: str, buckets: Iterable[float] = _WAITS_S
    ) -> Histogram:
        return Histogram(
            f"shotstream_{name}_seconds", about, labels, buckets=tuple(buckets),
            registry=self.registry,
        )  # fmt: skip


class CountResponses:
    """Counts what is answered over HTTP, by route.

    Args:
        app: answers.
        metrics: are told.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, and look at the status.

        Args:
            scope: of the request, as ASGI has it.
            receive: gives its messages.
            send: takes those of the answer.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what is answered where the app fails

        async def look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, look)
        finally:
            route = getattr(scope.get("route"), "path", None)
            self._metrics.response(scope["method"], route, status)


def joined(texts: Mapping[str, str]) -> bytes:
    """Return the metrics of several servers as one text, with the label ``server``.

    Args:
        texts: what each server tells, by its address.
    """
    registry = CollectorRegistry()
    registry.register(_Told(texts))
    return generate_latest(registry)


class _Told(Collector):
    """What servers tell.

    Args:
        texts: see ``joined``.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand, so that registering reads nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the values of all servers."""
        found: dict[str, Metric] = {}
        for server, text in self._texts.items():
            for one in text_string_to_metric_families(text):
                metric = found.setdefault(one.name, Metric(one.name, one.documentation, one.type))
                for sample in one.samples:
                    labels = {**sample.labels, "server": server}
                    metric.add_sample(sample.name, labels, sample.value)
        yield from found.values()


class _Now(Collector):
    """What is looked up when somebody asks."""

    def __init__(self, films: Films) -> None:
        self._films = films

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand, so that registering looks nothing up."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield how the films are doing now."""
        films = self._films
        stats = [film.stats() for film in films.all()]
        yield _gauge("ready", "1 when films can be opened.", float(films.unready is None))
        sessions = GaugeMetricFamily(
            "shotstream_sessions", "Films by what they do.", labels=("state",)
        )
        for state in get_args(Doing):
            sessions.add_metric((state,), sum(one.state == state for one in stats))
        yield sessions
        yield _gauge("viewers", "Who watches, over all films.", films.viewers)
        yield _gauge("queue_length", "Films that wait in line to play.", len(films.line))
        ratios = [one.play_ratio for one in stats if one.state == "playing"] or [1.0]
        ratio = GaugeMetricFamily(
            "shotstream_play_ratio",
            "Of the last half minute, the share in which the picture went on; films that play.",
            labels=("over",),
        )
        ratio.add_metric(("worst",), min(ratios))
        ratio.add_metric(("mean",), sum(ratios) / len(ratios))
        yield ratio
        yield _gauge("device_memory_bytes", "Memory of GPUs that torch holds.", _device_bytes())


def _device_bytes() -> int:
    if not torch.cuda.is_initialized():
        return 0
    return sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"shotstream_{name}", about, value=value)
