"""Settings of films that cannot be are named before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from shotstream_rt.errors import ConfigError
from shotstream_rt.serve.film_settings import FilmSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**63},
        {"at_end": "stop"},
        {"policy": "random"},
        {"threads": 0},
        {"capacity": 0},
    ],
    ids=str,
)
def test_what_cannot_be_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FilmSettings(**wrong)


def test_what_is_left_out_is_chosen() -> None:
    settings = FilmSettings()
    assert (settings.threads, settings.capacity, settings.model) == (None, None, "nano")
