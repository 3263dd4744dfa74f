"""What is told of a film without telling where the server's files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ..film.replay import sealed

_PRIVATE = ("engines", "notes")
"""Parts of a session's figures that name folders or files, also inside of sentences."""


def model_name(model: str) -> str:
    """Return the last part of a model's folder, or the name of one without a folder."""
    return PurePath(model).name or model


def public_stats(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's figures without its folders."""
    told = {name: value for name, value in stats.items() if name not in _PRIVATE}
    return {**told, **_names(stats)}


def public_directions(directions: Mapping[str, Any]) -> dict[str, Any]:
    """Return directions in which models and adapters are names; the folder is given when replayed.

    Args:
        directions: what ``Session.directions`` returned.
    """
    told = {name: value for name, value in directions.items() if name != "checksum"}
    options = told.get("options", {})
    return sealed({**told, **_names(told), "options": {**options, **_names(options)}})


def _names(values: Mapping[str, Any]) -> dict[str, str]:
    kinds = ("model", "student", "lora")
    return {kind: model_name(values[kind]) for kind in kinds if isinstance(values.get(kind), str)}
