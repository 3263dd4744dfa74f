"""Every environment variable the package reads, in one typed place.

Read at the time of the call, never at import, so that a host program may set them first.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .errors import ConfigError

LOG = "SHOTSTREAM_LOG"
"""Log level of the commands: ``debug``, ``info``, ``warning`` (default) or ``error``."""
NVTX = "SHOTSTREAM_NVTX"
"""NVTX ranges: ``0`` (default), ``1``, or ``detail`` (adds layers; implies eager launches)."""
CACHE_DIR = "SHOTSTREAM_CACHE_DIR"
"""Folder for built engines and downloaded models; default ``~/.cache/shotstream_rt``."""
KERNEL_SET = "SHOTSTREAM_KERNEL_SET"
"""Kernel set where none is named: ``auto`` (default), or a name that ``info`` lists."""
KERNELS = "SHOTSTREAM_KERNELS"
"""Folder of kernels built ahead of time; unset: kernels are compiled when first called."""

_NVTX_LEVELS = {"": 0, "0": 0, "1": 1, "detail": 2}


def log_level() -> int:
    """Return the numeric log level the commands use.

    Raises:
        ConfigError: the variable holds an unknown name.
    """
    name = os.environ.get(LOG, "warning").strip().upper() or "WARNING"
    level = getattr(logging, name, None)
    if not isinstance(level, int):
        raise ConfigError(f"{LOG}: got {name.lower()!r}, wanted debug, info, warning or error")
    return level


def nvtx_level() -> int:
    """Return 0 (off), 1 (ranges) or 2 (ranges of layers too).

    Raises:
        ConfigError: the variable holds something else.
    """
    value = os.environ.get(NVTX, "").strip().lower()
    if value not in _NVTX_LEVELS:
        raise ConfigError(f"{NVTX}: got {value!r}, wanted 0, 1 or detail")
    return _NVTX_LEVELS[value]


def cache_dir() -> Path:
    """Return the cache folder; it need not exist."""
    value = os.environ.get(CACHE_DIR, "").strip()
    return Path(value).expanduser() if value else Path.home() / ".cache" / "shotstream_rt"


def kernel_set() -> str:
    """Return the kernel set to take where none is named."""
    return os.environ.get(KERNEL_SET, "").strip() or "auto"


def kernel_bundle() -> Path | None:
    """Return the folder of kernels built ahead of time, or ``None`` if they are to be compiled."""
    value = os.environ.get(KERNELS, "").strip()
    return Path(value).expanduser() if value else None
