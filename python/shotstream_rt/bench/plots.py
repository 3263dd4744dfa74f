"""Plots of one run: chunk time by position, stages, latencies, roofline, memory; cold starts.

Drawn with matplotlib, which only this file needs (``pip install shotstream_rt[bench]``); each plot
is written as PNG and as SVG.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotstream_rt.errors import ConfigError, OutputError

from .measurement import Measurement
from .record import BenchRecord
from .startup_run import StartupReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LATENCIES = ("first_frame_ms", "cut_ms", "prompt_ms", "chunk_ms")
_STAGES = ("text_encode_ms", "caption_kv_ms", "context_pass_ms", "step_ms", "commit_ms",
           "vae_encode_ms", "vae_decode_ms")  # fmt: skip
_OURS, _PLAIN, _FLOOR = "tab:blue", "tab:gray", "tab:green"


PICTURES = (".png", ".svg", ".pdf")
"""Endings of the pictures that can be drawn."""


def require_matplotlib() -> None:
    """Check before a long run that its plots can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "plots: matplotlib is not installed; pip install matplotlib, or leave out --plots"
        )


def draw(record: BenchRecord, measured: Measurement, folder: Path) -> list[Path]:
    """Draw every plot the samples allow.

    Args:
        record: for titles.
        measured: samples, baseline and roofline.
        folder: made if missing; files of the same name are replaced.

    Returns:
        The files written.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    from matplotlib.figure import Figure

    title = (
        f"{record.workload['id']}, {record.backend['resolved']} with "
        f"{record.backend['kernel_set']} kernels, {record.backend['dtype']}, profile "
        f"{record.backend['profile']}\n{record.hardware['gpu'] or record.hardware['cpu']}"
    )
    plots = {
        "chunks": _draw_chunks,
        "stages": _draw_stages,
        "latency": _draw_latency,
        "roofline": _draw_roofline,
        "memory": _draw_memory,
    }
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, plot in plots.items():
            figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
            axes = figure.add_subplot()
            if plot(axes, measured):
                axes.set_title(title, fontsize=9)
                for suffix in ("png", "svg"):
                    path = folder / f"{record.workload['id']}--{name}.{suffix}"
                    figure.savefig(path)
                    written.append(path)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write plots: {error}") from error
    return written


def draw_startup(report: StartupReport, path: Path) -> None:
    """Draw every cold start as a bar of its stages.

    Args:
        report: the starts.
        path: picture to write, in the format of its ending, one of ``PICTURES``; its folder is
            made.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    starts = len(report.totals)
    figure = Figure(figsize=(8, 1.6 + 0.5 * starts), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * starts
    for name, times in report.stages.items():
        bars = axes.barh(range(starts), times, left=left, label=name)
        wide = [f"{time:.2f}" if time > max(report.totals) / 20 else "" for time in times]
        axes.bar_label(bars, labels=wide, label_type="center", fontsize=8, color="white")
        left = [before + time for before, time in zip(left, times, strict=True)]
    for row, total in enumerate(left):
        axes.text(total, row, f" {total:.2f} s", va="center", fontsize=8)
    axes.set_yticks(range(starts), [f"start {row + 1}" for row in range(starts)])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds to the first chunk")
    axes.set_title(
        f"{report.model}, {report.info['backend']}, {report.info['dtype']}, caches "
        f"{'empty' if report.cold else 'as they are'}\n"
        f"{report.hardware['gpu'] or report.hardware['cpu']}",
        fontsize=9,
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write the picture: {error}") from error


def _draw_chunks(axes: Axes, measured: Measurement) -> bool:
    """Chunk time by position: spread and median, and the baseline's."""
    plain = {} if measured.baseline is None else measured.baseline.samples
    series = [(plain, _PLAIN, "plain baseline"), (measured.samples, _OURS, "measured")]
    drawn = [_draw_positions(axes, samples, colour, label) for samples, colour, label in series]
    if not any(drawn):
        return False
    axes.set_ylim(bottom=0)
    axes.set_xlabel("chunk of the shot")
    axes.set_ylabel("denoising, ms")
    if all(drawn):
        axes.legend()
    return True


def _draw_positions(
    axes: Axes, samples: Mapping[str, Sequence[float]], colour: str, label: str
) -> bool:
    positions = sorted(int(name.split(".")[1]) for name in samples if name.startswith("chunk_ms."))
    if not positions:
        return False
    rows: list[Any] = [samples[f"chunk_ms.{position}"] for position in positions]
    line = {"color": colour}
    boxes = axes.boxplot(
        rows, positions=positions, whis=(0, 100), widths=0.4, manage_ticks=False,
        boxprops=line, whiskerprops=line, capprops=line, medianprops=line,
    )  # fmt: skip
    medians: list[Any] = [box.get_ydata()[0] for box in boxes["medians"]]
    axes.plot(positions, medians, color=colour, linewidth=1, label=label)
    return True


def _draw_stages(axes: Axes, measured: Measurement) -> bool:
    """Total time of each stage over the run."""
    samples = measured.samples
    totals = {name: sum(samples[name]) / 1e3 for name in _STAGES if samples.get(name)}
    if not totals:
        return False
    names = list(totals)
    bars = axes.barh(range(len(names)), [totals[name] for name in names], color=_OURS)
    labels = [f"{totals[name]:.3g} s, {len(samples[name])} times" for name in names]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), [name.removesuffix("_ms") for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("seconds over the run (stages of different threads overlap)")
    return True


def _draw_latency(axes: Axes, measured: Measurement) -> bool:
    """Histograms of what a viewer waits for."""
    samples = measured.samples
    found = [name for name in _LATENCIES if samples.get(name)]
    if not found:
        return False
    values: list[Any] = [samples[name] for name in found]
    axes.hist(values, bins=30, label=[name.removesuffix("_ms") for name in found])
    axes.set_xlim(left=0)
    axes.set_xlabel("ms")
    axes.set_ylabel("samples")
    axes.legend()
    return True


def _draw_memory(axes: Axes, measured: Measurement) -> bool:
    """What a server held in every turn."""
    turns = [
        (kind, told)
        for kind, found in measured.notes.get("memory", {}).items()
        for told in found
        if told["mib"]
    ]
    if not turns:
        return False
    for kind, told in turns:
        times: list[Any] = [number * told["every_s"] for number in range(len(told["mib"]))]
        axes.plot(times, told["mib"], linewidth=1, label=kind)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.set_ylabel("resident memory of the server, MiB")
    if len(turns) > 1:
        axes.legend()
    return True


def _draw_roofline(axes: Axes, measured: Measurement) -> bool:
    """Rate of every stage over its FLOPs per byte, under the measured ceilings."""
    roofline = measured.roofline
    if roofline is None or not roofline.stages:
        return False
    ceilings, compute = roofline.ceilings, roofline.ceilings.gemm_tflops[roofline.dtype]
    intensities = [s.stage.flops / s.stage.nbytes for s in roofline.stages]
    ridge = compute * 1e3 / ceilings.copy_gbps
    low, high = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
    axes.plot(
        [low, ridge, high], [low * ceilings.copy_gbps / 1e3, compute, compute], color=_FLOOR,
        label=f"{ceilings.copy_gbps:.4g} GB/s, {compute:.4g} TFLOP/s {roofline.dtype}",
    )  # fmt: skip
    marks = "osD^vP*Xph<>d8H"
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for placed, intensity in zip(roofline.stages, intensities, strict=True):
        rate = placed.stage.flops / placed.measured_ms / 1e9
        stem = placed.stage.name.partition(",")[0]
        groups.setdefault(stem, []).append((intensity, rate, placed.percent))
    for index, (stem, points) in enumerate(groups.items()):
        x, y, percent = zip(*points, strict=True)
        told = " to ".join(dict.fromkeys(f"{p:.0f}" for p in (min(percent), max(percent))))
        axes.plot(x, y, marks[index % len(marks)], label=f"{stem}: {told} % of floor", markersize=6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOPs per byte that must move")
    axes.set_ylabel("TFLOP/s")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=7, loc="lower right")
    return True
