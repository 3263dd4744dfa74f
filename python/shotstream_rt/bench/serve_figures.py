"""From what players and server did in a turn to figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from .serve_player import PlayerLog
from .serve_playout import play_out
from .serve_turn import Turn

_LEAST_MINUTES = 3
"""Minutes, the first one not counted, of which the least memory makes a line worth telling."""
_LEAST_RATIO = 0.01
"""Stands for the play ratio of a film that was not shown at all, where one is divided by it."""
_MOST_TOLD = 600
"""Numbers of a series of memory in a record: of a run of ten minutes, one a second."""


def turn_figures(turn: Turn, start_buffer_s: float) -> dict[str, list[float]]:
    """Return the samples of a turn by metric.

    Players: ``first_frame_ms.director`` (from its first cut), ``first_frame_ms.viewer`` (from
    connecting to a film that plays), ``play_ratio``, ``stall_count``, ``stalled_s``,
    ``skipped_frames``, ``cut_shown_ms``. Films: ``film_play_ratio`` (the median of its players),
    ``film_fps`` and ``fairness_ratio`` (frames of the film with the least, over those of the film
    with the most). The server: ``server_cpu_ms`` and ``loop_cpu_ms`` for each frame of a film,
    ``server_memory_mib``, ``memory_growth_mib`` a minute. ``error_count``.

    Films that wait in the queue are in none but the last; see ``films_told``.

    Args:
        turn: what was seen.
        start_buffer_s: seconds that a player holds before it begins.
    """
    films = played_films(turn)
    logs = [log for film in films for log in film]
    outs = [[_playout(log, turn, start_buffer_s) for log in film] for film in films]
    players = [out for film in outs for out in film]
    counts = [_frames_made(film[0], turn) for film in films]
    frames = sum(counts)
    out: dict[str, list[float]] = {
        "first_frame_ms.director": _known(film[0].first_frame_ms for film in films),
        "first_frame_ms.viewer": _known(log.first_frame_ms for film in films for log in film[1:]),
        "play_ratio": [player.ratio for player in players],
        "stall_count": [float(player.stalls) for player in players],
        "stalled_s": [player.stalled_s for player in players],
        "skipped_frames": [float(log.skipped) for log in logs],
        "cut_shown_ms": [ms for film in films for ms in _cuts_ms(film[0])],
        "film_play_ratio": [median(player.ratio for player in film) for film in outs],
        "film_fps": [count / (turn.end_s - turn.begin_s) for count in counts],
        "server_memory_mib": [held for _, held in turn.memory],
        "error_count": [sum(float(len(log.errors)) for film in turn.films for log in film)],
    }
    if len(counts) > 1 and max(counts):
        out["fairness_ratio"] = [min(counts) / max(counts)]
    if turn.cpu_s is not None and turn.loop_cpu_s is not None and frames:
        out["server_cpu_ms"] = [1e3 * turn.cpu_s / frames]
        out["loop_cpu_ms"] = [1e3 * turn.loop_cpu_s / frames]
    if (growth := memory_growth_mib(turn.memory)) is not None:
        out["memory_growth_mib"] = [growth]
    return out


def played_films(turn: Turn) -> list[list[PlayerLog]]:
    """Return the players of the films that do not wait in the queue: they play, or they should."""
    return [film for film in turn.films if film[0].arrivals_s or not film[0].places]


def films_told(turn: Turn) -> dict[str, Any]:
    """Return how many films played and waited, and the frames or the places of each."""
    played = played_films(turn)
    waited = [film for film in turn.films if not any(film is other for other in played)]
    return {
        "played": len(played),
        "waited": len(waited),
        "frames": [_frames_made(film[0], turn) for film in played],
        "places": [film[0].places[-1] for film in waited],
    }


def memory_growth_mib(samples: Sequence[tuple[float, float]]) -> float | None:
    """Return MiB a minute: a line through the least of every minute after the first one.

    What is being made comes and goes, and a leak stays: the least of a minute shows it. None if
    there are not three of them.

    Args:
        samples: seconds and MiB each.
    """
    least: dict[int, float] = {}
    for seconds, size in samples:
        minute = int(seconds // 60)
        least[minute] = min(size, least.get(minute, math.inf))
    least.pop(0, None)
    if len(least) < _LEAST_MINUTES:
        return None
    return float(np.polyfit([*least], [*least.values()], 1)[0])


def memory_told(samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return how memory went: MiB from ``begin_s`` on, ``every_s`` seconds from one to the next.

    Args:
        samples: seconds, rising, and MiB each; about one a second.
    """
    if not samples:
        return {"every_s": 1, "mib": []}
    times, sizes = zip(*samples, strict=True)
    every_s = max(1, math.ceil(times[-1] / _MOST_TOLD))
    told = np.interp(range(0, math.floor(times[-1]) + 1, every_s), times, sizes)
    return {"every_s": every_s, "mib": told.round(1).tolist()}


def viewer_costs(
    viewers: Sequence[int], rounds: Sequence[Sequence[float]], encode_ms: float
) -> list[float]:
    """Return what a viewer costs for each frame, in encodes: the slope of a line, for each round.

    Args:
        viewers: how many there were.
        rounds: of each round the CPU milliseconds for a frame, with so many viewers each.
        encode_ms: CPU milliseconds of encoding a frame.
    """
    return [float(np.polyfit(viewers, found, 1)[0]) / encode_ms for found in rounds]


def worst_film_gains(
    ours: Sequence[Turn], others: Sequence[Turn], start_buffer_s: float
) -> list[float]:
    """Return how many times better the worst film plays than with another policy, by round.

    Args:
        ours: turns with the one policy.
        others: with the other one, of the same rounds.
        start_buffer_s: seconds that a player holds before it begins.
    """
    worst = [
        [
            max(
                _LEAST_RATIO,
                min(turn_figures(turn, start_buffer_s)["film_play_ratio"], default=0.0),
            )
            for turn in turns
        ]
        for turns in (ours, others)
    ]
    return [one / other for one, other in zip(*worst, strict=True)]


def _playout(log: PlayerLog, turn: Turn, start_buffer_s: float) -> Any:
    rate_hz = log.rate_hz or 1
    return play_out(
        log.arrivals_s, interval_s=1 / rate_hz,
        buffer_frames=max(1, math.ceil(start_buffer_s * rate_hz)),
        begin_s=turn.begin_s, end_s=turn.end_s,
    )  # fmt: skip


def _frames_made(log: PlayerLog, turn: Turn) -> int:
    """Return the frames that the film went on by, whether they reached the player or not."""
    within = [
        number
        for number, arrival_s in zip(log.numbers, log.arrivals_s, strict=True)
        if turn.begin_s <= arrival_s < turn.end_s
    ]
    return within[-1] - within[0] + 1 if within else 0


def _cuts_ms(log: PlayerLog) -> list[float]:
    """Return how long it took from each cut to its first frame, if that came."""
    came_s = dict(zip(log.numbers, log.arrivals_s, strict=True))
    return [1e3 * (came_s[frame] - asked_s) for asked_s, frame in log.cuts if frame in came_s]


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]
