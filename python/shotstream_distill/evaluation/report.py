"""From film records to figures with intervals.

Called by the evaluation and the ablations. Every figure is an ``Estimate``; definitions are in
docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .context_swap import swap_estimates
from .facts import FACT_NAMES, CharacterFacts, fact_shares
from .intervals import Estimate, Share, mean_over_stories, resample
from .judge import DYNAMIC_LIMIT
from .records import FilmRecord, ShotRecord

WALKS = ("walks-left", "walks-right")
DRIFT_NAMES = (
    "place",
    "time",
    "species",
    "color",
    "direction",
    "adherence",
    "clarity",
    "sharpness",
)

Figures = dict[str, dict[str, float]]


def direction_answers(shot: ShotRecord) -> list[bool | None]:
    """Whether each character that should walk was seen walking the right way."""
    return [
        seen == shot.asked_action if shot.asked_action in WALKS else None for seen in shot.actions
    ]


def action_answers(shot: ShotRecord) -> list[bool | None]:
    """Whether each character was seen doing what was asked."""
    return [seen == shot.asked_action for seen in shot.actions]


def adherence(shot: ShotRecord) -> float:
    """Share of everything the captions ask of a shot that was seen.

    Place, time where there is one, framing, and of each character species, colour, accessory and
    action; the accessory of a character that was not seen counts as wrong.
    """
    answers = [shot.facts.place, shot.facts.framing]
    if shot.facts.time is not None:
        answers.append(shot.facts.time)
    for character, action in zip(shot.facts.characters, action_answers(shot), strict=True):
        answers += [character.species, character.color, bool(character.accessory), bool(action)]
    return sum(answers) / len(answers)


def shot_shares(shots: Sequence[ShotRecord]) -> dict[str, Share]:
    """Count every fact, direction and action over some shots."""
    return {
        **fact_shares(shot.facts for shot in shots),
        "direction": Share.of(a for shot in shots for a in direction_answers(shot)),
        "action": Share.of(a for shot in shots for a in action_answers(shot)),
    }


def _figure(name: str) -> Callable[[ShotRecord], float]:
    return lambda shot: shot.figures.get(name, math.nan)


def shot_means(per_film: Sequence[Sequence[ShotRecord]]) -> dict[str, Estimate]:
    """Average every measured number over some shots of each film."""
    names = {name for film in per_film for shot in film for name in shot.figures}
    means: dict[str, Callable[[ShotRecord], float]] = {"adherence": adherence}
    means |= {name: _figure(name) for name in sorted(names - {"busy", "drawn_busy"})}
    means["dynamic"] = lambda shot: float(shot.figures["busy"] > DYNAMIC_LIMIT)
    means["dynamic_drawn"] = lambda shot: float(shot.figures["drawn_busy"] > DYNAMIC_LIMIT)
    means["dynamic_right"] = lambda shot: float(
        (shot.figures["busy"] > DYNAMIC_LIMIT) == (shot.figures["drawn_busy"] > DYNAMIC_LIMIT)
    )
    found = {
        name: mean_over_stories([[value(shot) for shot in film] for film in per_film])
        for name, value in means.items()
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def character_returns(film: FilmRecord) -> list[tuple[CharacterFacts, CharacterFacts]]:
    """Return (earlier, later) facts of every shot in which a character is seen again.

    ``earlier`` is the last shot before with that character in its cast.
    """
    found = []
    for who in (0, 1):
        turns = [c for shot in film.shots for c in shot.facts.characters if c.who == who]
        found += list(pairwise(turns))
    return found


def return_shares(films: Sequence[FilmRecord]) -> dict[str, Share]:
    """Count how characters come back after a cut.

    ``right``: kind and colour right in the later shot. ``kept``: the same kind and colour as in the
    earlier shot, right or wrong, where somebody was seen there. ``right_after_right`` and
    ``right_after_wrong``: ``right``, by what the earlier shot was.
    """
    turns = [turn for film in films for turn in character_returns(film)]
    return {
        "right": Share.of(later.right for _, later in turns),
        "kept": Share.of(
            later.same_as(earlier) for earlier, later in turns if earlier.seen_species != "none"
        ),
        "right_after_right": Share.of(later.right for earlier, later in turns if earlier.right),
        "right_after_wrong": Share.of(later.right for earlier, later in turns if not earlier.right),
    }


def cut_figures(films: Sequence[FilmRecord]) -> Figures:
    """Shot-cut accuracy: found / (asked + found elsewhere); and films without any mistake."""
    counts = torch.tensor([[f.cuts.hits, f.cuts.missed, f.cuts.false] for f in films]).double()

    def accuracy(rows: Tensor) -> float:
        hits, missed, false = counts[rows].sum(0).tolist()
        total = hits + missed + false
        return hits / total if total else 1.0

    hits, missed, false = (int(v) for v in counts.sum(0))
    return {
        "accuracy": resample(len(films), accuracy, n=hits + missed).as_dict(),
        "exact_films": Share.of(f.cuts.exact for f in films).estimate().as_dict(),
        "counts": {"hits": hits, "missed": missed, "false": false},
    }


def drift_figures(films: Sequence[FilmRecord]) -> Figures:
    """Last shot minus first shot, with intervals over films."""
    figures: Figures = {}
    for name in DRIFT_NAMES:
        first, last = ([shot_values(film.shots[i], name) for film in films] for i in (0, -1))
        sums = torch.tensor(
            [[sum(a), len(a), sum(b), len(b)] for a, b in zip(first, last, strict=True)]
        ).double()

        def change(rows: Tensor, sums: Tensor = sums) -> float:
            a, n, b, m = sums[rows].sum(0).tolist()
            return b / m - a / n if n and m else math.nan

        if math.isfinite(change(torch.arange(len(films)))):
            figures[name] = resample(len(films), change).as_dict()
    return figures


def shot_values(shot: ShotRecord, name: str) -> list[float]:
    """Return what a shot contributes to a fact's share, to ``adherence`` or to a measured mean."""
    if name == "adherence":
        return [adherence(shot)]
    if name in shot.figures:
        return [shot.figures[name]]
    if name in FACT_NAMES:
        answers = shot.facts.answers(name)
    else:
        seen = {"direction": direction_answers, "action": action_answers}.get(name)
        answers = [] if seen is None else seen(shot)
    return [float(a) for a in answers if a is not None]


