"""The original's dataset format: a CSV of films, each a JSON story and an MP4, cut by frame ranges.

Read by ``film_shots``. ``frame_number`` lists ``[start, end)`` frames of each shot in the video.
Everything wrong with a file is a ``ConfigError`` that names it. Here ranges are taken as they are;
the original lays their lengths end to end, so gaps between them shift the cuts.
"""

from __future__ import annotations

import ast
import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.story import Story

_COLUMNS = ("json_path", "frame_number", "video_path")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmFile:
    """One row of the table.

    Attributes:
        story: its words, as many shots as ranges.
        video: the MP4.
        ranges: frames ``[start, end)`` of each shot.
        where: file and line, for messages.
    """

    story: Story
    video: Path
    ranges: tuple[tuple[int, int], ...]
    where: str


def read_films(path: Path) -> list[FilmFile]:
    """Read a table.

    Args:
        path: CSV with ``json_path``, ``frame_number`` and ``video_path``; paths may be relative to
            the table.

    Raises:
        ConfigError: the table, a row or a story is not usable; names file and line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such table of films") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from error
    reader = csv.DictReader(text.splitlines())
    missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(f"{path}: no column {', '.join(missing)}; wanted {', '.join(_COLUMNS)}")
    films = [_film(path, reader.line_num, row) for row in reader]
    if not films:
        raise ConfigError(f"{path}: got a header and no rows, wanted one row per film")
    return films


def _film(table: Path, line: int, row: dict[str, str | None]) -> FilmFile:
    where = f"{table}:{line}"
    told = row["frame_number"]
    try:
        ranges = tuple((int(a), int(b)) for a, b in ast.literal_eval(told or ""))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ConfigError(
            f"{where}: frame_number is {told!r}, wanted a list of [start, end) pairs"
        ) from error
    rising = all(0 <= a < b for a, b in ranges) and all(
        before[1] <= after[0] for before, after in itertools.pairwise(ranges)
    )
    if not ranges or not rising:
        raise ConfigError(f"{where}: frame_number is {told!r}, wanted rising, non-empty ranges")
    try:
        story = Story.from_json(_beside(table, row["json_path"])).first(len(ranges))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return FilmFile(
        story=story, video=_beside(table, row["video_path"]), ranges=ranges, where=where
    )


def _beside(table: Path, named: str | None) -> Path:
    beside = table.parent / (named or "")
    return beside if beside.is_file() else Path(named or "")


def read_frames(path: Path, numbers: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Decode some frames of a video.

    Args:
        path: of the video.
        numbers: frame numbers, in any order, repeats allowed.
        size: height and width wanted.

    Returns:
        float32 ``[len(numbers), 3, H, W]`` in [-1, 1].

    Raises:
        ConfigError: the file is missing, no video, broken, or too short.
    """
    import av

    wanted, found = set(numbers), {}
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                if len(found) == len(wanted):
                    break
    except (OSError, av.FFmpegError, IndexError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be decoded as a video ({error})") from error
    lost = sorted(wanted - set(found))
    if lost:
        raise ConfigError(
            f"{path}: got no frame {lost[0]} ({len(lost)} of {len(wanted)} wanted are missing); "
            "the video is shorter than its ranges, or damaged"
        )
    frames = torch.stack([found[n] for n in numbers]).permute(0, 3, 1, 2).float() / 127.5 - 1
    if frames.shape[-2:] != size:
        frames = F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False)
    return frames.clamp(-1, 1)
