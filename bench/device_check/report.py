"""What a run leaves behind, and what the next one goes on from: three files in one folder.

``report.json`` has the device, the digest of the sources and every part's outcome, ``records.json``
every record of a bench by ``PART/NAME``, ``log.txt`` the output of all parts. Few files, for they
have to be carried from machine to machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .part import ROOT, Outcome

FILES = ("report.json", "records.json", "log.txt")

_FOLDERS = ("bench", "export", "kernels", "python", "runtime", "tests")
_TOP_FILES = ("CMakeLists.txt", "pyproject.toml", "setup.py")
_SUFFIXES = (".cpp", ".h", ".ini", ".json", ".py", ".pyi")
_NO_SOURCES = ROOT / "bench" / "results"

_LOG_CHARACTERS = 120_000
"""Kept of a part's log: its end."""

_HEADLINES = (
    "e2e_fps", "steady_fps", "denoise_fps", "denoise_no_commit_fps", "worst_chunk_fps",
    "first_frame_ms", "cut_ms", "shot_s", "kernel_ms", "floor_percent",
)  # fmt: skip


class ReportError(Exception):
    """A report that cannot be gone on from, with the reason."""


def source_digest(root: Path = ROOT) -> str:
    """Return a digest of all sources; equal in two checkouts that would run the same code."""
    paths = [root / name for name in _TOP_FILES]
    for folder in _FOLDERS:
        paths += sorted((root / folder).rglob("*"))
    digest = hashlib.sha256()
    for path in paths:
        if path.name not in _TOP_FILES and path.suffix not in _SUFFIXES:
            continue
        if path.is_file() and _NO_SOURCES not in path.parents:
            text = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


@dataclass(slots=True, kw_only=True)
class Report:
    """A run so far.

    Attributes:
        out: folder of the three files.
        sources: see ``source_digest``.
        device: what ``gpu.discover`` said; None before.
        outcomes: by part, in the order in which they came.
        records: by ``PART/NAME``.
        stopped: why the run ended before its time; empty if it did not.
        logs: text of ``log.txt`` by parts of earlier calls.
    """

    out: Path
    sources: str
    device: Mapping[str, Any] | str | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    logs: dict[str, str] = field(default_factory=dict)
    _seen: dict[Path, int] = field(default_factory=dict)

    def add(self, outcome: Outcome, work: Path) -> None:
        """Take in a part's outcome, its log and its records, and write everything.

        A part that was left keeps what an earlier call says of it.
        """
        if outcome.verdict == "left":
            self.outcomes.setdefault(outcome.name, outcome)
        else:
            self._read_records(work)
            figures = figures_of(self.records, outcome.name)
            self.outcomes[outcome.name] = replace(outcome, figures=figures)
            log = work / f"{outcome.name}.log"
            text = log.read_text("utf-8", "replace") if log.is_file() else outcome.detail
            self.logs[outcome.name] = (
                f"===== {outcome.name}: {outcome.verdict}\n{text[-_LOG_CHARACTERS:]}\n"
            )
        self.write()

    def look(self, work: Path) -> None:
        """Take in records of a part that is still running, in case it is this run's last."""
        if self._read_records(work):
            self.write()

    def write(self) -> None:
        """Write the three files, each whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        report = {
            "schema_version": 1,
            "sources": self.sources,
            "device": self.device,
            "stopped": self.stopped,
            "parts": [asdict(outcome) for outcome in self.outcomes.values()],
        }
        _replace(self.out / "report.json", json.dumps(report, indent=2) + "\n")
        _replace(self.out / "records.json", json.dumps(self.records, indent=1) + "\n")
        _replace(self.out / "log.txt", "\n".join(self.logs.values()))

    def _read_records(self, work: Path) -> bool:
        """Read records that are new; they are written whole, so none is half there."""
        changed = False
        folder = work / "records"
        for path in sorted(folder.glob("*/*.json")):
            if path.name.startswith("."):
                continue  # being written
            try:
                modified_ns = path.stat().st_mtime_ns
                if self._seen.get(path) == modified_ns:
                    continue
                record = json.loads(path.read_text("utf-8"))
            except FileNotFoundError:
                continue  # an unchecked record, whose check has just ended
            self._seen[path] = modified_ns
            key = f"{path.parent.name}/{path.stem}"
            self.records[key] = record
            if record.get("status") in ("ok", "incorrect"):
                self.records.pop(f"{key}.unchecked", None)
            changed = True
        return changed


def figures_of(records: Mapping[str, Any], part: str) -> dict[str, float | str]:
    """Return a part's main figures, with ``status`` where a record is not ``ok``."""
    figures: dict[str, float | str] = {}
    mine = {key.partition("/")[2]: data for key, data in records.items()
            if key.startswith(f"{part}/")}  # fmt: skip
    for name, record in mine.items():
        prefix = f"{name} " if len(mine) > 1 else ""
        for metric in record.get("metrics", ()):
            if metric["name"] in _HEADLINES:
                figures[prefix + metric["name"]] = metric["p50"]
                if metric.get("ratio") is not None:
                    figures[f"{prefix}{metric['name']}.ratio"] = metric["ratio"]
        baseline = record.get("method", {}).get("baseline")
        if baseline is not None:
            figures[f"{prefix}baseline"] = baseline["attention"]
        if record.get("status", "ok") != "ok":
            figures[f"{prefix}status"] = record["status"]
            for metric_name, value in (record.get("unchecked") or {}).items():
                if metric_name.removesuffix(".ratio") in _HEADLINES:
                    figures[prefix + metric_name] = value
    return figures


def read_report(folder: Path, out: Path, sources: str) -> Report:
    """Return the report of an earlier call, to go on with.

    Args:
        folder: of the earlier call.
        out: of this one.
        sources: digest of the checkout's sources.

    Raises:
        ReportError: there is none, it cannot be read, or it is of other sources.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise ReportError(f"{path}: not there; leave out --resume, or name the folder that has it")
    try:
        data = json.loads(path.read_text("utf-8"))
        outcomes = {part["name"]: Outcome(**part) for part in data["parts"]}
        records = json.loads((folder / "records.json").read_text("utf-8"))
        log = (folder / "log.txt").read_text("utf-8")
        theirs, device = data["sources"], data["device"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path}: cannot be read as a report: {error!r}") from error
    if theirs != sources:
        raise ReportError(
            f"{path}: of other sources: got {theirs}, wanted {sources} of this checkout; check out "
            "those, or begin anew in another folder"
        )
    logs = {"": log} if log else {}
    return Report(
        out=out, sources=sources, device=device, outcomes=outcomes, records=records, logs=logs
    )


def unpack(records: Path, folder: Path) -> list[Path]:
    """Write every record of a ``records.json`` to ``folder/PART/NAME.json``."""
    written = []
    for name, record in json.loads(records.read_text("utf-8")).items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(record, indent=2) + "\n")
        written.append(path)
    return written


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
