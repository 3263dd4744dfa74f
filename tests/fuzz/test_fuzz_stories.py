"""Damaged stories and tables of stories."""

from __future__ import annotations

import json

import pytest

from shotstream_rt.story import MAX_SHOTS, Story, load_stories

GOOD = {
    "global_caption": "a beach at noon, watercolour. ",
    "shot1": "a red cat walks along the water",
    "shot2": "a blue bird lands on a rock",
    "shot3": "they look at each other",
    "video_path": "beach.mp4",
}


def check(story):
    assert 1 <= len(story.shots) <= MAX_SHOTS
    assert all(isinstance(text, str) and text.strip() for text in story.shots)
    assert len(story.captions) == len(story.shots)


@pytest.fixture
def table(tmp_path):
    """A table of two stories, and a third that is not there."""
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "b.json").write_text(json.dumps({**GOOD, "shot2": "a robot"}))
    return (
        "json_path,frame_number,note\n"
        'a.json,"[[0, 81], [81, 162]]",first\n'
        'b.json,"[[0, 81]]","two\nlines"\n'
    )


def test_stories(surface, tmp_path):
    path = tmp_path / "story.json"

    def attempt(mutator):
        path.write_bytes(mutator.text(GOOD))
        [story] = load_stories(path)
        check(story)

    surface.run(attempt, 600)


def test_stories_as_dictionaries(surface):
    def attempt(mutator):
        check(Story.from_dict(mutator.value(GOOD)))

    surface.run(attempt, 1500)


def test_tables_of_stories(surface, tmp_path, table):
    path = tmp_path / "stories.csv"
    cells = (
        "[[0, 81]]", "[[0]]", "[]", "[[[[", "[" * 5000, "9" * 5000, "[[0, 1]] * 10**9", "()", "nan",
        "[[1e999, 2]]", "{1: 2}", '"' * 300, "a.json", "../a.json", "x" * 5000, "a\0b", "\x1b[31m",
        "", "None", "__import__('os').system('true')",
    )  # fmt: skip

    def attempt(mutator):
        data = table
        for _ in range(mutator.random.choice((0, 1, 1, 2))):
            old = mutator.random.choice(("[[0, 81]]", "a.json", "json_path", "first", '"', ","))
            data = data.replace(old, mutator.random.choice(cells), 1)
        raw = data.encode("utf-8", "surrogatepass")
        path.write_bytes(mutator.data(raw) if mutator.random.random() < 0.5 else raw)
        for story in load_stories(path):
            check(story)

    surface.run(attempt, 800)
