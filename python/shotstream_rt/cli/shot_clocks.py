"""When the shots of a film began and had their frames, for what ``generate`` reports."""

from __future__ import annotations

import time
from typing import Any

from shotstream_rt.session import Session


class ShotClocks:
    """The clocks of every shot of one film.

    The session keeps those of its latest shots only, so they are read as the film goes on.

    Args:
        session: its shots from now on are those of the film.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._begun_s = time.perf_counter()
        self._seen: int | None = None
        self._shots: dict[tuple[int, int], dict[str, Any]] = {}

    def look(self, shot: int) -> None:
        """Note which shot the next frame belongs to; where one begins, read the clocks."""
        if shot != self._seen:
            self._seen = shot
            self._read()

    def report(self, frames: int) -> dict[str, Any]:
        """Sum up the clocks of all shots, which made so many frames."""
        self._read()
        shots = [self._shots[key] for key in sorted(self._shots)]
        seconds = shots[-1]["end_s"] - shots[0]["begin_s"]
        return {
            "frames": frames,
            "fps": round(frames / seconds, 2) if seconds > 0 else None,
            "first_frame_ms": shots[0]["first_frame_ms"],
            "first_frame_before_second_chunk": all(
                shot["first_frame_before_second_chunk"] for shot in shots
            ),
            "shots": shots,
        }

    def _read(self) -> None:
        for shot in self._session.stats["shots"]:
            # An earlier film's shots have the same numbers. Times are rounded to microseconds.
            if shot["begin_s"] >= self._begun_s - 1e-6:
                self._shots[shot["shot"], shot["take"]] = shot
