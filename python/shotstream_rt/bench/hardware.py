"""What a measurement ran on: machine, software versions, commit.

Called by the runner and by ``bench/``. Only reads; a thing that cannot be found out is null.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import shotstream_rt

_GPU_QUERY = (
    "name,memory.total,driver_version,compute_cap,power.limit,clocks.max.sm,"
    "clocks.applications.graphics"
)


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Describe the machine.

    Args:
        device: where the student runs; GPU fields are null unless it is a GPU.

    Returns:
        ``machine`` (a name for result folders), ``cpu``, ``cores`` (that this process may use),
        ``memory_mib`` (of the device), ``gpu``, ``sm``, ``driver``, ``clocks_locked``,
        ``power_cap_w``.
    """
    gpu = _describe_gpu(device) if device.type == "cuda" else {}
    cpu = _cpu_name()
    return {
        "machine": slug(gpu.get("gpu") or cpu),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_mib": gpu.get("memory_mib") or _host_memory_mib(),
        "gpu": gpu.get("gpu"),
        "sm": gpu.get("sm"),
        "driver": gpu.get("driver"),
        "clocks_locked": gpu.get("clocks_locked"),
        "power_cap_w": gpu.get("power_cap_w"),
    }


def describe_software() -> dict[str, str | None]:
    """Return versions of what decides speed, null where it is not installed."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "tensorrt": _version("tensorrt"),
        "shotstream_rt": shotstream_rt.__version__,
    }


def describe_git() -> dict[str, Any]:
    """Return the commit of the checkout this code runs from, and whether it was changed."""
    here = Path(__file__).resolve()
    tracked = _output(["git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name])
    if not tracked:
        return {"commit": None, "dirty": None}
    commit = _output(["git", "-C", str(here.parent), "rev-parse", "HEAD"])
    changes = _output(["git", "-C", str(here.parent), "status", "--porcelain", "-uno"])
    return {"commit": commit or None, "dirty": bool(changes)}


def load_average() -> float | None:
    """Return the number of processes that wanted to run over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def slug(text: str) -> str:
    """Turn a name into lower-case words joined by dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def _describe_gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    gpu: dict[str, Any] = {
        "gpu": properties.name,
        "sm": f"{properties.major}{properties.minor}",
        "memory_mib": properties.total_memory // 2**20,
    }
    index = device.index if device.index is not None else torch.cuda.current_device()
    line = _output(
        [
            "nvidia-smi",
            f"--id={index}",
            f"--query-gpu={_GPU_QUERY}",
            "--format=csv,noheader,nounits",
        ]
    )
    fields = [field.strip() for field in line.split(",")]
    if len(fields) == len(_GPU_QUERY.split(",")):
        gpu["driver"] = fields[2]
        gpu["power_cap_w"] = _number(fields[4])
        wanted, highest = _number(fields[6]), _number(fields[5])
        gpu["clocks_locked"] = None if None in (wanted, highest) else wanted != highest
    return gpu


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _host_memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError, AttributeError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _output(command: list[str]) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
