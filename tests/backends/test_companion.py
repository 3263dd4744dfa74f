"""A thread and its companion: both halves of a pass, where they meet, and what fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from shotstream_rt.device.companion import Companion

from ..patience import PATIENCE_S


@pytest.fixture
def companion() -> Iterator[Companion]:
    made = Companion()
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    yield made
    made.dismiss()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_both_run_and_meet(companion: Companion) -> None:
    seen: list[str] = []
    order = threading.Lock()

    def half(name: str) -> tuple[str, int, bool]:
        for step in range(50):
            with order:
                seen.append(f"{step}")
            companion.meet()
        return name, threading.get_ident(), torch.is_inference_mode_enabled()

    mine, other = companion.both(lambda: half("front"), lambda: half("back"))
    assert mine[:2] == ("front", threading.get_ident())
    assert other[0] == "back"
    assert other[1] != mine[1]
    assert other[2]
    # Nobody is in a step that the other one has not begun.
    assert seen == [f"{step}" for step in range(50) for _ in range(2)]


@pytest.mark.parametrize("failing", ["own", "other"])
@pytest.mark.parametrize("waits", [True, False])
def test_whoever_fails_is_told_and_the_next_pass_runs(
    companion: Companion, failing: str, waits: bool
) -> None:
    def fail() -> int:
        raise ValueError("no")

    def go_on() -> int:
        if waits:
            companion.meet()
        return 1

    own, other = (fail, go_on) if failing == "own" else (go_on, fail)
    for _ in range(20):
        with pytest.raises(ValueError, match="no"):
            companion.both(own, other)
        assert companion.both(lambda: 2, lambda: 3) == (2, 3)
