"""Plots of one run: chunk time by position, stages of a shot, latencies.

Drawn with matplotlib, which only this file needs (``pip install shotstream_rt[bench]``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotstream_rt.errors import ConfigError, OutputError

from .record import BenchRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LATENCIES = ("first_frame_ms", "cut_ms", "prompt_ms", "chunk_ms")
_STAGES = ("context_encode_ms", "caption_kv_ms", "step_ms", "commit_ms", "vae_encode_ms",
           "vae_decode_ms", "queue_wait_ms")  # fmt: skip


def require_matplotlib() -> None:
    """Check before a long run that its plots can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "plots: matplotlib is not installed; pip install matplotlib, or leave out --plots"
        )


def draw(record: BenchRecord, samples: Mapping[str, Sequence[float]], folder: Path) -> list[Path]:
    """Draw every plot the samples allow.

    Args:
        record: for titles.
        samples: by metric name.
        folder: made if missing; files of the same name are replaced.

    Returns:
        The PNG files written.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    from matplotlib.figure import Figure

    title = (
        f"{record.workload['id']}, {record.backend['kernel_set']} kernels, "
        f"{record.backend['dtype']}, {record.hardware['gpu'] or record.hardware['cpu']}"
    )
    plots = {
        "chunks": _draw_chunks,
        "stages": _draw_stages,
        "latency": _draw_latency,
    }
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, plot in plots.items():
            figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
            axes = figure.add_subplot()
            if plot(axes, samples):
                axes.set_title(title, fontsize=9)
                path = folder / f"{record.workload['id']}--{name}.png"
                figure.savefig(path)
                written.append(path)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write plots: {error}") from error
    return written


def _draw_chunks(axes: Axes, samples: Mapping[str, Sequence[float]]) -> bool:
    """Chunk time by position: every sample, and the line of medians."""
    positions = sorted(int(name.split(".")[1]) for name in samples if name.startswith("chunk_ms."))
    if not positions:
        return False
    rows: list[Any] = [samples[f"chunk_ms.{position}"] for position in positions]
    axes.boxplot(rows, positions=positions, whis=(0, 100), widths=0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("chunk of the shot")
    axes.set_ylabel("denoising, ms")
    return True


def _draw_stages(axes: Axes, samples: Mapping[str, Sequence[float]]) -> bool:
    """Total time of each stage over the run."""
    totals = {name: sum(samples[name]) / 1e3 for name in _STAGES if samples.get(name)}
    if not totals:
        return False
    names = list(totals)
    bars = axes.barh(range(len(names)), [totals[name] for name in names])
    labels = [f"{totals[name]:.3g} s, {len(samples[name])} times" for name in names]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), [name.removesuffix("_ms") for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("seconds over the run (stages of different threads overlap)")
    return True


def _draw_latency(axes: Axes, samples: Mapping[str, Sequence[float]]) -> bool:
    """Histogram of what a viewer waits for."""
    found = [name for name in _LATENCIES if samples.get(name)]
    if not found:
        return False
    values: list[Any] = [samples[name] for name in found]
    axes.hist(values, bins=30, label=[name.removesuffix("_ms") for name in found])
    axes.set_xlabel("ms")
    axes.set_ylabel("samples")
    axes.legend()
    return True
