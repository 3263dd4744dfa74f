"""A report as lines of text, and an ablation as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHARES = ("place", "time", "framing", "species", "color", "accessory", "direction", "action")
_BY_SHOT = ("place", "time", "species", "color", "direction", "adherence")
_MEANS = ("intra_subject", "intra_background", "adherence", "clarity", "sharpness", "jitter",
          "latent_std", "subject_area", "position")  # fmt: skip


def _share(name: str, row: Mapping[str, float]) -> str:
    low, high = 100 * row["low"], 100 * row["high"]
    return f"  {name:20} {100 * row['value']:6.1f} %  [{low:.1f}, {high:.1f}]  n={row['n']:.0f}"


def _number(name: str, row: Mapping[str, float]) -> str:
    text = f"[{row['low']:.3f}, {row['high']:.3f}]  n={row['n']:.0f}"
    return f"  {name:20} {row['value']:8.3f}  {text}"


def _figures(title: str, figures: Mapping[str, Any]) -> list[str]:
    scores, means, cuts = figures["scores"], figures["means"], figures["cuts"]
    lines = [title]
    lines += [_share(name, scores[name]) for name in _SHARES if scores[name]["n"]]
    returns = figures["returns"]
    lines += [_share(f"returns {name}", row) for name, row in returns.items() if row["n"]]
    if cuts["accuracy"]["n"]:
        lines.append(_share("cut accuracy", cuts["accuracy"]))
        counts = cuts["counts"]
        lines.append(
            f"  {'cuts':20} {counts['hits']:.0f} found, {counts['missed']:.0f} missed, "
            f"{counts['false']:.0f} false"
        )
    lines += [_number(f"inter {name}", row) for name, row in figures["pairs"].items()]
    lines += [_number(name, means[name]) for name in _MEANS if name in means]
    lines.append(_share("dynamic", means["dynamic"]))
    lines.append(_share("dynamic as drawn", means["dynamic_right"]))
    return lines


def _against(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"divided by {found['file']}, {found['stories']} stories made by both; within 10 %: at "
        f"least {found['limit']}"
    ]
    return lines + [
        f"  {name:20} {row['value']:8.3f}  [{row['low']:.3f}, {row['high']:.3f}]  "
        f"{row['mine']:.3f} / {row['other']:.3f}  {row['within']}"
        for name, row in found["figures"].items()
    ]


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a whole report, overall first, then by shot, drift, context and ceilings."""
    stories, shots = report["stories"], report["shots"]
    lines = _figures(f"{report['model']}, {stories} held-out stories of {shots} shots", report)
    lines.append("by shot, %  " + "".join(f"{name:>12}" for name in _BY_SHOT))
    for index, row in enumerate(report["by_shot"]):
        cells = (
            f"{100 * row[name]['value']:12.1f}" if row[name]["n"] else f"{'-':>12}"
            for name in _BY_SHOT
        )
        lines.append(f"  {index + 1:<10}" + "".join(cells))
    lines += [
        f"  drift {name:14} {100 * row['value']:+6.1f} points "
        f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        for name, row in report["drift"].items()
    ]
    for kind in ("tint", "hue"):
        if kind in report:
            use = report[kind]
            parts = (
                f"{name} {use[name]:.2f} [{low:.2f}, {high:.2f}]"
                for name, (low, high) in use["intervals"].items()
            )
            lines.append(f"  {kind} r: " + ", ".join(parts) + f"  n={use['n']}")
    if "against" in report:
        lines += _against(report["against"])
    for name, figures in report.get("ceilings", {}).items():
        lines += _figures(f"ceiling: {name}", figures)
    seconds = report["seconds"]
    lines.append(
        f"a story took {seconds['made']:.1f} s to make, {seconds['judged']:.1f} s to measure"
    )
    return lines


def markdown_table(table: Mapping[str, Any]) -> str:
    """Return an ablation as Markdown: one line a variant, intervals in brackets."""
    names = list(table["columns"])
    lines = [
        "| variant | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in table["rows"]:
        cells = []
        for name in names:
            found = (row.get("figures") or {}).get(name)
            cells.append(
                f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else "-"
            )
        lines.append(f"| {row['variant']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
