"""Records and verdicts as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .compare import Verdict
from .fidelity import Fidelity
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
    if record.fidelity is not None:
        lines.append(_fidelity_line(record.fidelity))
    compared = any(metric.ratio is not None for metric in record.metrics)
    if record.metrics:
        columns = (*_STATISTICS, *(("baseline", "ratio", "best ratio") if compared else ()))
        wide = max(22, *(len(metric.name) + 1 for metric in record.metrics))
        lines.append(f"\n{'metric':{wide}}{'unit':>8}{'n':>6}" + _header(columns))
    for metric in record.metrics:
        values = "".join(f"{getattr(metric, name):>12.4g}" for name in _STATISTICS)
        for value in (metric.baseline_p50, metric.ratio, metric.best_ratio):
            values += "" if value is None else f"{value:>12.4g}"
        lines.append(f"{metric.name:{wide}}{metric.unit:>8}{metric.n:>6}{values}")
    if compared:
        lines.append(_baseline_line(method.get("baseline")))
    if record.roofline is not None:
        lines += ["", *_roofline_lines(record.roofline)]
    return "\n".join(lines)


def _baseline_line(baseline: Mapping[str, Any] | None) -> str:
    text = "baseline: plain eager torch in this run"
    if baseline is not None:
        text += f", attention by {baseline['attention']}"
        others = baseline["times_slower"].items()
        if others:
            slower = ", ".join(f"{name} took {ratio:.2f} times as long" for name, ratio in others)
            text += f" ({slower})"
    return f"{text}; ratio: of medians, and of the best"


def _fidelity_line(found: Fidelity) -> str:
    text = f"  fidelity to {found.reference}: latents rel_l2 {found.latents_rel_l2:.2e}"
    if found.frames:
        text += (
            f"; {found.frames} frames: PSNR {found.frames_psnr_db} dB, mean difference "
            f"{found.frames_mean_grey} grey levels, largest {found.frames_max_grey}"
        )
    return text


def _roofline_lines(roofline: Mapping[str, Any]) -> list[str]:
    ceilings = roofline["ceilings"]
    rates = ", ".join(f"{name} {rate:.4g}" for name, rate in ceilings["gemm_tflops"].items())
    lines = [
        f"ceilings measured here: copy {ceilings['copy_gbps']:.4g} GB/s, products in TFLOP/s: "
        f"{rates}; floors are for {roofline['dtype']}",
        f"{'stage':34}{'bound':>9}" + _header(("measured ms", "floor ms", "% of floor", "TFLOP/s")),
    ]
    for stage in roofline["stages"]:
        values = (stage["measured_ms"], stage["floor_ms"], stage["percent"], stage["tflops"])
        text = "".join(f"{value:>12.4g}" for value in values)
        lines.append(f"{stage['stage']:34}{stage['bound']:>9}{text}")
    return lines


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return one row per compared metric."""
    wide = max(22, *(len(verdict.metric) + 1 for verdict in verdicts), 0)
    lines = [f"{'workload':28}{'metric':{wide}}" + _header(("base", "new", "ratio", "accepted"))]
    for verdict in verdicts:
        if verdict.reason:
            lines.append(f"{verdict.workload:28}{verdict.metric:{wide}}{verdict.reason}")
            continue
        lines.append(
            f"{verdict.workload:28}{verdict.metric:{wide}}{verdict.base:>12.4g}{verdict.new:>12.4g}"
            f"{verdict.ratio:>12.3f}{'yes' if verdict.accepted else 'NO':>12}"
        )
    return "\n".join(lines)


_STATISTICS = ("min", "p50", "p95", "p99", "max")


def _header(names: Sequence[str]) -> str:
    return "".join(f"{name:>12}" for name in names)
