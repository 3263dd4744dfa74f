"""The model inside the package, through the whole session."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shotstream_rt import Session, Story
from shotstream_rt.loading.layouts import available_models

pytestmark = pytest.mark.skipif(
    "nano" not in available_models(), reason="this checkout carries no nano weights"
)


def play(threads: int, seed: int = 7) -> tuple[NDArray[np.uint8], dict[str, object]]:
    with Session.open("nano", device="cpu", seed=seed, threads=threads) as session:
        frames = [frame.pixels for frame in session.story(Story.bundled().first(2))]
        return np.stack(frames), session.stats


@pytest.mark.slow
def test_nano_film_is_the_same_every_time() -> None:
    first, stats = play(1)
    again, _ = play(1)
    assert first.shape == (162, 96, 160, 3)
    assert np.array_equal(first, again)
    shots = stats["shots"]
    assert isinstance(shots, list)
    assert all(shot["first_frame_before_second_chunk"] for shot in shots)
    other_threads, _ = play(2)
    difference = np.abs(first.astype(int) - other_threads)
    assert difference.max() <= 1, "another number of threads changes rounding only"
    assert difference.mean() < 0.01


def test_bundled_story_is_in_the_models_words() -> None:
    with Session.open("nano", device="cpu") as session:
        for caption in Story.bundled().captions:
            assert session.check(caption) == ()


def test_words_outside_the_vocabulary_are_reported() -> None:
    with Session.open("nano", device="cpu") as session:
        notes = session.check("a red zeppelin on a beach")
    assert any("zeppelin" in note for note in notes)


def test_prompt_longer_than_the_limit_is_cut_with_a_note() -> None:
    text = "a red cat and a blue robot " * 300
    with Session.open("nano", device="cpu") as session:
        notes = session.cut(text)
        assert any("cut after" in note for note in notes)
        assert len(next(session.chunks()).pixels) == 9
