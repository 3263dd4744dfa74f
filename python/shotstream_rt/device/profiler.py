"""Profilers switched on and off by the program that they look at.

Between the CUDA profiler's start and stop calls ``nsys --capture-range=cudaProfilerApi`` and
``ncu --profile-from-start off`` look; torch's own profiler writes a timeline on any machine. Used
by ``bench profile`` and, for a running session, by ``film/capture.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import OutputError


@contextmanager
def profiled(device: torch.device, trace: Path | None) -> Iterator[None]:
    """Mark what is enclosed for profilers, or write its timeline; may end on another thread.

    Args:
        device: a CPU has no profiler to tell, so that without ``trace`` nothing happens there.
        trace: file for the timeline of torch's profiler; its folder is made.

    Raises:
        OutputError: the trace cannot be written.
    """
    on_gpu = device.type == "cuda"
    if trace is not None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
        # A session works in threads of its own.
        every = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        with torch.profiler.profile(activities=kinds, experimental_config=every) as profiler:
            yield
        try:
            trace.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(trace))
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{trace}: cannot write the timeline: {error}") from error
        return
    if not on_gpu:
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.cudart().cudaProfilerStart()
    yield
    torch.cuda.synchronize(device)
    torch.cuda.cudart().cudaProfilerStop()
