"""Every environment variable the package reads, in one typed place.

Read at the time of the call, never at import, so that a host program may set them first. Set by
``wait_briefly`` alone, in a process of our own.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from .errors import ConfigError
from .printable import shown

LOG = "SHOTSTREAM_LOG"
"""Log level of the commands: ``debug``, ``info``, ``warning`` (default) or ``error``."""
NVTX = "SHOTSTREAM_NVTX"
"""NVTX ranges: ``0`` (default), ``1``, or ``detail`` (adds layers; implies eager launches)."""
CACHE_DIR = "SHOTSTREAM_CACHE_DIR"
"""Folder for the bench's ``random-...`` models and for what is fetched (``hub/``); default
``~/.cache/shotstream_rt``. Models that are opened by folder are read where they are."""
KERNEL_SET = "SHOTSTREAM_KERNEL_SET"
"""Kernel set where none is named: ``auto`` (default), or a name that ``info`` lists."""
HUB_OFFLINE = "HF_HUB_OFFLINE"
"""Hugging Face's own variable: ``1`` means that nothing is fetched; what is here is used."""
HUB_ENDPOINT = "HF_ENDPOINT"
"""Hugging Face's own variable: the server to fetch from, such as a mirror."""
CONVOLUTIONS = "SHOTSTREAM_CONVOLUTIONS"
"""How a GPU's decoder takes its convolutions: ``heuristic`` (default), as cuDNN guesses, or
``measured``: timed once for each shape and kept in the cache folder."""
KERNELS = "SHOTSTREAM_KERNELS"
"""Folder of kernels built ahead of time; unset: kernels are compiled when first called."""
CAPTURE = "SHOTSTREAM_CAPTURE"
"""Shots that a profiler is to see: ``shot:3-5`` or ``shot:3`` opens the CUDA profiler's range,
``shot:3-5:FILE.json`` writes torch's own timeline, on a CPU too; unset: none."""

_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long a thread of OpenMP looks for work before it sleeps: GNU's library counts looks (1,000
take about 50 us), LLVM's and Intel's milliseconds."""
_WAIT_POLICY = "OMP_WAIT_POLICY"

_LOG_LEVELS = {
    "debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING,
    "error": logging.ERROR,
}  # fmt: skip
_NVTX_LEVELS = {"": 0, "0": 0, "1": 1, "detail": 2}


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon while they wait for one another; nothing if a user chose.

    They keep a core busy for many milliseconds otherwise, and beside another busy program the
    thread they wait for does not get it. OpenMP reads this when it is loaded, so it is called
    before torch is imported, and only by a process of our own: a host's environment is the host's.
    """
    if not any(name in os.environ for name in (_WAIT_POLICY, *_WAITING)):
        os.environ.update(_WAITING)


def log_level(default: str = "warning") -> int:
    """Return the numeric log level the commands use.

    Args:
        default: its name where the variable is not set.

    Raises:
        ConfigError: the variable holds an unknown name.
    """
    name = os.environ.get(LOG, "").strip().lower() or default
    if name not in _LOG_LEVELS:
        raise ConfigError(f"{LOG}: got {shown(name)}, wanted debug, info, warning or error")
    return _LOG_LEVELS[name]


def nvtx_level() -> int:
    """Return 0 (off), 1 (ranges) or 2 (ranges of layers too).

    Raises:
        ConfigError: the variable holds something else.
    """
    value = os.environ.get(NVTX, "").strip().lower()
    if value not in _NVTX_LEVELS:
        raise ConfigError(f"{NVTX}: got {shown(value)}, wanted 0, 1 or detail")
    return _NVTX_LEVELS[value]


def cache_dir() -> Path:
    """Return the cache folder; it need not exist.

    Raises:
        ConfigError: the variable, or the home folder where it is not set, cannot be made out.
    """
    value = os.environ.get(CACHE_DIR, "").strip()
    try:
        return Path(value).expanduser() if value else Path.home() / ".cache" / "shotstream_rt"
    except RuntimeError as error:
        raise ConfigError(f"{CACHE_DIR}: got {shown(value)}, wanted a folder ({error})") from error


def kernel_set() -> str:
    """Return the kernel set to take where none is named."""
    return os.environ.get(KERNEL_SET, "").strip() or "auto"


def measured_convolutions() -> bool:
    """Return whether a GPU's decoder measures its convolutions.

    Raises:
        ConfigError: the variable holds something else.
    """
    value = os.environ.get(CONVOLUTIONS, "").strip().lower() or "heuristic"
    if value not in ("heuristic", "measured"):
        raise ConfigError(f"{CONVOLUTIONS}: got {shown(value)}, wanted heuristic or measured")
    return value == "measured"


def kernel_bundle() -> Path | None:
    """Return the folder of kernels built ahead of time, or ``None`` if they are to be compiled.

    Raises:
        ConfigError: it names a home folder of nobody.
    """
    value = os.environ.get(KERNELS, "").strip()
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError as error:
        raise ConfigError(f"{KERNELS}: got {shown(value)}, wanted a folder ({error})") from error


class CaptureRange(NamedTuple):
    """Shots that a profiler is to see.

    Attributes:
        first: number of the first shot, from 0.
        last: number of the last one, itself included.
        trace: file for torch's timeline; None for the CUDA profiler's range.
    """

    first: int
    last: int
    trace: Path | None


def capture() -> CaptureRange | None:
    """Return the shots that a profiler is to see, None if none are.

    Raises:
        ConfigError: the variable holds something else.
    """
    value = os.environ.get(CAPTURE, "").strip()
    if not value:
        return None
    found = re.fullmatch(r"shot:(\d{1,9})(?:-(\d{1,9}))?(?::(.+))?", value)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ConfigError(
            f"{CAPTURE}: got {shown(value)}, wanted shot:N, shot:FIRST-LAST or "
            "shot:FIRST-LAST:FILE.json"
        )
    first, last = int(found[1]), int(found[2] or found[1])
    return CaptureRange(first, last, None if found[3] is None else Path(found[3]))


def hub_offline() -> bool:
    """Return whether nothing may be fetched."""
    return os.environ.get(HUB_OFFLINE, "").strip().lower() in ("1", "true", "yes", "on")


def hub_endpoint() -> str | None:
    """Return the server to fetch from, or ``None`` for Hugging Face's own."""
    return os.environ.get(HUB_ENDPOINT, "").strip().rstrip("/") or None
