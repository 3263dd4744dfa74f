"""Records and verdicts as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from .compare import Verdict
from .record import BenchRecord


def record_table(record: BenchRecord) -> str:
    """Return a record as a few lines and one row per metric."""
    backend, hardware, method = record.backend, record.hardware, record.method
    lines = [
        f"{record.workload['id']} (fingerprint {record.workload['fingerprint']})",
        f"  {backend['resolved']} backend, {backend['kernel_set']} kernels, {backend['dtype']}, "
        f"{method['threads']} thread(s)",
        f"  {hardware['gpu'] or hardware['cpu']}, {hardware['cores']} core(s) usable, "
        f"load {method['load_before']} before",
    ]
    if record.correctness is not None:
        found = record.correctness
        verdict = "passed" if found.passed else "NOT PASSED"
        lines.append(
            f"  correctness {verdict}: rel_l2 {found.rel_l2:.2e} (<= {found.tolerance:g}) to "
            f"{found.reference}"
        )
    if record.status != "ok":
        lines.append(f"  {record.status}: {record.message}")
    if record.metrics:
        lines.append(f"\n{'metric':22}{'unit':>8}{'n':>6}" + _header(_STATISTICS))
    for metric in record.metrics:
        values = "".join(f"{getattr(metric, name):>12.4g}" for name in _STATISTICS)
        lines.append(f"{metric.name:22}{metric.unit:>8}{metric.n:>6}{values}")
    return "\n".join(lines)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return one row per compared metric."""
    lines = [f"{'workload':28}{'metric':22}" + _header(("base", "new", "ratio", "accepted"))]
    for verdict in verdicts:
        if verdict.reason:
            lines.append(f"{verdict.workload:28}{verdict.metric:22}{verdict.reason}")
            continue
        lines.append(
            f"{verdict.workload:28}{verdict.metric:22}{verdict.base:>12.4g}{verdict.new:>12.4g}"
            f"{verdict.ratio:>12.3f}{'yes' if verdict.accepted else 'NO':>12}"
        )
    return "\n".join(lines)


_STATISTICS = ("min", "p50", "p95", "p99", "max")


def _header(names: Sequence[str]) -> str:
    return "".join(f"{name:>12}" for name in names)
