"""What was measured on each film, as plain data that survives on disk.

Written by ``judge``, read by ``report``. One line of JSON a film, appended as it is finished, so
that an evaluation that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shotstream_rt.errors import ConfigError

from .cuts import CutCount
from .facts import CharacterFacts, ShotFacts

_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotRecord:
    """One shot.

    Attributes:
        facts: what was asked and seen.
        asked_action: what the characters should do.
        actions: what each character of the cast was seen doing, ``none`` if it was not seen.
        figures: measured numbers by name, see docs/evaluation.md.
    """

    facts: ShotFacts
    asked_action: str
    actions: tuple[str, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmRecord:
    """One film.

    Attributes:
        seed: of its story.
        shots: one record each.
        pairs: consistency over all pairs of shots, lists of numbers by name.
        cuts: found against asked.
        swap: use of the context, numbers by name; empty where it was not measured.
        made_s: seconds to make it.
        judged_s: seconds to measure it.
    """

    seed: int
    shots: tuple[ShotRecord, ...]
    pairs: Mapping[str, list[float]]
    cuts: CutCount
    swap: Mapping[str, Any] = field(default_factory=dict)
    made_s: float = 0.0
    judged_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FilmRecord:
        """Rebuild a record."""
        shots = tuple(
            ShotRecord(
                facts=ShotFacts(
                    place=shot["facts"]["place"],
                    time=shot["facts"]["time"],
                    framing=shot["facts"]["framing"],
                    characters=tuple(CharacterFacts(**c) for c in shot["facts"]["characters"]),
                ),
                asked_action=shot["asked_action"],
                actions=tuple(shot["actions"]),
                figures=shot["figures"],
            )
            for shot in data["shots"]
        )
        return cls(**{**data, "shots": shots, "cuts": CutCount(**data["cuts"])})


def fingerprint(*files: Path) -> str:
    """Return a short digest of files' contents."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_records(path: Path) -> tuple[dict[str, Any], dict[tuple[str, int], FilmRecord]]:
    """Read a file of records: its header, and the records by source and story seed.

    Raises:
        ConfigError: no such file, or not one of records.
    """
    if not path.is_file():
        raise ConfigError(f"records: {path}: no such file; write it with evaluate --records")
    lines = path.read_text("utf-8").splitlines()
    try:
        header = json.loads(lines[0]) if lines else None
    except json.JSONDecodeError as error:
        raise ConfigError(f"records: {path} does not begin with a header; move it") from error
    if not isinstance(header, dict) or header.get("version") != _VERSION:
        raise ConfigError(f"records: {path} begins with {header}, wanted version {_VERSION}")
    records = {}
    for line in lines[1:]:
        # A process that was stopped leaves half a line.
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            continue
        source = data.pop("source")
        records[source, data["seed"]] = FilmRecord.from_dict(data)
    return header, records


class RecordBook:
    """Finished records on disk, or in memory only.

    Args:
        path: file to append to, made if missing; ``None`` keeps nothing.
        identity: what the records belong to (model digest, shots, detector).

    Raises:
        ConfigError: the file belongs to something else.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._records: dict[tuple[str, int], FilmRecord] = {}
        if path is None:
            return
        header = {"version": _VERSION, **identity}
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n", "utf-8")
            return
        found, self._records = read_records(path)
        if found != header:
            raise ConfigError(
                f"records: {path} belongs to {found}, wanted {header}; name another file"
            )

    def get(self, source: str, seed: int) -> FilmRecord | None:
        """Return a finished record."""
        return self._records.get((source, seed))

    def add(self, source: str, record: FilmRecord) -> None:
        """Keep a record."""
        self._records[source, record.seed] = record
        if self._path is not None:
            text = json.dumps({"source": source, **record.as_dict()})
            with self._path.open("a", encoding="utf-8") as file:
                # A half-written line before this one must not run into it.
                file.write(text + "\n")
