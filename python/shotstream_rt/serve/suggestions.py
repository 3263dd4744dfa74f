"""Texts to begin a film with."""

from __future__ import annotations

from ..story import Story

_OF_NANO = (
    "Wide shot: a red cat walks right on a beach.",
    "Close-up: a blue robot with a yellow hat stands still in a forest.",
    "Medium shot: a green bunny jumps in a city.",
)


def suggestions(model: str) -> tuple[str, ...]:
    """Return three texts of which a model knows the words.

    Args:
        model: ``nano`` or a checkpoint folder.
    """
    return _OF_NANO if model == "nano" else tuple(Story.bundled().captions[:3])