def _plain(shares: dict[str, Share]) -> Figures:
    return {name: share.estimate().as_dict() for name, share in shares.items()}


def film_figures(films: Sequence[FilmRecord]) -> dict[str, Any]:
    """Return every figure of some films as plain JSON types.

    Args:
        films: records of equal numbers of shots, at least one.

    Returns:
        ``scores`` (facts, direction, action; ``motion``, the mean of ``jitter``), ``by_shot``
        (scores and means of every shot index), ``drift``, ``returns``, ``cuts``, ``means``
        (consistency inside shots, adherence, quality, dynamics), ``pairs`` (consistency between
        shots), ``seconds`` a story.
    """
    shots = [list(film.shots) for film in films]
    means = shot_means(shots)
    pairs = {
        name: mean_over_stories([film.pairs.get(name, []) for film in films])
        for name in ("subject", "background", "semantic")
    }
    by_shot = []
    for index in range(len(films[0].shots)):
        column = [[film.shots[index]] for film in films]
        numbers = {name: e.as_dict() for name, e in shot_means(column).items()}
        by_shot.append({**_plain(shot_shares([s for c in column for s in c])), **numbers})
    return {
        "scores": {
            **_plain(shot_shares([shot for film in shots for shot in film])),
            "motion": means["jitter"].as_dict(),
        },
        "by_shot": by_shot,
        "drift": drift_figures(films) if len(by_shot) > 1 else {},
        "returns": _plain(return_shares(films)),
        "cuts": cut_figures(films),
        "means": {name: e.as_dict() for name, e in means.items()},
        "pairs": {name: e.as_dict() for name, e in pairs.items() if e is not None},
        "seconds": {
            "made": sum(film.made_s for film in films) / len(films),
            "judged": sum(film.judged_s for film in films) / len(films),
        },
    }


def swap_figures(films: Sequence[FilmRecord]) -> dict[str, Any]:
    """Return ``tint`` and ``hue`` of the films whose swaps were measured."""
    swaps = [film.swap for film in films if film.swap]
    found = {kind: swap_estimates(swaps, kind) for kind in ("tint", "hue")}
    return {kind: use.as_dict() for kind, use in found.items() if use is not None}
