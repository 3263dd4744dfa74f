"""Damaged snapshots are refused, and what a snapshot may say never ends a session."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from shotstream_rt.film import snapshot as snapshots
from shotstream_rt.film.snapshot_model import SnapshotModel
from shotstream_rt.loading.load_model import Model

DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool)


@pytest.fixture(scope="module")
def model():
    with Model.open("nano", size=(16, 16)) as opened:
        yield opened


@pytest.fixture(scope="module")
def good(model):
    """A snapshot with past shots, a shot that was begun, a prompt and queued shots."""
    with model.session(threads=1) as session:
        for number in range(3):
            session.cut(f"a red cat {number}", chunks=2)
            list(session.chunks())
        session.cut("a blue bird", global_caption="a beach. ", chunks=3)
        next(session.chunks())
        session.prompt("the bird lands")
        session.cut("a robot", take=3)
        return session.snapshot()


@pytest.fixture(scope="module")
def wanted(model):
    return SnapshotModel.of(model)


def with_checksum(payload):
    version = snapshots.SCHEMA_VERSION.to_bytes(4, "little")
    return snapshots.MARK + version + snapshots._checksum(version, payload) + payload


def test_damaged_snapshots(surface, good, wanted):
    def attempt(mutator):
        data = mutator.data(good)
        snapshots.unpack(data, wanted)
        assert data == good, "a damaged snapshot was accepted, so it gives another film"

    surface.run(attempt, 3000)


def test_containers_with_a_right_checksum(surface, good, wanted):
    payload = good[snapshots._START :]

    def attempt(mutator):
        snapshots.unpack(with_checksum(mutator.data(payload)), wanted)

    surface.run(attempt, 1500)


@pytest.fixture(scope="module")
def header(good):
    """The values of a snapshot, and its tensors."""
    payload = good[snapshots._START :]
    return snapshots._header(payload), load(payload)


def damage_tensors(mutator, tensors):
    """Replace some latents by wrong ones."""
    damaged = dict(tensors)
    for _ in range(mutator.random.choice((0, 0, 1, 2))):
        name = mutator.random.choice(sorted(damaged))
        value, kind = damaged.pop(name), mutator.random.randrange(6)
        if kind == 0:
            damaged[name] = value.to(mutator.random.choice(DTYPES))
        elif kind == 1:
            damaged[name] = value[:1].contiguous()
        elif kind == 2:
            damaged[mutator.random.choice(("0.0", "99.1", "x", "-1.0"))] = value
        elif kind == 3:
            odd = float(mutator.random.choice(("nan", "inf", "-inf", "1e30")))
            damaged[name] = torch.full_like(value, odd) if value.is_floating_point() else value
        elif kind == 4:
            damaged[name] = torch.zeros(0)
    return damaged or {"version": torch.zeros(1)}


def test_snapshots_of_odd_values(surface, model, good, header):
    """Values that are accepted play, or fail in words; the session then plays the good one."""
    values, tensors = header
    session = model.session(threads=1)
    played = 0

    def attempt(mutator):
        nonlocal played
        odd = mutator.value(values) if mutator.random.random() < 0.9 else values
        metadata = {"snapshot": json.dumps(odd)}
        session.restore(with_checksum(save(damage_tensors(mutator, tensors), metadata=metadata)))
        next(session.chunks(timeout_s=60), None)
        played += 1

    surface.run(attempt, 120)
    assert played > 0
    session.restore(good)
    again = next(session.chunks(timeout_s=60))
    with model.session(threads=1) as other:
        other.restore(good)
        expected = next(other.chunks(timeout_s=60))
    session.close()
    assert (again.index, again.shot, again.pixels.tobytes()) == (
        expected.index, expected.shot, expected.pixels.tobytes(),
    )  # fmt: skip
