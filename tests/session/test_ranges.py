"""Profiler ranges: every stage is marked, ranges nest, and nothing is made when nobody listens."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from shotstream_rt import Session, nvtx
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.kernels.kernel_set import TORCH_OPS
from shotstream_rt.model.loading import ModelBundle
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


class FakeNvtx(ModuleType):
    """Stands in for the ``nvtx`` package: notes every range with the one around it."""

    def __init__(self) -> None:
        super().__init__("nvtx")
        self.found: dict[str, set[str | None]] = defaultdict(set)
        self.payloads: dict[str, set[int | None]] = defaultdict(set)
        self.open: dict[int, list[str]] = defaultdict(list)

    def annotate(self, message: str, *, domain: str, payload: int | None) -> FakeRange:
        assert domain == nvtx.DOMAIN
        self.payloads[message].add(payload)
        return FakeRange(self, message)


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
    nvtx.level.cache_clear()
    yield made
    nvtx.level.cache_clear()


def film(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shots of a session on a tiny student."""
    config = bundle.config
    backend = EagerBackend(Student(config.model).requires_grad_(False), config, TORCH_OPS)
    whole = replace(bundle, pipeline=Pipeline(config, backend))
    monkeypatch.setattr("shotstream_rt.model.loading.load_model", lambda *_, **__: whole)
    with Session.open(Path("fake"), threads=1) as session:
        session.cut("one")
        session.cut("two")
        chunks = session.chunks()
        for _ in range(2 * config.shot.chunks):
            next(chunks)


def test_every_stage_is_marked_and_ranges_nest(
    fake: FakeNvtx, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTSTREAM_NVTX", "detail")
    film(bundle, monkeypatch)
    assert fake.found == INSIDE
    assert set(fake.payloads["chunk"]) == set(range(bundle.config.shot.chunks))
    assert set(fake.payloads["step"]) == set(range(bundle.config.schedule.num_steps))
    assert not any(fake.open.values())


def test_layers_are_marked_at_the_detail_level_only(
    fake: FakeNvtx, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTSTREAM_NVTX", "1")
    film(bundle, monkeypatch)
    assert set(fake.found) == set(INSIDE) - {"layer", "attn", "cross", "ffn"}


def test_nothing_is_made_when_nobody_listens(
    fake: FakeNvtx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOTSTREAM_NVTX", raising=False)
    assert nvtx.annotate("chunk", 1) is nvtx.annotate("step") is nvtx.detail("layer", 2)
    with nvtx.annotate("chunk", 1):
        pass
    assert not fake.found


def test_the_host_copy_is_a_stage_of_its_own() -> None:
    assert {"host.copy", *INSIDE} == {*nvtx.RANGE_NAMES, "layer", "attn", "cross", "ffn"}
