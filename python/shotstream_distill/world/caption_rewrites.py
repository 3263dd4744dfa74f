"""Says captions of the drawn world in other words: shorter, in other clothes or coats.

Called by the stages in which a student learns from its own answers (``self_taught``). Captions are
the canonical tokens of ``nano_vocabulary``; a story describes its characters before its scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from shotstream_rt.model.nano.vocabulary import (
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
    without,
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


def _changed(sentence: list[str], change: Callable[[Named], Named]) -> list[str]:
    """Let every character that a sentence names look different."""
    said: list[str] = []
    end = 0
    for one in named(sentence):
        said += [*sentence[end : one.begin], *change(one).tokens]
        end = one.end
    return said + sentence[end:]


def _joined(sentences: Sequence[list[str]]) -> list[str]:
    return [token for sentence in sentences for token in (".", *sentence)][1:]


def _exchanged(one: Named) -> Named:
    """Return a scarf for a hat and a hat for a scarf, of the same colour."""
    other = dict(zip(ACCESSORIES, reversed(ACCESSORIES), strict=True))
    return replace(one, worn=tuple(other.get(token, token) for token in one.worn))


def _dressed(one: Named) -> Named:
    """The same, and something for who wears nothing; always the same for the same character."""
    if one.worn:
        return _exchanged(one)
    number = SPECIES.index(one.species) + sum(COLORS.index(color) for color in one.color)
    color = COLORS[(3 * number + 1) % len(COLORS)]
    return replace(one, worn=("with", color, ACCESSORIES[number % len(ACCESSORIES)]))


def other_clothes(tokens: Sequence[str]) -> list[str]:
    """Say a caption whose characters wear what they do not: hats for scarves, or for nothing.

    Who was described before the scene is dressed there.
    """
    description, scene = split_story(tokens)
    wears = _exchanged if description else _dressed
    said = [_changed(sentence, _dressed) for sentence in description]
    return _joined(said + [_changed(sentence, wears) for sentence in scene])


def other_coats(tokens: Sequence[str]) -> list[str]:
    """Say a caption whose characters have coats that they have not.

    Of two it is the other's; of one alone the colour of what it wears, or else some other colour.
    These are the coats that pictures come out with by mistake.
    """
    description, scene = split_story(tokens)
    cast: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
    for one in chain(*(named(sentence) for sentence in description or scene)):
        if one.color:
            far = COLORS[(COLORS.index(one.color[0]) + 3) % len(COLORS)]
            worn = tuple(token for token in one.worn if token in COLORS)
            cast.setdefault((one.species, one.color), worn[-1:] or (far,))
    if len(cast) > 1:
        cast = dict(zip(cast, (color for _, color in [*cast][1:] + [*cast][:1]), strict=True))

    def change(one: Named) -> Named:
        return replace(one, color=cast.get((one.species, one.color), one.color))

    return _joined([_changed(sentence, change) for sentence in (*description, *scene)])


def unsaid(
    tokens: Sequence[str], before: Sequence[Sequence[str]], *, scenery: bool = False
) -> list[str]:
    """Say a caption without what earlier pictures show of its characters: coats and clothes.

    Who was in an earlier scene is named by its species alone, and not described before the scene.

    Args:
        tokens: the caption.
        before: captions of the earlier shots. Who is only described in them was not seen.
        scenery: leave out place and time too, where earlier captions say the same.
    """
    seen = {
        (one.species, one.color)
        for caption in before
        for sentence in split_story(caption)[1]
        for one in named(sentence)
    }
    shown = set(chain(*before)) & {*PLACES, *TIMES} if scenery else set()

    def known(one: Named) -> bool:
        return bool(one.color) and (one.species, one.color) in seen

    def bare(one: Named) -> Named:
        return replace(one, color=(), worn=()) if known(one) else one

    description, scene = split_story(tokens)
    said = [
        *(without(sentence, [one for one in named(sentence) if known(one)])
          if any(map(known, named(sentence))) else sentence for sentence in description),
        *(_changed(sentence, bare) for sentence in scene),
    ]  # fmt: skip
    kept = [[token for token in sentence if token not in shown] for sentence in said]
    return _joined([sentence for sentence in kept if sentence])


def in_full(tokens: Sequence[str], before: Sequence[Sequence[str]]) -> list[str]:
    """Say a caption with what earlier captions say of its characters, where that is clear.

    Args:
        tokens: the caption.
        before: captions of the earlier shots.
    """
    named_before = [one for caption in before for one in named(list(caption)) if one.color]

    def full(one: Named) -> Named:
        if one.color:
            return one
        said = [other for other in named_before if other.species == one.species]
        if len({other.color for other in said}) != 1:
            return one
        worn = max((other.worn for other in said), key=len)
        return replace(one, color=said[0].color, worn=one.worn or worn)

    description, scene = split_story(tokens)
    if description:
        return list(tokens)
    return _joined([_changed(sentence, full) for sentence in scene])


def token_names(ids: Tensor) -> list[str]:
    """Return the canonical tokens of ids ``[L]``, padded with 0."""
    return [TOKENS[index] for index in ids.tolist() if index]


def token_ids(tokens: Sequence[str], length: int) -> Tensor:
    """Return the ids of canonical tokens, int64 ``[length]``: cut, or padded with 0."""
    ids = [TOKEN_IDS[token] for token in tokens][:length]
    return torch.tensor(ids + [0] * (length - len(ids)))


def retold(tokens: Tensor, how: Callable[[Sequence[str]], list[str]]) -> Tensor:
    """Say captions of token ids, padded with 0, ``[..., L]``, in other words."""
    length = tokens.shape[-1] + _LONGER
    rows = [token_ids(how(token_names(row)), length) for row in tokens.flatten(0, -2)]
    return torch.stack(rows).view(*tokens.shape[:-1], length)
