"""``--image``, ``--video`` and ``--strength``: what a film's first shot begins with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_rt.errors import ConfigError
from shotstream_rt.film.start import check_strength
from shotstream_rt.media.source import read_clip, read_picture
from shotstream_rt.session import Session


def configure(add: Callable[..., Any]) -> None:
    """Declare the options."""
    add(
        "--image",
        metavar="FILE",
        type=Path,
        help="picture that the first shot goes on from, or sees as context if the student has any",
    )
    add("--video", metavar="FILE", type=Path, help="clip that the first shot goes on from")
    add("--strength", type=float, metavar="X",
        help="make the first shot from the picture or clip instead: above 0 (little changes) to "
        "1 (nothing stays)")  # fmt: skip


@dataclass(frozen=True, slots=True)
class StartFile:
    """A file that a film's first shot begins with.

    Attributes:
        path: the file.
        moves: whether it is a clip.
        strength: see ``Session.cut``.
    """

    path: Path
    moves: bool
    strength: float | None

    @classmethod
    def of(cls, arguments: argparse.Namespace, *, films: int, replayed: bool) -> StartFile | None:
        """Return what the options say, ``None`` if they name no file.

        Args:
            arguments: of the command.
            films: how many are made.
            replayed: the film is made from its directions.

        Raises:
            ConfigError: options that do not go together, or no such file.
        """
        image, video, strength = arguments.image, arguments.video, arguments.strength
        path = image or video
        if path is None:
            if strength is not None:
                raise ConfigError("got --strength alone, wanted --image or --video with it")
            return None
        if image and video:
            raise ConfigError("got --image and --video, wanted one of them")
        option = "--image" if image else "--video"
        if films > 1 or replayed:
            got = "a film.json, which is played as it is" if replayed else f"{films} films"
            raise ConfigError(f"{option}: got {got}, wanted one story or --prompt")
        if not path.exists():
            raise ConfigError(f"{option}: {path}: no such file")
        return cls(path, video is not None, check_strength(strength))

    def read(self, session: Session) -> tuple[dict[str, Any], str]:
        """Return the arguments of ``Session.cut`` that say it, and what a user should know.

        Args:
            session: makes the film.

        Raises:
            ConfigError: the file cannot be read, is too short, or the student takes no such start.
        """
        if not self.moves and self.strength is None and session.context_frames:
            picture = read_picture(self.path, session.size)
            return {"images": [picture]}, f"{self.path}: the first shot sees it as context"
        lengths = session.start_lengths(strength=self.strength)
        if not self.moves:
            picture = read_picture(self.path, session.size)
            return {"start": picture, "strength": self.strength}, ""
        frames = read_clip(
            self.path, session.size, frame_rate_hz=session.frame_rate_hz, most_frames=lengths[-1]
        )
        fitting = [length for length in lengths if length <= len(frames)]
        if not fitting:
            raise ConfigError(
                f"{self.path}: got {len(frames)} frame(s) at {session.frame_rate_hz} per second, "
                f"wanted {lengths[0]} or more"
            )
        taken = frames[: fitting[-1]]
        note = f"{self.path}: the first {len(taken)} frames, at {session.frame_rate_hz} per second"
        return {"start": taken, "strength": self.strength}, note
