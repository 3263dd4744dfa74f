from __future__ import annotations

import json
from pathlib import Path

import pytest

from shotstream_rt import ConfigError, Story
from shotstream_rt.story import load_stories


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data), "utf-8")
    return path


def test_captions_count_shots_from_zero_without_separators() -> None:
    story = Story(global_caption="two friends.", shots=["a close-up", "they leave"])
    assert story.captions == ("two friends.shot0:a close-up", "two friends.shot1:they leave")


def test_json_takes_shots_in_numeric_order_and_ignores_other_keys(tmp_path: Path) -> None:
    data = {f"shot{n}": f"text {n}" for n in range(12, 0, -1)}
    path = write(tmp_path / "s.json", {**data, "global_caption": "g", "video_path": "x", "mood": 1})
    story = Story.from_json(path)
    assert list(story.shots) == [f"text {n}" for n in range(1, 13)]
    assert story.global_caption == "g"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"shot1": "a"}, "global_caption"),
        ({"global_caption": "g"}, "shot1"),
        ({"global_caption": "g", "shot1": "a", "shot3": "c"}, "without a gap"),
        ({"global_caption": "g", "shot0": "a"}, "shot0"),
        ({"global_caption": "g", "Shot1": "a"}, "Shot1"),
        ({"global_captions": "g", "shot1": "a"}, "global_captions"),
        ({"global_caption": "g", "shot1": 7}, "shot1 is 7"),
        ({"global_caption": "g", "shot1": "  "}, "shot1 is"),
        ({"global_caption": None, "shot1": "a"}, "global_caption is NoneType"),
        (["a", "b"], "JSON object"),
    ],
)
def test_wrong_keys_are_named_with_the_file(tmp_path: Path, data: object, named: str) -> None:
    path = write(tmp_path / "broken.json", data)
    with pytest.raises(ConfigError) as caught:
        Story.from_json(path)
    assert named in str(caught.value)
    assert "broken.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"[" * 100_000])
def test_broken_file_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.json"):
        Story.from_json(path)


def test_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such story file"):
        load_stories(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_stories(tmp_path)


def test_csv_row_makes_as_many_shots_as_it_has_ranges(tmp_path: Path) -> None:
    (tmp_path / "stories").mkdir()
    shots = {f"shot{n}": f"text {n}" for n in range(1, 7)}
    write(tmp_path / "stories/01.json", {"global_caption": "g", **shots})
    table = tmp_path / "set.csv"
    table.write_text(
        "shot_num_from_caption,json_path,frame_number\n"
        '9,stories/01.json,"[[0, 81], [81, 155], [170, 200]]"\n'
        f'9,{tmp_path / "stories/01.json"},"[[0, 1]]"\n',
        "utf-8",
    )
    stories = load_stories(table)
    assert [len(story.shots) for story in stories] == [3, 1]


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("json_path\n01.json\n", "frame_number"),
        ("json_path,frame_number\n", "no rows"),
        ("json_path,frame_number\n01.json,\"__import__('os')\"\n", "set.csv:2"),
        ('json_path,frame_number\n01.json,"[]"\n', "no shots"),
        ('json_path,frame_number\n01.json,"[[0, 81], [81, 162]]"\n', "wanted 2 shots"),
        ('json_path,frame_number\nnone.json,"[[0, 81]]"\n', "none.json"),
    ],
)
def test_broken_csv_names_the_line(tmp_path: Path, table: str, named: str) -> None:
    write(tmp_path / "01.json", {"global_caption": "g", "shot1": "a"})
    (tmp_path / "set.csv").write_text(table, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_stories(tmp_path / "set.csv")
    assert named in str(caught.value)


def test_bundled_story_has_five_shots() -> None:
    assert len(Story.bundled().shots) == 5


def test_python_story_needs_a_list_of_texts() -> None:
    for shots in ((), "one text", ["a", ""]):
        with pytest.raises(ConfigError):
            Story(shots=shots)
