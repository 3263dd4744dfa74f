"""Stories: the wording of a film, read from the original's JSON and CSV or made in Python.

Called by the session and the commands. Text only: no models, no tensors.
"""

from __future__ import annotations

import ast
import csv
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import ConfigError

_log = logging.getLogger("shotstream_rt.story")
_SHOT_KEY = re.compile(r"shot([1-9][0-9]*)")
_CSV_COLUMNS = ("json_path", "frame_number")
_MAX_STORY_BYTES = 16 << 20


def story_prefix(global_caption: str, index: int) -> str:
    """Return what stands before the text of shot ``index`` (from 0) of a story.

    No separators, and the number counts from 0 although the file's keys count from 1: the student
    was trained so. Source: ShotStream ``TextVideoDataset`` (caption assembly).
    """
    return f"{global_caption}shot{index}:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One film in words.

    Attributes:
        shots: text of each shot, at least one, none of them blank.
        global_caption: what holds for the whole film (characters, place, style); may be empty.
        name: where it came from, for messages and file names.
    """

    shots: Sequence[str]
    global_caption: str = ""
    name: str = "story"

    def __post_init__(self) -> None:
        if isinstance(self.shots, str) or not self.shots:
            raise ConfigError(f"{self.name}: got no shots, wanted a list with at least one text")
        if not isinstance(self.global_caption, str):
            raise ConfigError(
                f"{self.name}: global_caption is {type(self.global_caption).__name__}, wanted text"
            )
        for number, text in enumerate(self.shots, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ConfigError(f"{self.name}: shot{number} is {text!r}, wanted a text")

    @property
    def captions(self) -> tuple[str, ...]:
        """The prompt of every shot exactly as the student was trained to read it."""
        return tuple(
            story_prefix(self.global_caption, index) + text for index, text in enumerate(self.shots)
        )

    def first(self, shots: int) -> Story:
        """Return the story cut to its first ``shots`` shots.

        Raises:
            ConfigError: fewer shots than that exist, or ``shots`` < 1.
        """
        if not 1 <= shots <= len(self.shots):
            raise ConfigError(
                f"{self.name}: wanted {shots} shots, the story has {len(self.shots)}; "
                f"ask for 1 to {len(self.shots)}"
            )
        return Story(shots=self.shots[:shots], global_caption=self.global_caption, name=self.name)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, name: str = "story") -> Story:
        """Build from the original's JSON object: ``global_caption``, ``shot1`` .. ``shotN``.

        Other keys (``video_path`` among them) are ignored with a log line, unless they look like
        misspelt ones.

        Raises:
            ConfigError: a missing, misspelt or wrongly typed key, or a gap in the numbering.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(
                f"{name}: got {type(data).__name__}, wanted a JSON object with global_caption and "
                "shot1 .. shotN"
            )
        numbers = sorted(int(m[1]) for key in data if (m := _SHOT_KEY.fullmatch(str(key))))
        others = [str(key) for key in data if not _SHOT_KEY.fullmatch(str(key))]
        _check_keys(name, numbers, others)
        return cls(
            shots=tuple(data[f"shot{number}"] for number in numbers),
            global_caption=data["global_caption"],
            name=name,
        )

    @classmethod
    def from_json(cls, path: str | Path) -> Story:
        """Read one story file.

        Raises:
            ConfigError: no such file, not UTF-8 JSON, or wrong keys; the message names the file.
        """
        path = Path(path)
        text = _read_text(path)
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: not a JSON file ({error})") from error
        return cls.from_dict(data, name=str(path))

    @classmethod
    def from_csv(cls, path: str | Path) -> list[Story]:
        """Read a test-set table: one story per row.

        Columns ``json_path`` and ``frame_number`` are used. ``json_path`` may be relative to the
        table's folder or to the working directory; of ``frame_number`` (a list of
        ``[start, end)`` pairs) only the number of pairs counts, as in the original: so many shots
        are made, each of the trained length.

        Raises:
            ConfigError: the table or a row is not usable; the message names file and line.
        """
        path = Path(path)
        reader = csv.DictReader(_read_text(path).splitlines())
        missing = [c for c in _CSV_COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(
                f"{path}: no column {', '.join(missing)}; found "
                f"{', '.join(reader.fieldnames or ['nothing'])}"
            )
        stories = [_csv_row(path, reader.line_num, row) for row in reader]
        if not stories:
            raise ConfigError(f"{path}: got a header and no rows, wanted one row per film")
        return stories

    @classmethod
    def bundled(cls, name: str = "beach_friends") -> Story:
        """Return a story shipped inside the package, in the words the nano model knows."""
        text = resources.files(__package__).joinpath(f"stories/{name}.json").read_text("utf-8")
        return cls.from_dict(json.loads(text), name=name)


def load_stories(path: str | Path) -> list[Story]:
    """Read a story file or a table of them, by its ending.

    Raises:
        ConfigError: see ``Story.from_json`` and ``Story.from_csv``.
    """
    path = Path(path)
    return Story.from_csv(path) if path.suffix.lower() == ".csv" else [Story.from_json(path)]


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_STORY_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_STORY_BYTES >> 20} MiB, not a story")
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such story file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def _check_keys(name: str, numbers: Sequence[int], others: Sequence[str]) -> None:
    suspicious = [k for k in others if re.match(r"(?i)(shot|global|caption)", k)]
    suspicious = [k for k in suspicious if k not in ("global_caption", "shot_num_from_caption")]
    if suspicious:
        raise ConfigError(
            f"{name}: unknown key(s) {', '.join(suspicious)}; wanted global_caption and shot1 .. "
            "shotN"
        )
    if "global_caption" not in others:
        raise ConfigError(f"{name}: no key global_caption; found {', '.join(others) or 'none'}")
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        raise ConfigError(f"{name}: got shot keys {numbers}, wanted shot1, shot2, .. without a gap")
    ignored = [k for k in others if k not in ("global_caption", "video_path")]
    if ignored:
        _log.warning("%s: ignored key(s) %s", name, ", ".join(ignored))


def _csv_row(path: Path, line: int, row: Mapping[str, str | None]) -> Story:
    where = f"{path}:{line}"
    try:
        ranges = ast.literal_eval(row["frame_number"] or "")
        pairs = [(int(start), int(end)) for start, end in ranges]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ConfigError(
            f"{where}: frame_number is {row['frame_number']!r}, wanted a list of [start, end] pairs"
        ) from error
    if not pairs:
        raise ConfigError(f"{where}: frame_number lists no shots")
    named = Path(row["json_path"] or "")
    beside = path.parent / named
    try:
        return Story.from_json(beside if beside.is_file() else named).first(len(pairs))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
