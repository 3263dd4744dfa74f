"""Draws an evaluation's figures: by shot, overall, and an ablation's table.

The only file of this package that imports matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no window system is needed, nor looked for

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_SHARES = ("place", "time", "framing", "species", "color", "accessory", "direction", "action")
_MEANS = ("intra_subject", "intra_background", "adherence", "clarity")
_QUALITY = ("jitter", "sharpness", "latent_std", "subject_area")
_GOALS = {"place": 0.95, "species": 0.80, "color": 0.90, "direction": 0.75}
_COLORS = {"model": "#2b6cb0", "drawn": "#718096", "codec": "#c05621"}
_DOTS_PER_INCH = 110


def _whisker(axes: Axes, x: float, row: Mapping[str, float], color: str, label: str = "") -> None:
    down, up = row["value"] - row["low"], row["high"] - row["value"]
    axes.errorbar(
        [x], [row["value"]], yerr=[[max(down, 0)], [max(up, 0)]], fmt="o", color=color,
        capsize=3, markersize=5, label=label or None,
    )  # fmt: skip


def _by_shot(axes: Axes, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        there = [(i + 1, row[name]) for i, row in enumerate(rows) if row.get(name, {}).get("n")]
        shift = (number - len(names) / 2) * 0.05
        x = [i + shift for i, _ in there]
        y = [row["value"] for _, row in there]
        errors = [
            [max(row["value"] - row["low"], 0) for _, row in there],
            [max(row["high"] - row["value"], 0) for _, row in there],
        ]
        axes.errorbar(x, y, yerr=errors, marker="o", capsize=2, label=name, linewidth=1.4)
    axes.set_xticks(range(1, len(rows) + 1))
    axes.set_xlabel("shot")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _sources(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"model": report, **report.get("ceilings", {})}


def _overall(axes: Axes, report: Mapping[str, Any]) -> None:
    names = [name for name in _SHARES if report["scores"].get(name, {}).get("n")]
    for shift, (source, figures) in enumerate(_sources(report).items()):
        for x, name in enumerate(names):
            label = source if x == 0 else ""
            _whisker(axes, x + 0.18 * shift, figures["scores"][name], _COLORS[source], label)
    for x, name in enumerate(names):
        if name in _GOALS:
            axes.hlines(_GOALS[name], x - 0.2, x + 0.55, colors="#38a169", linestyles="dashed")
    axes.set_xticks([x + 0.18 for x in range(len(names))], names, rotation=20)
    axes.set_title("asked for and seen (dashed: goals)", fontsize=10)
    axes.grid(alpha=0.25, axis="y")
    axes.legend(fontsize=8, loc="lower left")


def _consistency(axes: Axes, report: Mapping[str, Any]) -> None:
    names = ["intra subject", "intra background", "inter subject", "inter background",
             "inter semantic", "cuts", "returns right"]  # fmt: skip
    for shift, (source, figures) in enumerate(_sources(report).items()):
        means, pairs = figures["means"], figures["pairs"]
        rows = [means.get("intra_subject"), means.get("intra_background"), pairs.get("subject"),
                pairs.get("background"), pairs.get("semantic"), figures["cuts"]["accuracy"],
                figures["returns"]["right"]]  # fmt: skip
        for x, row in enumerate(rows):
            if row:
                _whisker(axes, x + 0.18 * shift, row, _COLORS[source], source if x == 0 else "")
    axes.set_xticks([x + 0.18 for x in range(len(names))], names, rotation=20)
    axes.set_title("consistency", fontsize=10)
    axes.grid(alpha=0.25, axis="y")
    axes.legend(fontsize=8, loc="lower left")


def plot_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw ``overall.png`` and ``by_shot.png``; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{report['model']}: {report['stories']} held-out stories of {report['shots']} shots"
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5), constrained_layout=True)
    figure.suptitle(title)
    _overall(left, report)
    _consistency(right, report)
    paths = [folder / "overall.png", folder / "by_shot.png"]
    figure.savefig(paths[0], dpi=_DOTS_PER_INCH)
    plt.close(figure)
    figure, panels = plt.subplots(1, 3, figsize=(16, 5), constrained_layout=True)
    figure.suptitle(f"{title}, by shot (95 % intervals)")
    for axes, names in zip(panels, (_SHARES, _MEANS, _QUALITY), strict=True):
        _by_shot(axes, report["by_shot"], names)
    panels[2].axhline(1, color="#a0aec0", linewidth=1)
    panels[2].set_title("1 = as drawn", fontsize=10)
    figure.savefig(paths[1], dpi=_DOTS_PER_INCH)
    plt.close(figure)
    return paths


def plot_table(table: Mapping[str, Any], path: Path) -> None:
    """Draw an ablation: one panel a figure, one point with its interval a variant."""
    names = list(table["columns"])
    variants = [row for row in table["rows"] if row.get("figures")]
    columns = 4
    lines = -(-len(names) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(16, 2.9 * lines), constrained_layout=True, squeeze=False
    )
    figure.suptitle(f"{table['title']}, {table['minutes']:g} minutes a variant")
    for number, axes in enumerate(panels.flat):
        if number >= len(names):
            axes.axis("off")
            continue
        for y, row in enumerate(variants):
            found = row["figures"].get(names[number])
            if found:
                low, high = found["value"] - found["low"], found["high"] - found["value"]
                axes.errorbar(
                    [found["value"]], [y], xerr=[[max(low, 0)], [max(high, 0)]], fmt="o",
                    color=_COLORS["model"], capsize=3,
                )  # fmt: skip
        axes.set_yticks(range(len(variants)), [row["variant"] for row in variants], fontsize=8)
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.set_title(names[number], fontsize=10)
        axes.grid(alpha=0.25, axis="x")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    plt.close(figure)
