"""Stories: the wording of a film, read from the original's JSON and CSV or made in Python.

Called by the session and the commands. Text only: no models, no tensors.
"""

from __future__ import annotations

import ast
import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from .checks import check_one_of, check_range, check_text
from .errors import ConfigError
from .inputs import parse_json, read_text
from .printable import listed, printable, shown

_log = logging.getLogger("shotstream_rt.story")
_SHOT_KEY = re.compile(r"shot([1-9][0-9]{0,8})")
_CSV_COLUMNS = ("json_path", "frame_number")
_MAX_STORY_BYTES = 16 << 20
_MAX_NAME = 1024

MAX_SHOTS = 10_000
"""Most shots of one story; at five seconds a shot that is a film of fourteen hours."""


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
        shots: text of each shot, at least one, none of them blank, each of at most
            ``checks.MAX_PROMPT_CHARACTERS``. Any iterable of texts in order is taken, a generator
            too; it is kept as a tuple.
        global_caption: what holds for the whole film (characters, place, style); may be empty.
        name: where it came from, for messages and file names.

    Raises:
        ConfigError: no shots, more than ``MAX_SHOTS``, or a text that is not usable.
    """

    shots: Sequence[str]
    global_caption: str = ""
    name: str = "story"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"story name: got {shown(self.name)}, wanted a text")
        try:
            # NumPy's and torch's single numbers have an iterator by name, and raise.
            texts = iter(self.shots)
        except TypeError:
            texts = None
        if texts is None or isinstance(self.shots, str | bytes | Mapping | set | frozenset):
            raise ConfigError(
                f"{self.name}: shots is {type(self.shots).__name__}, wanted a list of texts"
            )
        shots = tuple(islice(texts, MAX_SHOTS + 1))
        if not shots:
            raise ConfigError(f"{self.name}: got no shots, wanted a list with at least one text")
        if len(shots) > MAX_SHOTS:
            raise ConfigError(f"{self.name}: got more than {MAX_SHOTS} shots, wanted at most that")
        if not isinstance(self.global_caption, str):
            raise ConfigError(
                f"{self.name}: global_caption is {type(self.global_caption).__name__}, wanted text"
            )
        check_text(self.global_caption, f"{self.name}: global_caption", blank=True)
        for number, text in enumerate(shots, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ConfigError(f"{self.name}: shot{number} is {shown(text)}, wanted a text")
            check_text(text, f"{self.name}: shot{number}")
        object.__setattr__(self, "shots", shots)

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
        count = check_range(f"{self.name}: number of shots", shots, -(2**63), 2**63)
        if not 1 <= count <= len(self.shots):
            raise ConfigError(
                f"{self.name}: wanted {count} shots, the story has {len(self.shots)}; "
                f"ask for 1 to {len(self.shots)}"
            )
        return Story(shots=self.shots[:count], global_caption=self.global_caption, name=self.name)

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
        for key in data:
            if not isinstance(key, str):
                raise ConfigError(f"{name}: key {shown(key)} is {type(key).__name__}, wanted text")
        numbers = sorted(int(m[1]) for key in data if (m := _SHOT_KEY.fullmatch(key)))
        others = [key for key in data if not _SHOT_KEY.fullmatch(key)]
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
            ConfigError: no such file, not a regular one, larger than 16 MiB, not UTF-8 JSON, or
                keys that are wrong or stand twice; the message names the file.
        """
        path = _path(path)
        text = read_text(path, limit_bytes=_MAX_STORY_BYTES, what="story")
        return cls.from_dict(parse_json(text, path), name=str(path))

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
        path = _path(path)
        text = read_text(path, limit_bytes=_MAX_STORY_BYTES, what="story")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            columns = list(reader.fieldnames or ())
            _check_columns(path, columns)
            stories = [_csv_row(path, reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise ConfigError(f"{path}:{reader.line_num}: not a CSV table ({error})") from error
        if not stories:
            raise ConfigError(f"{path}: got a header and no rows, wanted one row per film")
        return stories

    @classmethod
    def bundled(cls, name: str = "beach_friends") -> Story:
        """Return a story shipped inside the package, in the words the nano model knows.

        Raises:
            ConfigError: the package has no story of this name.
        """
        stories = {
            file.name.removesuffix(".json"): file
            for file in resources.files(__package__).joinpath("stories").iterdir()
            if file.name.endswith(".json")
        }
        check_one_of("story", name, tuple(stories))
        return cls.from_dict(parse_json(stories[name].read_text("utf-8"), name), name=name)


def load_stories(path: str | Path) -> list[Story]:
    """Read a story file or a table of them, by its ending.

    Raises:
        ConfigError: see ``Story.from_json`` and ``Story.from_csv``.
    """
    path = _path(path)
    return Story.from_csv(path) if path.suffix.lower() == ".csv" else [Story.from_json(path)]


def _path(path: object) -> Path:
    if not isinstance(path, str | Path):
        raise ConfigError(f"story file: got {shown(path)}, wanted a path")
    return Path(path)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [column for column in _CSV_COLUMNS if column not in columns]
    if missing:
        raise ConfigError(
            f"{path}: no column {', '.join(missing)}; found {listed(columns) or 'nothing'}"
        )
    twice = [column for column in _CSV_COLUMNS if columns.count(column) > 1]
    if twice:
        raise ConfigError(f"{path}: column {', '.join(twice)} stands twice, wanted it once")


def _check_keys(name: str, numbers: Sequence[int], others: Sequence[str]) -> None:
    suspicious = [k for k in others if re.match(r"(?i)(shot|global|caption)", k)]
    suspicious = [k for k in suspicious if k not in ("global_caption", "shot_num_from_caption")]
    if suspicious:
        raise ConfigError(
            f"{name}: unknown key(s) {listed(suspicious)}; wanted global_caption and shot1 .. shotN"
        )
    if "global_caption" not in others:
        raise ConfigError(f"{name}: no key global_caption; found {listed(others) or 'none'}")
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        raise ConfigError(
            f"{name}: got shot keys {listed(numbers) or 'none'}, wanted shot1, shot2, .. without "
            "a gap"
        )
    ignored = [k for k in others if k not in ("global_caption", "video_path")]
    if ignored:
        _log.warning("%s: ignored key(s) %s", printable(name), listed(ignored))


def _csv_row(path: Path, line: int, row: Mapping[str, str | None]) -> Story:
    where = f"{path}:{line}"
    cell = row["frame_number"] or ""
    try:
        pairs = [(int(start), int(end)) for start, end in ast.literal_eval(cell)]
    except (
        ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError
    ) as error:  # fmt: skip
        raise ConfigError(
            f"{where}: frame_number is {shown(cell)}, wanted a list of [start, end] pairs"
        ) from error
    if not pairs:
        raise ConfigError(f"{where}: frame_number lists no shots")
    if not row["json_path"]:
        raise ConfigError(f"{where}: json_path is empty, wanted the name of a story file")
    if printable(row["json_path"], _MAX_NAME) != row["json_path"]:
        raise ConfigError(
            f"{where}: json_path is {shown(row['json_path'])}, wanted the name of a story file, of "
            f"at most {_MAX_NAME} printable characters"
        )
    named = Path(row["json_path"])
    try:
        return Story.from_json(_beside(path, named) or named).first(len(pairs))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _beside(table: Path, named: Path) -> Path | None:
    """Return the file of that name in the table's folder, if there is one."""
    try:
        beside = table.parent / named
        return beside if beside.exists() else None
    except (OSError, ValueError):  # a name too long for a file, or one with a NUL in it
        return None
