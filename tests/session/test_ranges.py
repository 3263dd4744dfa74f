"""Profiler ranges: every stage is marked, ranges nest, and nothing is made when nobody listens."""

from __future__ import annotations

import gc
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from shotstream_rt import Session, nvtx
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.kernels.sets.kernel_set import TORCH_OPS
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline

INSIDE = {
    # Which range each is directly inside of; None: of no other on its thread.
    "session.open": {None},
    "text.encode": {None},
    "context.encode": {None},
    "context.pass": {None},
    "chunk": {None},
    "step": {"chunk"},
    "renoise": {"step"},
    "commit": {None},
    "layer": {"step", "commit", "context.pass"},
    "attn": {"layer"},
    "cross": {"layer"},
    "ffn": {"layer"},
    "vae.decode": {None},
    "frame.pack": {None},
    "queue.put": {None},
    "queue.wait": {None},
}
ANYWHERE = "python.gc"
"""Python collects its garbage when it likes."""


class FakeNvtx(ModuleType):
    """Stands in for the ``nvtx`` package: notes every range with the one around it."""

    def __init__(self) -> None:
        super().__init__("nvtx")
        self.found: dict[str, set[str | None]] = defaultdict(set)
        self.payloads: dict[str, set[int | None]] = defaultdict(set)
        self.open: dict[int, list[str]] = defaultdict(list)
        self.marks: list[tuple[str, int | None, int | None]] = []

    def annotate(self, message: str, *, domain: str, payload: int | None) -> FakeRange:
        assert domain == nvtx.DOMAIN
        self.payloads[message].add(payload)
        return FakeRange(self, message)

    def mark(self, message: str, *, domain: str, payload: int | None, category: int | None) -> None:
        assert domain == nvtx.DOMAIN
        self.marks.append((message, payload, category))


class FakeRange:
    """A range that insists on being closed last in, first out."""

    def __init__(self, owner: FakeNvtx, name: str) -> None:
        self._owner, self._name = owner, name

    def __enter__(self) -> None:
        stack = self._owner.open[threading.get_ident()]
        self._owner.found[self._name].add(stack[-1] if stack else None)
        stack.append(self._name)

    def __exit__(self, *_: object) -> None:
        assert self._owner.open[threading.get_ident()].pop() == self._name


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvtx]:
    made = FakeNvtx()
    monkeypatch.setitem(sys.modules, "nvtx", made)
    listening = list(gc.callbacks)
    nvtx.level.cache_clear()
    nvtx.mark_garbage_collection.cache_clear()
    yield made
    nvtx.level.cache_clear()
    nvtx.mark_garbage_collection.cache_clear()
    gc.callbacks[:] = listening


def film(bundle: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shots of a session on a tiny student."""
    config = bundle.config
    student = BoundStudent.from_student(Student(config.model).requires_grad_(False), TORCH_OPS)
    pipeline = Pipeline(config, EagerBackend(student, config).new_film())
    monkeypatch.setattr(bundle, "new_pipeline", lambda: pipeline)
    monkeypatch.setattr(Model, "open", lambda *_, **__: bundle)
    with Session.open(Path("fake"), threads=1) as session:
        session.cut("one")
        session.cut("two")
        chunks = session.chunks()
        for _ in range(2 * config.shot.chunks):
            next(chunks)


def test_every_stage_is_marked_and_ranges_nest(
    fake: FakeNvtx, bundle: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTSTREAM_NVTX", "detail")
    film(bundle, monkeypatch)
    fake.found.pop(ANYWHERE, None)
    assert fake.found == INSIDE
    assert set(fake.payloads["chunk"]) == set(range(bundle.config.shot.chunks))
    assert set(fake.payloads["step"]) == set(range(bundle.config.schedule.num_steps))
    assert not any(fake.open.values())


def test_layers_are_marked_at_the_detail_level_only(
    fake: FakeNvtx, bundle: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTSTREAM_NVTX", "1")
    film(bundle, monkeypatch)
    fake.found.pop(ANYWHERE, None)
    assert set(fake.found) == set(INSIDE) - {"layer", "attn", "cross", "ffn"}


def test_marks_join_a_request_to_the_frame_that_shows_it(
    fake: FakeNvtx, open_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTSTREAM_NVTX", "1")
    session = open_session()
    first = session.cut("one")
    frames = [next(stream) for stream in [session.stream()] for _ in range(3)]
    second = session.cut("two", now=True)
    frames += session.stream()
    by_name = defaultdict(list)
    for name, frame, request in fake.marks:
        by_name[name].append((frame, request))
    # No frame was read before the first cut; three were read before the second.
    assert by_name["ask"] == [(0, first.id), (3, second.id)]
    assert first.place is not None and second.place is not None
    applied = [(0, first.id), (second.place.index, second.id)]
    assert by_name["applied"] == applied
    assert second.place.index == next(frame.index for frame in frames if frame.shot == 1)
    assert by_name["frame.taken"] == [(frame.index, None) for frame in frames]
    starts = {frame.index for frame in frames if frame.chunk != frames[frame.index - 1].chunk}
    assert {frame for frame, _ in by_name["frame.made"]} == {0, second.place.index, *starts}
    assert set(by_name) == set(nvtx.MARK_NAMES)


def test_nobody_is_asked_to_listen_without_the_variable(
    fake: FakeNvtx, open_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOTSTREAM_NVTX", raising=False)
    before = len(gc.callbacks)
    session = open_session()
    session.cut("one")
    assert sum(1 for _ in session.stream()) > 0
    assert len(gc.callbacks) == before
    assert fake.marks == []


def test_the_garbage_collector_is_a_range(
    fake: FakeNvtx, open_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTSTREAM_NVTX", "1")
    open_session()
    gc.collect(1)
    gc.collect()
    assert {1, 2} <= fake.payloads[ANYWHERE]
    assert not any(fake.open.values())


def test_nothing_is_made_when_nobody_listens(
    fake: FakeNvtx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOTSTREAM_NVTX", raising=False)
    assert nvtx.annotate("chunk", 1) is nvtx.annotate("step") is nvtx.detail("layer", 2)
    with nvtx.annotate("chunk", 1):
        pass
    assert not fake.found


def test_the_host_copy_is_a_stage_of_its_own() -> None:
    assert {"host.copy", ANYWHERE, *INSIDE} == {*nvtx.RANGE_NAMES, "layer", "attn", "cross", "ffn"}
