"""What a caption asks and what a detector read: facts, returns, actions, adherence."""

from __future__ import annotations

import dataclasses

import pytest

from shotstream_distill.evaluation.cuts import CutCount
from shotstream_distill.evaluation.detectors import Reading, Subject
from shotstream_distill.evaluation.facts import CharacterFacts, ShotFacts, fact_shares, read_facts
from shotstream_distill.evaluation.records import FilmRecord, ShotRecord
from shotstream_distill.evaluation.report import (
    adherence,
    character_returns,
    cut_figures,
    direction_answers,
    film_figures,
    return_shares,
)
from shotstream_distill.world.story import BOTH, WorldStory, make_story


def truthful(story: WorldStory, index: int = 0, color: str | None = None) -> Reading:
    shot = story.shots[index]
    subjects = [
        Subject(
            species=c.species, area=0.1, color=color or c.color, accessory=c.accessory, center_x=0.5
        )
        for c in (story.characters[who] for who in shot.cast)
    ]
    return Reading(
        place=story.setting.place, framing=shot.framing, time=story.setting.time or "by-day",
        subjects=tuple(subjects),
    )  # fmt: skip


def person(
    who: int = 0, species: bool = True, color: bool = True, kind: str = "cat", paint: str = "red"
) -> CharacterFacts:
    return CharacterFacts(
        who=who, species=species, color=color, accessory=True if species else None,
        seen_species=kind, seen_color=paint,
    )  # fmt: skip


def record(
    *people: CharacterFacts, asked: str = "jumps", seen: str = "jumps", place: bool = True,
    time: bool | None = None,
) -> ShotRecord:  # fmt: skip
    return ShotRecord(
        facts=ShotFacts(place=place, time=time, framing=True, characters=people),
        asked_action=asked,
        actions=(seen,) * len(people),
        figures={"jitter": 1.0, "clarity": 0.9, "sharpness": 1.0, "busy": 0.2, "drawn_busy": 0.0},
    )


def film(*shots: ShotRecord, cuts: tuple[int, int, int] = (1, 0, 0), seed: int = 1) -> FilmRecord:
    hits, missed, false = cuts
    return FilmRecord(
        seed=seed, shots=shots, pairs={"subject": [0.9], "background": [], "semantic": [0.8]},
        cuts=CutCount(hits=hits, missed=missed, false=false),
    )  # fmt: skip


def test_truth_scores_full_marks() -> None:
    for seed in range(10):
        story = make_story(seed)
        facts = read_facts(story, 0, [truthful(story)] * 4)
        shares = fact_shares([facts])
        assert shares["color"].trials == len(story.shots[0].cast)
        assert shares["time"].trials == (story.setting.time is not None)
        assert all(share.value == 1 for share in shares.values() if share.trials)


def test_a_wrong_color_counts_as_wrong_and_is_kept_as_seen() -> None:
    seeds = [s for s in range(20) if all(c.color != "white" for c in make_story(s).characters)]
    for seed in seeds:
        story = make_story(seed)
        facts = read_facts(story, 0, [truthful(story, color="white")] * 4)
        assert not any(c.color for c in facts.characters)
        assert {c.seen_color for c in facts.characters} == {"white"}
        assert all(c.species for c in facts.characters)


def test_a_wrong_time_counts_where_the_story_has_one() -> None:
    for seed in range(20):
        story = make_story(seed)
        wrong = "at-night" if story.setting.time != "at-night" else "by-day"
        reading = dataclasses.replace(truthful(story), time=wrong)
        facts = read_facts(story, 0, [reading] * 4)
        assert facts.time is (None if story.setting.time is None else False)
        assert facts.place


def test_both_characters_are_scored_one_by_one() -> None:
    story = next(s for s in map(make_story, range(100)) if s.shots[0].who == BOTH)
    both = truthful(story)
    one = dataclasses.replace(both, subjects=both.subjects[:1])
    facts = read_facts(story, 0, [one] * 4)
    assert [c.species for c in facts.characters] == [True, False]
    assert facts.characters[1].accessory is None
    assert facts.characters[1].seen_species == "none"


