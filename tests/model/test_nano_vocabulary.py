"""Free text to canonical tokens."""

from __future__ import annotations

import pytest

from shotstream_rt.model.nano_vocabulary import TOKEN_IDS, TOKENS, canonical


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


def test_unknown_words_are_named_and_dropped() -> None:
    tokens, unknown = canonical("a red dragon and a cat at dawn")
    assert tokens == ["red", "and", "cat"]
    assert unknown == ["dragon", "dawn"]


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
