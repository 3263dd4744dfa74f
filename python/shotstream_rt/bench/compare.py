"""Compares records with their baselines."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream_rt.checks import check_one_of
from shotstream_rt.errors import ConfigError, ManifestError
from shotstream_rt.printable import shown
from shotstream_rt.terminal import CommandParser

from .metric import Metric
from .record import BenchRecord, read_record
from .workloads import DEFAULT_TOLERANCE, bundled_workloads

STATISTICS = ("min", "p50", "p95", "p99", "max")


def compare_parser() -> argparse.ArgumentParser:
    """Return the parser of ``compare``."""
    out = CommandParser(
        prog="python -m shotstream_rt.bench compare",
        description="Compare two records, or two folders of records, metric by metric; exit code "
        "1 when one got worse by more than the workload's tolerance.",
    )
    out.add_argument("base", help="the record before, or a folder")
    out.add_argument("new", help="the record after, or a folder")
    out.add_argument(
        "--tolerance", type=float, metavar="RATIO",
        help="accept up to this ratio for every metric, such as 1.1 (default: the workload's own)",
    )  # fmt: skip
    out.add_argument(
        "--statistic", choices=STATISTICS, default="p50",
        help="which statistic decides (default p50)",
    )  # fmt: skip
    out.add_argument("--json", action="store_true", help="print the verdicts as one JSON line")
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One metric before and after.

    Attributes:
        workload: id.
        metric: name, or ``-`` when the records as wholes cannot be compared.
        base: the statistic before; 0 when there is none.
        new: the statistic after; 0 when there is none.
        ratio: how many times worse the new one is; below 1 is better.
        accepted: whether that is within tolerance.
        reason: why it is not accepted, when it is not a matter of the ratio.
    """

    workload: str
    metric: str
    base: float = 0.0
    new: float = 0.0
    ratio: float = 1.0
    accepted: bool
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


def compare_paths(
    base: str | Path,
    new: str | Path,
    *,
    tolerance: float | None = None,
    statistic: str = "p50",
) -> list[Verdict]:
    """Compare two record files, or the records of equal name in two folders.

    Args:
        base: before.
        new: after.
        tolerance: largest accepted ratio, at least 1; default: the workload's own.
        statistic: which statistic decides.

    Raises:
        ConfigError: a file against a folder, two folders without a common name, a tolerance below
            1, or a statistic that there is not.
        ManifestError: a file is no record, or the records are of different workloads.
    """
    if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance >= 1):
        raise ConfigError(f"tolerance: got {shown(tolerance)}, wanted a ratio >= 1, such as 1.1")
    check_one_of("statistic", statistic, STATISTICS)
    base, new = Path(base), Path(new)
    if base.is_dir() != new.is_dir():
        raise ConfigError(f"compare: got {base} and {new}, wanted two files or two folders")
    pairs = [(base, new)]
    if base.is_dir():
        names = sorted(path.name for path in base.glob("*.json") if (new / path.name).is_file())
        pairs = [(base / name, new / name) for name in names]
        if not pairs:
            raise ConfigError(f"compare: {base} and {new} have no record of equal name")
    return [
        verdict
        for old_path, new_path in pairs
        for verdict in compare_records(
            read_record(old_path), read_record(new_path), tolerance=tolerance, statistic=statistic
        )
    ]


def compare_records(
    base: BenchRecord,
    new: BenchRecord,
    *,
    tolerance: float | None = None,
    statistic: str = "p50",
) -> Iterator[Verdict]:
    """Yield one verdict per metric of ``base``; see ``compare_paths``.

    A run that is not ``ok`` on either side, a metric that is gone, and a backend that resolved to
    something else than before are not accepted, whatever the figures.

    Args:
        base: the record before.
        new: the record after.
        tolerance: largest accepted ratio, at least 1; default: the workload's own.
        statistic: which statistic decides.

    Raises:
        ManifestError: the records are of different workloads.
    """
    name = str(base.workload["id"])
    if base.workload.get("fingerprint") != new.workload.get("fingerprint"):
        raise ManifestError(
            f"fingerprint: got {new.workload['id']} {new.workload.get('fingerprint')}, wanted "
            f"{name} {base.workload.get('fingerprint')}: other recipe or options, so figures do "
            "not compare"
        )
    resolved = [(r.backend.get("resolved"), r.backend.get("kernel_set")) for r in (base, new)]
    for which, record in (("base", base), ("new", new)):
        if record.status != "ok":
            reason = f"{which} run is {record.status}: {record.message}"
            yield Verdict(workload=name, metric="-", accepted=False, reason=reason)
            return
    if resolved[0] != resolved[1]:
        reason = f"resolved to {resolved[1]}, before to {resolved[0]}"
        yield Verdict(workload=name, metric="-", accepted=False, reason=reason)
    for before in base.metrics:
        after = new.metric(before.name)
        if after is None:
            yield Verdict(workload=name, metric=before.name, accepted=False, reason="not measured")
            continue
        limit = tolerance if tolerance is not None else _tolerance(name, before.name)
        yield _judge(name, before, after, limit, statistic)


def _judge(name: str, before: Metric, after: Metric, limit: float, statistic: str) -> Verdict:
    old, new = getattr(before, statistic), getattr(after, statistic)
    worse, better = (old, new) if before.higher_is_better else (new, old)
    # A time of zero (a queue that never waited) has no ratio: 1 unless the other one differs.
    ratio = worse / better if better > 0 else (1.0 if worse == better else float(limit) + 1)
    return Verdict(
        workload=name, metric=before.name, base=old, new=new, ratio=ratio, accepted=ratio <= limit
    )


def _tolerance(workload: str, metric: str) -> float:
    declared = bundled_workloads().get(workload)
    return DEFAULT_TOLERANCE if declared is None else declared.tolerance_of(metric)
