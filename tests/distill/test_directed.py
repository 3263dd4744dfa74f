"""What pins and re-reading do: the stories that are told, the tables, and runs that go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shotstream_distill.evaluation import directed as module
from shotstream_distill.evaluation.directed import (
    DirectedConfig,
    DirectedFilms,
    directed,
    recolored,
    recurring,
    table_lines,
    tables,
)
from shotstream_distill.evaluation.film import told
from shotstream_distill.world.story import make_story
from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.project_layout import NANO_FOLDER

STORY = make_story(900_000_007, 10)


def record(seed: int, coat: bool | None, right: list[bool]) -> dict[str, Any]:
    pins = {
        f"{gap}.{kind}": {"species": True, "coat": coat, "told": kind == "pinned"}
        for gap in module.GAPS
        for kind in ("plain", "pinned")
    }
    rereads = dict.fromkeys((*map(str, module.REREADS), "cut"), right)
    return {"seed": seed, "pins": pins, "rereads": rereads}


@pytest.mark.parametrize("gap", module.GAPS)
def test_a_character_comes_back_named_by_its_species_alone(gap: int) -> None:
    story = recurring(STORY, gap)
    first, other = story.characters
    texts = told(story, "spare").shots
    assert [shot.cast for shot in story.shots] == [(0,), *[(1,)] * gap, (0,)]
    assert f"{first.color} {first.species}" in texts[0]
    assert f"the {first.species} " in texts[-1]
    assert first.color not in texts[-1]
    assert all(first.species not in text for text in texts[1:-1])
    assert f"{other.color} {other.species}" in texts[1]


def test_another_coat_and_nothing_else() -> None:
    new = recolored(STORY)
    (text,) = told(new, "spare").shots
    assert new.characters[0].color not in {one.color for one in STORY.characters}
    assert new.characters[0].species == STORY.characters[0].species
    assert f"{new.characters[0].color} {new.characters[0].species}" in text


def test_tables_count_shares() -> None:
    made = tables([
        record(1, True, [False, True, True, True]),
        record(2, False, [False, False, True, True]),
        record(3, None, [False, False, False, True]),
    ])  # fmt: skip
    plain, pinned = made["pins"][:2]
    assert (plain["gap"], plain["pinned"], pinned["pinned"]) == (2, False, True)
    assert (plain["coat"]["value"], plain["coat"]["n"]) == (0.5, 2)
    assert (plain["told"]["value"], pinned["told"]["value"]) == (0, 1)
    shares = [round(part["value"], 2) for part in made["rereads"][0]["chunks"]]
    assert shares == [0, 0.33, 0.67, 1]
    lines = table_lines(made)
    assert len(lines) == 2 + len(made["pins"]) + 3 + len(made["rereads"])
    assert lines[2].startswith("| 2 | no | 1.00 (")


@pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)
def test_a_story_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAPS", (1,))
    monkeypatch.setattr(module, "REREADS", ("none",))
    films = DirectedFilms("nano", 1)
    made = films.measure(STORY, 0)
    films.close()
    assert set(made["pins"]) == {"1.plain", "1.pinned"}
    assert {name: len(found) for name, found in made["rereads"].items()} == {"none": 4, "cut": 4}
    (plain, pinned), (none, cut) = tables([made])["pins"], tables([made])["rereads"]
    assert plain["species"]["n"] == pinned["species"]["n"] == 1
    assert none["chunks"][0]["n"] == cut["chunks"][0]["n"] == 1


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(_: DirectedConfig, tasks: list[tuple[int, int]]) -> Any:
        for _, seed in tasks:
            measured.append(seed)
            yield record(seed, True, [True] * 4)

    monkeypatch.setattr(module, "_measured", measure)
    file = tmp_path / "records.jsonl"
    first = directed(DirectedConfig(stories=2, records=file))
    with file.open("a") as out:
        out.write('\n{"seed": 1')  # a process was stopped here
    assert directed(DirectedConfig(stories=2, records=file)) == first
    assert len(measured) == 2
    directed(DirectedConfig(stories=3, records=file))
    assert len(measured) == 3
    with pytest.raises(ConfigError, match="belongs to"):
        directed(DirectedConfig(stories=2, chunks=2, records=file))
    assert json.loads(file.read_text().splitlines()[0])["chunks"] == 3


@pytest.mark.parametrize("options", [{"stories": 0}, {"chunks": 8}, {"jobs": 0}])
def test_what_is_out_of_range_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        DirectedConfig(**options)  # type: ignore[arg-type]
