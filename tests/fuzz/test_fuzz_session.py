"""Random calls of a session from many threads: no hang, no raw error, no request forgotten."""

from __future__ import annotations

import faulthandler
import importlib.util
import random
import sys
import threading
import time
from pathlib import Path

import pytest

from shotstream_rt.loading.load_model import Model

spec = importlib.util.spec_from_file_location("monkey", Path(__file__).with_name("monkey.py"))
monkey = importlib.util.module_from_spec(spec)
spec.loader.exec_module(monkey)

HANG_S = 120
FILM_S = 0.7


@pytest.fixture(scope="module")
def model():
    with Model.open("nano", size=(16, 16)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def many_switches():
    """Let threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def film(model, seed):
    """Let a monkey play with one session; returns it when everything has ended."""
    rng = random.Random(seed)
    session = model.session(
        threads=1, queue_chunks=rng.choice((1, 2, 5)),
        at_end=rng.choice(("hold", "extend", "loop")),
        queue_policy=rng.choice(("block", "block", "drop_oldest", "latest")),
    )  # fmt: skip
    lossless = session.stats["queue_policy"] == "block" and rng.random() < 0.5
    names = [name.removeprefix("call_") for name in dir(monkey.Monkey) if "call_" in name]
    if lossless:
        names.remove("restore")
    caller = monkey.Monkey(session, seed, tuple(names))
    caller.start(5, pause_s=rng.choice((0.0005, 0.003, 0.02)))
    time.sleep(FILM_S)
    closer = threading.Thread(target=session.close, daemon=True)
    if rng.random() < 0.5:  # while everybody calls
        closer.start()
        time.sleep(0.05)
    hung = caller.stop(HANG_S)
    if closer.ident is None:
        closer.start()
    closer.join(HANG_S)
    if hung or closer.is_alive():
        faulthandler.dump_traceback(all_threads=True)
    assert hung == [], f"seed {seed}"
    assert not closer.is_alive(), f"seed {seed}: close() hangs"
    assert caller.raw == [], f"seed {seed}"
    left = [(receipt.kind, receipt.state) for receipt in caller.undecided()]
    assert left == [], f"seed {seed}: requests that nobody decided"
    if lossless:
        assert caller.lost == 0, f"seed {seed}: frames lost"
    return caller


def test_session_calls(surface, model):
    end, seed, calls, frames = time.monotonic() + surface.seconds, surface.seed, 0, 0
    while calls < 1000 or time.monotonic() < end:
        caller = film(model, seed)
        calls += sum(count for name, count in caller.counts.items() if ":" not in name)
        frames += caller.frames
        seed += 1
    surface.tell(f"{calls} calls of {seed - surface.seed} sessions, {frames} frames, none raw")
    assert frames > 0
