from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shotstream_rt import ConfigError, Story
from shotstream_rt.checks import MAX_PROMPT_CHARACTERS
from shotstream_rt.story import MAX_SHOTS, load_stories


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


@pytest.mark.parametrize(
    "shots", [None, 5, b"ab", {"a": 1}, {"a", "b"}, [["a"]], [None], np.array(1)]
)
def test_shots_that_are_no_list_of_texts_are_refused(shots: Any) -> None:
    with pytest.raises(ConfigError):
        Story(shots=shots)


def test_any_iterable_in_order_is_kept_as_a_tuple() -> None:
    texts = ["one", "two"]
    for shots in ((t for t in texts), iter(texts), map(str, texts), texts):
        story = Story(shots=shots)  # type: ignore[arg-type]
        assert story.shots == ("one", "two")
        assert story.captions == story.captions
    texts.append("three")
    assert Story(shots=texts).shots == ("one", "two", "three")


def test_endless_shots_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"more than {MAX_SHOTS}"):
        Story(shots=iter(lambda: "a", None))  # type: ignore[arg-type]


@pytest.mark.parametrize("long", [{"shots": ["a" * (MAX_PROMPT_CHARACTERS + 1)]},
                                  {"shots": ["a"], "global_caption": "b" * 20_000}])  # fmt: skip
def test_texts_have_a_limit(long: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"at most {MAX_PROMPT_CHARACTERS}") as caught:
        Story(**long)
    assert len(str(caught.value)) < 200
    Story(shots=["a" * MAX_PROMPT_CHARACTERS])


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"global_caption": "", "shot1": "a cat \\ud800"}', "utf-8")
    with pytest.raises(ConfigError, match="character 7"):
        Story.from_json(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"global_caption": "g", "shot1": "a", "shot1": "b"}', "'shot1' stands twice"),
        ('{"global_caption": "g", "global_caption": "h", "shot1": "a"}', "stands twice"),
        ('{"global_caption": "g", "shot1": "a", "mood": {"x": 1, "x": 2}}', "stands twice"),
        ('{"global_caption": "g", "shot1": "a", "n": ' + "9" * 5000 + "}", "not a JSON file"),
        ('{"global_caption": "g", "shot' + "9" * 5000 + '": "a"}', "unknown key"),
        ('{"global_caption": "g", "shot1": "a", "x": ' + "[" * 50_000, "nested too deeply"),
        ('{"global_caption": "g", "shot1": ' + str(["x" * 9] * 90_000).replace("'", '"') + "}",
         "shot1 is"),
        ('{"global_caption": "g", ' + ", ".join(f'"shotx{n}": 1' for n in range(90_000)) + "}",
         "and 89992 more"),
    ],
)  # fmt: skip
def test_hostile_json_is_named_briefly(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=named) as caught:
        Story.from_json(path)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "row",
    [
        's.json,"[[1e999, 2]]"',
        's.json,"[[1j, 2]]"',
        's.json,"{[]: 1}"',
        's.json,"' + "(" * 5000 + '"',
        's.json,"[[' + "9" * 5000 + ', 2]]"',
        ',"[[0, 81]]"',
        "s.json",
        "x" * 5000 + ',"[[0, 81]]"',
        's\0.json,"[[0, 81]]"',
        's.json,"[[0, 81]]",' + "x" * 200_000,
    ],
)
def test_hostile_table_rows_are_named(tmp_path: Path, row: str) -> None:
    write(tmp_path / "s.json", {"global_caption": "g", "shot1": "a"})
    (tmp_path / "set.csv").write_text(f"json_path,frame_number\n{row}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"set\.csv:") as caught:
        load_stories(tmp_path / "set.csv")
    assert len(str(caught.value)) < 8000


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("json_path,json_path,frame_number\na,b,c\n", "utf-8")
    with pytest.raises(ConfigError, match="json_path stands twice"):
        load_stories(tmp_path / "set.csv")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zeros.json").symlink_to("/dev/zero")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    for name, reason in (("pipe", "a pipe"), ("zeros", "a device"), ("loop", "cannot be read")):
        with pytest.raises(ConfigError, match=reason):
            load_stories(tmp_path / f"{name}.json")


def test_a_file_that_is_too_large_is_read_no_further(tmp_path: Path) -> None:
    with (tmp_path / "s.json").open("wb") as file:
        file.truncate(1 << 40)  # a sparse file: no room on the disk, a terabyte to read
    with pytest.raises(ConfigError, match="larger than"):
        load_stories(tmp_path / "s.json")


@pytest.mark.parametrize("path", [None, 5, b"s.json", "s\0.json", "s" * 5000 + ".json"])
def test_unusable_paths_are_config_errors(path: Any) -> None:
    with pytest.raises(ConfigError):
        load_stories(path)


@pytest.mark.parametrize("count", [0, 3, -1, 1.5, "1", None, True])
def test_unusable_numbers_of_shots_are_config_errors(count: Any) -> None:
    with pytest.raises(ConfigError):
        Story(shots=["a", "b"]).first(count)


def test_bundled_stories_are_named_where_another_is_asked_for() -> None:
    names: list[Any] = ["none", "../stories/beach_friends", "", None, ["beach_friends"]]
    for name in names:
        with pytest.raises(ConfigError, match="beach_friends"):
            Story.bundled(name)
