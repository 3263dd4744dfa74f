"""Captions in other words: shorter, in other clothes or coats, of fewer words."""

from __future__ import annotations

import pytest
import torch

from shotstream_distill.world.caption_rewrites import (
    in_full,
    known_words,
    one_sentence,
    other_clothes,
    other_coats,
    retold,
    unsaid,
)
from shotstream_rt.model.nano.vocabulary import TOKEN_IDS


@pytest.mark.parametrize(
    ("story", "sentence"),
    [
        # Who is in the shot wears there what the story said.
        ("red cat with blue hat beach . wide-shot red cat jumps",
         "wide-shot red cat with blue hat jumps beach"),
        ("red cat with blue hat and bird room . bird and cat walks-left",
         "bird and red cat with blue hat walks-left room"),
        ("cat with red hat . forest . cat stands-still . cat jumps",
         "cat with red hat stands-still . cat with red hat jumps forest"),
        # The scene says it itself: clothes, place; what it does not say comes from the story.
        ("red cat with hat dances beach . close-up cat with pink scarf room",
         "close-up red cat with pink scarf room dances"),
        # Two that may be meant.
        ("red cat with hat and blue cat . cat stands-still", "cat stands-still"),
        ("cat with hat . blue cat jumps", "blue cat with hat jumps"),
        # One sentence already, or nobody in it.
        ("wide-shot red cat with blue hat jumps beach",
         "wide-shot red cat with blue hat jumps beach"),
        ("wide-shot . beach", "wide-shot . beach"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_story_is_said_in_one_sentence(story: str, sentence: str) -> None:
    assert one_sentence(story.split()) == sentence.split()


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        # Dressed where they are described; the scene follows if it names clothes.
        ("red cat with blue hat and bird room . bird and cat walks-left",
         "red cat with blue scarf and bird with yellow scarf room . bird and cat walks-left"),
        ("cat with scarf . cat with scarf jumps", "cat with hat . cat with hat jumps"),
        # One sentence is scene and description.
        ("wide-shot red cat jumps", "wide-shot red cat with orange hat jumps"),
        ("wide-shot . beach", "wide-shot . beach"),
        ("", ""),
    ],
)  # fmt: skip
def test_characters_wear_what_they_do_not(caption: str, other: str) -> None:
    assert other_clothes(caption.split()) == other.split()


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        # Of two it is the other's, wherever they are named.
        ("red cat with blue hat and bird room . bird and cat walks-left",
         "blue cat with blue hat and bird room . bird and cat walks-left"),
        ("red cat with blue hat . green bird . forest . red cat and green bird jumps",
         "green cat with blue hat . red bird . forest . green cat and red bird jumps"),
        ("red cat and green cat . cat and green cat jumps",
         "green cat and red cat . cat and red cat jumps"),
        # One alone: the colour that it wears, or some other.
        ("red cat with blue hat beach . close-up red cat jumps",
         "blue cat with blue hat beach . close-up blue cat jumps"),
        ("wide-shot red cat with hat jumps", "wide-shot green cat with hat jumps"),
        # No coat is said.
        ("wide-shot cat jumps", "wide-shot cat jumps"),
        ("wide-shot . beach", "wide-shot . beach"),
        ("", ""),
    ],
)  # fmt: skip
def test_characters_have_coats_that_they_have_not(caption: str, other: str) -> None:
    assert other_coats(caption.split()) == other.split()


BLUE = "red cat and blue bird with pink hat forest at-night . wide-shot blue bird jumps"


@pytest.mark.parametrize(
    ("caption", "less", "least"),
    [
        # Who was seen is not described again; who was only described is.
        ("blue bird with pink hat forest at-night . wide-shot blue bird jumps",
         "forest at-night . wide-shot bird jumps", "wide-shot bird jumps"),
        ("red cat and blue bird with pink hat forest . close-up red cat and blue bird dances",
         "red cat forest . close-up red cat and bird dances",
         "red cat . close-up red cat and bird dances"),
        ("wide-shot blue bird with pink hat . forest dances", "wide-shot bird . forest dances",
         "wide-shot bird . dances"),
        # Another bird, another place, nobody.
        ("red bird beach . red bird jumps", "red bird beach . red bird jumps",
         "red bird beach . red bird jumps"),
        ("forest", "forest", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_what_was_seen_is_left_unsaid(caption: str, less: str, least: str) -> None:
    before = [["wide-shot", "room"], BLUE.split()]
    assert unsaid(caption.split(), before) == less.split()
    assert unsaid(caption.split(), before, scenery=True) == least.split()
    assert unsaid(caption.split(), []) == caption.split()


@pytest.mark.parametrize(
    ("caption", "whole"),
    [
        ("wide-shot bird and cat jumps forest",
         "wide-shot blue bird with pink hat and red cat jumps forest"),
        ("bird . wide-shot", "blue bird with pink hat . wide-shot"),
        # It says so itself; two that may be meant; nobody knows.
        ("green bird and bunny jumps", "green bird and bunny jumps"),
        ("robot jumps", "robot jumps"),
        ("red cat forest . cat jumps", "red cat forest . cat jumps"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_was_said_before_is_said_again(caption: str, whole: str) -> None:
    before = [BLUE, "blue bird jumps", "white robot and red robot", "cat and bunny"]
    assert in_full(caption.split(), [said.split() for said in before]) == whole.split()


def test_captions_of_tokens_are_retold_row_by_row() -> None:
    story = "red cat with blue hat beach . wide-shot red cat jumps"
    ids = torch.zeros(1, 2, 16, dtype=torch.long)
    ids[0, 1, : len(story.split())] = torch.tensor([TOKEN_IDS[t] for t in story.split()])
    made = retold(ids, one_sentence)
    assert not made[0, 0].any()
    sentence = one_sentence(story.split())
    assert made[0, 1][made[0, 1] > 0].tolist() == [TOKEN_IDS[t] for t in sentence]
    assert torch.equal(retold(ids, list)[..., :16], ids)


def test_unknown_words_leave_no_gaps() -> None:
    tokens = torch.tensor([[[3, 33, 5, 34, 0, 0], [32, 0, 0, 0, 0, 0]]])
    assert known_words(tokens, 32).tolist() == [[[3, 5, 0, 0, 0, 0], [0] * 6]]
    assert torch.equal(known_words(tokens, 35), tokens)
