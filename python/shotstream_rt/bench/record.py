"""The record of one benchmark run: what was measured, on what, how, and whether it was right.

Written by the runner and by ``bench/``, read by ``compare.py``, the plots and people. Plain data;
it measures nothing itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from shotstream_rt.errors import ManifestError
from shotstream_rt.inputs import parse_json, read_text
from shotstream_rt.json_object import from_json
from shotstream_rt.outputs import atomic_file
from shotstream_rt.profiles import EXACT

from .fidelity import Fidelity
from .metric import Metric

SCHEMA_VERSION = 1
_MAX_RECORD_BYTES = 64 << 20
_REQUIRED = {"workload": ("id", "fingerprint"), "backend": ("resolved", "kernel_set")}
"""What comparing reads of a record's free parts."""

Status = Literal["ok", "incorrect", "oom", "unsupported", "error", "not checked"]
STATUSES: tuple[Status, ...] = ("ok", "incorrect", "oom", "unsupported", "error", "not checked")

_CHECKED: tuple[Status, ...] = ("ok", "incorrect")
"""What the correctness check says; any other status means that it did not come to an end."""

HEADLINE_STATISTICS = {
    "shot_s": "min",
    "denoise_fps": "max",
    "denoise_no_commit_fps": "max",
    "e2e_fps": "p50",
    "first_frame_ms": "p50",
    "cut_ms": "p50",
    "prompt_ms": "p50",
}
"""Metrics that are repeated flat beside a printed record, and which of their statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correctness:
    """Distance of what was measured to its oracle.

    Attributes:
        reference: what it was compared with.
        rel_l2: norm of the difference over the norm of the reference.
        max_abs_err: largest absolute difference.
        psnr_db: peak signal-to-noise ratio over the reference's range.
        tolerance: largest ``rel_l2`` that passes.
        passed: whether it did.
    """

    reference: str
    rel_l2: float
    max_abs_err: float
    psnr_db: float
    tolerance: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecord:
    """One run. Metrics are there only when the correctness check passed.

    Attributes:
        workload: ``id``, ``version`` and ``fingerprint`` of the declared recipe.
        backend: ``requested``, ``resolved``, ``kernels``, ``lora`` and ``ema`` (where asked for),
            ``kernel_set``, ``dtype``, ``profile``, ``device``.
        git: ``commit`` and ``dirty``; nulls outside a checkout.
        hardware: see ``hardware.describe_hardware``.
        software: versions, null where absent.
        method: ``command``, ``timer``, ``warmup``, ``repeats``, ``l2``, ``consumer``, ``threads``
            and the load of the machine before the run; ``quick`` if the check was the quick one;
            ``baseline``: see ``baseline.Baseline``, if it was asked for; of an interactive run
            ``flush``, ``kinds``, ``queue_chunks``, ``reader_fps`` and ``asks_too_late``; of a
            server ``films`` (which played and which waited) and ``memory`` (what it held every
            ``every_s`` seconds, in MiB), both by kind of turn, and ``errors`` (of players).
        status: ``ok``, ``incorrect``, ``oom``, ``unsupported``, ``error`` or ``not checked``
            (measured, and the correctness check is still to come, or was cut short).
        message: one line when the status is not ``ok``, else empty.
        correctness: null when the run did not get that far.
        metrics: statistics by name.
        fidelity: distance of a lossy profile to ``exact``; null for ``exact`` itself.
        roofline: see ``roofline.Roofline``; null where it was not asked for.
        unchecked: medians by name while the status is ``not checked``, so that a run that is cut
            short leaves its figures; they are not to be quoted or compared.
        schema_version: of this layout.
    """

    workload: Mapping[str, Any]
    backend: Mapping[str, Any]
    git: Mapping[str, Any]
    hardware: Mapping[str, Any]
    software: Mapping[str, Any]
    method: Mapping[str, Any]
    status: Status
    message: str = ""
    correctness: Correctness | None = None
    metrics: tuple[Metric, ...] = ()
    fidelity: Fidelity | None = None
    roofline: Mapping[str, Any] | None = None
    unchecked: Mapping[str, float] | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ManifestError(f"status: got {self.status!r}, wanted {', '.join(STATUSES)}")
        passed = self.correctness is not None and self.correctness.passed
        if self.metrics and not (passed and self.status == "ok"):
            raise ManifestError(
                f"metrics: got {len(self.metrics)} with status {self.status!r} and correctness "
                f"{'passed' if passed else 'not passed'}, wanted none: a figure without passed "
                "correctness is no figure"
            )
        if self.unchecked is not None and self.status != "not checked":
            raise ManifestError(
                f"unchecked: got {len(self.unchecked)} medians with status {self.status!r}, wanted "
                "none: they are for status 'not checked' alone"
            )

    def metric(self, name: str) -> Metric | None:
        """Return a metric by name, if the record has it."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def headline(self) -> dict[str, float]:
        """Return the main figures flat: ``HEADLINE_STATISTICS`` of those that were measured."""
        found = ((name, self.metric(name), how) for name, how in HEADLINE_STATISTICS.items())
        return {name: getattr(metric, how) for name, metric, how in found if metric is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        data = dataclasses.asdict(self)
        data["metrics"] = [metric.to_dict() for metric in self.metrics]
        return {"schema_version": data.pop("schema_version"), **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BenchRecord:
        """Build from a JSON object; flat headline figures beside the record are ignored.

        Raises:
            ManifestError: another version, or a key that is missing, unknown or of a wrong kind.
        """
        if not isinstance(data, Mapping):
            raise ManifestError(f"bench record: got {type(data).__name__}, wanted a JSON object")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ManifestError(
                f"schema_version: got {version!r}, wanted {SCHEMA_VERSION}; run the bench again"
            )
        values = {key: value for key, value in data.items() if key not in HEADLINE_STATISTICS}
        record = from_json(cls, values, "bench record")
        for metric in record.metrics:
            for statistic in ("min", "p50", "p95", "p99", "max"):
                if not math.isfinite(getattr(metric, statistic)):
                    raise ManifestError(f"{metric.name}: {statistic} is no finite number")
        for part, keys in _REQUIRED.items():
            for key in keys:
                if not isinstance(getattr(record, part).get(key), str | NoneType):
                    raise ManifestError(f"{part}: {key} is no text")
        if record.workload.get("id") is None:
            raise ManifestError("workload: got no id, wanted the name of a workload")
        return record


def read_record(path: str | Path) -> BenchRecord:
    """Read a record: a JSON file, or saved output whose last line is one.

    Raises:
        ManifestError: not a record of this version.
    """
    text = read_text(
        Path(path), limit_bytes=_MAX_RECORD_BYTES, what="bench record", error=ManifestError
    ).strip()
    if not text:
        raise ManifestError(f"{path}: cannot be read as a bench record: it is empty")
    data = parse_json(text if text.startswith("{") else text.splitlines()[-1], path, ManifestError)
    try:
        return BenchRecord.from_dict(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def write_record(record: BenchRecord, path: str | Path) -> Path:
    """Write a record atomically; a folder gets ``WORKLOAD--BACKEND-DTYPE.json``.

    A lossy profile's name and kernels asked for are added, so that such a record never takes the
    place of another one. A record that is not checked yet goes to ``NAME.unchecked.json`` beside it
    and is removed when the one with the check's verdict is written.

    Raises:
        OutputError: the file cannot be written; nothing half-written is left behind.
    """
    path = _record_path(record, Path(path))
    unchecked = path.with_name(f"{path.stem}.unchecked.json")
    target = unchecked if record.status == "not checked" else path
    with atomic_file(target) as part:
        part.write_text(json.dumps(record.to_dict(), indent=2) + "\n", "utf-8")
    if record.status in _CHECKED:
        unchecked.unlink(missing_ok=True)
    return target


def _record_path(record: BenchRecord, path: Path) -> Path:
    if not path.is_dir():
        return path
    backend = record.backend
    profile = backend.get("profile")
    parts = (
        backend.get("resolved") or backend.get("requested"),
        backend.get("dtype"),
        backend.get("kernels"),
        None if profile == EXACT.name else profile,
    )
    stem = "-".join(str(part) for part in parts if part)
    return path / f"{record.workload['id']}--{stem}.json"
