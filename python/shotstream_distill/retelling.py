"""Says captions of the drawn world in other words: in one sentence, or with other clothes.

Called by the stages in which a student learns from its own answers (``self_taught``). Captions are
the canonical tokens of ``nano_vocabulary``; a story describes its characters before its scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from shotstream_rt.model.nano_vocabulary import (
    ACCESSORIES,
    ACTIONS,
    COLORS,
    FRAMINGS,
    PLACES,
    SPECIES,
    TIMES,
    TOKEN_IDS,
    TOKENS,
    Named,
    named,
    split_story,
)

_LONGER = 8
"""Tokens by which a caption may be longer in other words."""


def known_words(tokens: Tensor, words: int) -> Tensor:
    """Leave out tokens from ``words`` on and close the gaps, as the runtime does."""
    known = tokens.where(tokens < words, 0)
    return known.gather(-1, torch.argsort((known == 0).long(), dim=-1, stable=True))


def _told_by(one: Named, before: Sequence[Named]) -> tuple[str, ...]:
    """Return a character's tokens with what was said of it before, if that is clear."""
    said = {(other.color, other.worn) for other in before if one.may_be(other)}
    if len(said) != 1:
        return one.tokens
    ((color, worn),) = said
    return replace(one, color=one.color or color, worn=one.worn or worn).tokens


def one_sentence(tokens: Sequence[str]) -> list[str]:
    """Say a story's caption in its scene alone, whose characters are described there.

    Place, time, framing and action are repeated where the scene names none.
    """
    description, sentences = split_story(tokens)
    if not description:
        return list(tokens)
    before = [one for sentence in description for one in named(sentence)]
    scene: list[str] = []
    for sentence in sentences:
        if scene:
            scene.append(".")
        end = 0
        for one in named(sentence):
            scene += [*sentence[end : one.begin], *_told_by(one, before)]
            end = one.end
        scene += sentence[end:]
    for kind in (FRAMINGS, ACTIONS, PLACES, TIMES):
        if not set(kind) & set(scene):
            scene += dict.fromkeys(token for token in chain(*description) if token in kind)
    return scene


def _in_clothes(sentence: list[str], wears: Callable[[Named], Sequence[str]]) -> list[str]:
    """Let every character that a sentence names wear something else."""
    said: list[str] = []
    end = 0
    for one in named(sentence):
        said += [*sentence[end : one.begin], *one.color, one.species, *wears(one)]
        end = one.end
    return said + sentence[end:]


def _exchanged(one: Named) -> Sequence[str]:
    """Return a scarf for a hat and a hat for a scarf, of the same colour."""
    other = dict(zip(ACCESSORIES, reversed(ACCESSORIES), strict=True))
    return [other.get(token, token) for token in one.worn]


def _dressed(one: Named) -> Sequence[str]:
    """The same, and something for who wears nothing; always the same for the same character."""
    if one.worn:
        return _exchanged(one)
    number = SPECIES.index(one.species) + sum(COLORS.index(color) for color in one.color)
    return "with", COLORS[(3 * number + 1) % len(COLORS)], ACCESSORIES[number % len(ACCESSORIES)]


def other_clothes(tokens: Sequence[str]) -> list[str]:
    """Say a caption whose characters wear what they do not: hats for scarves, or for nothing.

    Who was described before the scene is dressed there.
    """
    description, scene = split_story(tokens)
    wears = _exchanged if description else _dressed
    said = [_in_clothes(sentence, _dressed) for sentence in description]
    said += [_in_clothes(sentence, wears) for sentence in scene]
    return [token for sentence in said for token in (".", *sentence)][1:]


def retold(tokens: Tensor, how: Callable[[Sequence[str]], list[str]]) -> Tensor:
    """Say captions of token ids, padded with 0, ``[..., L]``, in other words."""
    length = tokens.shape[-1] + _LONGER
    rows = []
    for row in tokens.flatten(0, -2).tolist():
        said = how([TOKENS[index] for index in row if index])
        ids = [TOKEN_IDS[token] for token in said][:length]
        rows.append(ids + [0] * (length - len(ids)))
    return torch.tensor(rows).view(*tokens.shape[:-1], length)
