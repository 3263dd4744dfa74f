"""Free text to canonical tokens."""

from __future__ import annotations

import pytest

from shotstream_rt.model.nano.vocabulary import TOKEN_IDS, TOKENS, canonical, named


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("wide shot of a red cat on a beach", "wide-shot red cat beach"),
        ("Wide shot of a crimson kitty, walking to the left!", "wide-shot red cat walks-left"),
        ("close-up: the droid in a city at night. It hops", "close-up robot night-city . jumps"),
        ("a close up of rabbits wearing a gold top hat", "close-up bunny with yellow hat"),
        ("A cat on a beach. shot0:Medium shot: the cat sits.",
         "cat beach . medium-shot cat stands-still"),
        ("a cat on a beachshot12:wide shot", "cat beach . wide-shot"),
        ("in the evening a cat on a beach", "at-sunset cat beach"),
        ("a cat in a forest at midnight", "cat forest at-night"),
        ("a city at night, in daylight", "night-city by-day"),
        ("", ""),
        (" . .. ", ""),
    ],
)  # fmt: skip
def test_prompts_become_tokens(prompt: str, tokens: str) -> None:
    found, _ = canonical(prompt)
    assert found == tokens.split()


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        # Who is not in the shot is left out, on either side of the "and" and between.
        ("A red cat with a blue hat and a pink bird on a beach. shot1:Wide shot: the red cat jumps",
         "red cat with blue hat beach . wide-shot red cat jumps"),
        ("A red cat with a hat and a bird and a robot with a scarf on a beach. The bird jumps",
         "bird beach . bird jumps"),
        ("A red cat with a blue hat and a bird in a room. The bird and the red cat walk left",
         "red cat with blue hat and bird room . bird and red cat walks-left"),
        # A sentence about absent ones alone tells place and time, and no action of theirs.
        ("A cat with a red hat. A bird dances in a forest. It rains. The cat hops",
         "cat with red hat . forest . cat jumps"),
        # Two alike: only the colour tells who is meant; a new colour is somebody else.
        ("A red cat with a hat and a blue cat. The red cat sits",
         "red cat with hat . red cat stands-still"),
        ("A red cat with a hat and a blue cat. A cat sits",
         "red cat with hat and blue cat . cat stands-still"),
        ("A cat with a hat and a bird. The blue cat jumps", "cat with hat . blue cat jumps"),
        # Nobody is named again: every sentence counts.
        ("A red cat dances on a beach. A blue bird walks left.",
         "red cat dances beach . blue bird walks-left"),
        ("A red cat with a hat. A blue cat jumps", "red cat with hat . blue cat jumps"),
        ("A red cat with a blue hat and a bird. shot0:Wide shot on a beach",
         "red cat with blue hat and bird . wide-shot beach"),
    ],
)  # fmt: skip
def test_a_story_keeps_who_is_in_the_shot(prompt: str, tokens: str) -> None:
    found, _ = canonical(prompt)
    assert found == tokens.split()
    assert canonical(" ".join(found))[0] == found


def test_characters_are_found_with_what_they_wear() -> None:
    tokens, _ = canonical("red cat with blue hat and bird with scarf beach robot with")
    assert [(one.begin, one.end) for one in named(tokens)] == [(0, 5), (6, 9), (10, 11)]
    assert [" ".join(one.tokens) for one in named(tokens)] == [
        "red cat with blue hat", "bird with scarf", "robot",
    ]  # fmt: skip


def test_unknown_words_are_named_and_dropped() -> None:
    tokens, unknown = canonical("a red dragon and a cat at dawn")
    assert tokens == ["red", "and", "cat"]
    assert unknown == ["dragon", "dawn"]


@pytest.mark.parametrize(
    ("prompt", "tokens", "unknown"),
    [
        ("a red кот on a beach", "red beach", ["кот"]),
        ("ein grüner Vogel", "", ["ein", "grüner", "vogel"]),
        ("猫在海滩。红色\uff01a cat", "cat", ["猫在海滩", "红色"]),
        ("a cat😀 and a 👍🏽 bird", "cat and bird", ["😀", "👍🏽"]),
        ("3 cats, 12 birds", "cat bird", ["3", "12"]),
        ("e\u0301tude: a cat", "cat", ["e\u0301tude"]),
        ("walks 猫 left to the top ü hat", "walks-left hat", ["猫", "ü"]),
        ("une naïve-red cat", "cat", ["une", "naïve-red"]),
        ("\uff23\uff21\uff34", "", ["\uff43\uff41\uff54"]),
        ("\u201ca cat\u201d \u2013 it\u2019s \u2018jumping\u2019\u2026", "cat jumps", ["it", "s"]),
        ("قطة حمراء", "", ["قطة", "حمراء"]),
    ],
)
def test_words_of_any_script_are_named(prompt: str, tokens: str, unknown: list[str]) -> None:
    assert canonical(prompt) == (tokens.split(), unknown)


def test_shot_numbers_are_no_words() -> None:
    assert canonical("A cat on a beach. shot12:the cat sits") == (
        ["cat", "beach", ".", "cat", "stands-still"],
        [],
    )


def test_fillers_pass_silently() -> None:
    assert canonical("this is the scene of a shot")[1] == []


def test_words_inside_words_are_left_alone() -> None:
    assert canonical("category")[0] == []


def test_every_token_names_itself() -> None:
    for token in TOKENS[1:]:
        if token != ".":
            assert canonical(token)[0] == [token]
            assert canonical(token.replace("-", " "))[0] == [token]


def test_ids_are_dense_and_padding_is_zero() -> None:
    assert sorted(TOKEN_IDS.values()) == list(range(len(TOKENS)))
    assert TOKEN_IDS[TOKENS[0]] == 0


def test_a_model_from_before_does_not_know_later_words() -> None:
    before = TOKEN_IDS["by-day"]
    prompt = "a red dragon at sunset on a beach"
    assert canonical(prompt) == (["red", "at-sunset", "beach"], ["dragon"])
    assert canonical(prompt, before) == (["red", "beach"], ["dragon", "at sunset"])
