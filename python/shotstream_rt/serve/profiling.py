"""A look at a running server: for some seconds, with a profiler or without."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import torch

from ..device.profiler import profiled
from ..film.stats import resident_bytes
from .films import Films
from .problems import FullError, ServeError

MOST_S = 10
"""Longest look in seconds: a timeline of more is too large for the programs that show it."""


class Profiler:
    """Looks at the films of a server, one look at a time.

    Args:
        films: of the server.
    """

    def __init__(self, films: Films) -> None:
        self._films = films
        self._looking = asyncio.Lock()

    async def look(self, seconds: float, timeline: Path | None = None) -> dict[str, Any]:
        """Wait, and return what happened meanwhile.

        On a GPU the CUDA profiler's range is open, so that ``nsys --capture-range=cudaProfilerApi``
        sees these seconds alone.

        Args:
            seconds: how long.
            timeline: file for the timeline of torch's profiler, which slows the films down.

        Returns:
            JSON values: for every film what it made in this time, and how long its stages take.

        Raises:
            FullError: somebody else is looking.
            NoModelError: the model cannot be loaded.
            ServeError: another profiler runs in this process.
        """
        if self._looking.locked():
            raise FullError("profile: somebody else is looking; ask again when that is over")
        async with self._looking:
            device = (await self._films.model.get()).device
            look = profiled(device, timeline)
            before = {film.id: film.stats().frames for film in self._films.all()}
            begun_s = time.monotonic()
            try:
                await asyncio.to_thread(look.__enter__)
            except RuntimeError as error:
                raise ServeError("profile: another profiler runs in this process") from error
            try:
                await asyncio.sleep(seconds)
            finally:
                looked_s = time.monotonic() - begun_s
                told = [self._film(film, before.get(film.id, 0)) for film in self._films.all()]
                await asyncio.to_thread(look.__exit__, None, None, None)
        on_gpu = device.type == "cuda"
        return {
            "seconds": round(looked_s, 3),
            "device": str(device),
            "memory_bytes": resident_bytes(),
            "device_memory_bytes": torch.cuda.memory_reserved(device) if on_gpu else None,
            "sessions": told,
        }

    def _film(self, film: Any, frames_before: int) -> dict[str, Any]:
        """Return what became of a film meanwhile; prompts are left out."""
        stats = film.stats()
        stages = {k: v for k, v in film.times.items() if k.endswith("_ms")}
        return {
            "id": film.id,
            "frames": stats.frames - frames_before,
            "play_ratio": stats.play_ratio,
            "state": stats.state,
            "viewers": stats.viewers,
            "stages": stages,
        }
