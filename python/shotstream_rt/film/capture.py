"""Shots that a profiler is to see, in whatever program the session runs.

``SHOTSTREAM_CAPTURE=shot:3-5`` opens the profiler's range when shot 3 begins and closes it when the
shot behind shot 5 has begun, or when the session is closed. One session of a process does, the
first to come to such a shot.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

from .. import env
from ..device.profiler import profiled
from ..errors import ConfigError
from ..outputs import check_file_target
from ..types import Event

_log = logging.getLogger("shotstream_rt.film.capture")


class Capture:
    """Opens and closes a profiler's range at the beginnings of shots.

    Args:
        wanted: which shots.
        device: of the model.

    Raises:
        ConfigError: there is no GPU to profile, and no file was named.
        OutputError: the file cannot be written.
    """

    def __init__(self, wanted: env.CaptureRange, device: torch.device) -> None:
        if wanted.trace is None and device.type != "cuda":
            raise ConfigError(
                f"{env.CAPTURE}: got no file, and device {device} has no CUDA profiler; wanted "
                f"shot:{wanted.first}-{wanted.last}:FILE.json, which writes torch's timeline"
            )
        if wanted.trace is not None:
            check_file_target(wanted.trace)
        self._wanted, self._device = wanted, device
        self._lock = threading.RLock()
        self._open: AbstractContextManager[Any] | None = None
        self._over = False

    @classmethod
    def from_environment(cls, device: torch.device) -> Capture | None:
        """Return what the variable asks for, None if it is not set."""
        wanted = env.capture()
        return None if wanted is None else cls(wanted, device)

    def hear(self, event: Event) -> None:
        """Take note of what happened in the session; called from any thread."""
        if event.kind != "shot_began" or event.place is None:
            return
        shot = event.place.shot
        with self._lock:
            if self._open is not None and shot > self._wanted.last:
                self.close()
            elif not self._over and self._wanted.first <= shot <= self._wanted.last:
                self._begin(shot)

    def close(self) -> None:
        """Close the range if it is open; it is not opened again."""
        with self._lock:
            self._over = True
            opened, self._open = self._open, None
            if opened is not None:
                opened.__exit__(None, None, None)
                _log.info("the profiler's range is closed")

    def _begin(self, shot: int) -> None:
        if self._open is not None:
            return  # a further shot, or another take
        if not _only_one().acquire(blocking=False):
            self._over = True
            _log.warning("%s: another session of this process has the profiler", env.CAPTURE)
            return
        self._open = profiled(self._device, self._wanted.trace)
        self._open.__enter__()
        _log.info("shot %d: the profiler's range is open", shot)


@cache
def _only_one() -> threading.Lock:
    """Return the lock that the process's one capture takes, for good."""
    return threading.Lock()