def test_a_character_of_another_shape_stands_in() -> None:
    story = next(s for s in map(make_story, range(100)) if s.shots[0].who == 0)
    mine = story.characters[0]
    other = next(k for k in ("cat", "bird", "robot", "bunny") if k != mine.species)
    seen = truthful(story)
    wrong = dataclasses.replace(
        seen, subjects=(dataclasses.replace(seen.subjects[0], species=other),)
    )
    found = read_facts(story, 0, [wrong] * 4).characters[0]
    assert not found.species
    assert found.color
    assert (found.seen_species, found.seen_color) == (other, mine.color)


def test_returns_compare_a_character_with_its_last_shot() -> None:
    made = film(record(person(0), person(1)), record(person(1)), record(person(0, color=False)))
    pairs = character_returns(made)
    # Character 0 returns in shot 2 (last seen in shot 0), character 1 in shot 1.
    assert [(a.who, a.right, b.right) for a, b in pairs] == [(0, True, False), (1, True, True)]


def test_keeping_is_judged_by_what_was_seen_and_rightness_by_what_was_asked() -> None:
    blue = person(0, color=False, paint="blue")
    gone = person(0, species=False, color=False, kind="none", paint="none")
    shares = return_shares([film(record(blue), record(blue), record(person(0)), record(gone))])
    assert (shares["right"].hits, shares["right"].trials) == (1, 3)
    # blue -> blue kept; blue -> red not; red -> nobody not.
    assert (shares["kept"].hits, shares["kept"].trials) == (1, 3)
    assert (shares["right_after_right"].hits, shares["right_after_right"].trials) == (0, 1)
    assert (shares["right_after_wrong"].hits, shares["right_after_wrong"].trials) == (1, 2)


def test_nobody_kept_is_not_the_same() -> None:
    gone = person(0, species=False, color=False, kind="none", paint="none")
    assert not gone.same_as(gone)


@pytest.mark.parametrize(
    ("asked", "seen", "answer"),
    [("walks-left", "walks-left", True), ("walks-left", "walks-right", False),
     ("walks-right", "none", False), ("jumps", "walks-left", None)],
)  # fmt: skip
def test_direction_is_asked_of_walkers_only(asked: str, seen: str, answer: bool | None) -> None:
    assert direction_answers(record(person(), asked=asked, seen=seen)) == [answer]


def test_adherence_is_the_share_of_all_that_was_asked() -> None:
    # Place, framing, species, colour, accessory, action: six answers for one character.
    assert adherence(record(person())) == 1
    assert adherence(record(person(), seen="dances")) == pytest.approx(5 / 6)
    missing = person(species=False, color=False, kind="none", paint="none")
    assert adherence(record(missing, place=False, seen="none")) == pytest.approx(1 / 6)


def test_time_is_asked_of_stories_that_have_one() -> None:
    assert adherence(record(person(), time=True)) == 1
    assert adherence(record(person(), time=False)) == pytest.approx(6 / 7)
    made = film_figures([film(record(person(), time=t), record(person())) for t in (True, False)])
    assert made["scores"]["time"]["n"] == 2
    assert made["scores"]["time"]["value"] == pytest.approx(0.5)
    assert "time" not in made["drift"]


def test_cut_accuracy_counts_missed_and_false_alike() -> None:
    shot = record(person())
    figures = cut_figures([film(shot, cuts=(3, 1, 0)), film(shot, cuts=(4, 0, 2))])
    assert figures["accuracy"]["value"] == pytest.approx(7 / 10)
    assert figures["exact_films"]["value"] == 0
    assert figures["counts"] == {"hits": 7, "missed": 1, "false": 2}


def test_figures_come_by_shot_and_as_drift() -> None:
    good, bad = record(person()), record(person(color=False), seen="dances")
    figures = film_figures([film(good, good, bad, seed=s) for s in range(8)])
    assert [row["color"]["value"] for row in figures["by_shot"]] == [1, 1, 0]
    assert figures["drift"]["color"]["value"] == -1
    assert figures["drift"]["place"]["value"] == 0
    assert figures["scores"]["color"]["n"] == 24
    assert figures["scores"]["motion"]["value"] == 1
    assert figures["means"]["dynamic"]["value"] == 1
    assert figures["means"]["dynamic_right"]["value"] == 0
    assert figures["pairs"]["subject"]["value"] == pytest.approx(0.9)
    assert "background" not in figures["pairs"]
