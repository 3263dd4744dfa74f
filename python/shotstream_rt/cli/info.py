"""``info``: versions, devices, backends and models of this machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

import torch

import shotstream_rt
from shotstream_rt.backends import registry
from shotstream_rt.model.loading import available_models
from shotstream_rt.profiles import PROFILES

_PACKAGES = ("torch", "numpy", "av", "pillow", "safetensors", "transformers", "triton", "tensorrt",
             "nvtx")  # fmt: skip

_EXAMPLES = """\
Example:
  python -m shotstream_rt info --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of standard output"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was found."""
    found = collect()
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    lines = [
        f"shotstream_rt {found['version']}, Python {found['python']}, {found['platform']}",
        "packages   " + ", ".join(f"{k} {v or '-'}" for k, v in found["packages"].items()),
        "native     " + ", ".join(f"{k} {v}" for k, v in found["native"].items()),
    ]
    for device in found["devices"]:
        memory = f", {device['memory_bytes'] / 2**30:.1f} GiB" if device["memory_bytes"] else ""
        lines.append(f"device     {device['name']}: {device['description']}{memory}")
        for name, reason in device["backends"].items():
            lines.append(f"  backend  {name}: {'usable' if reason is None else reason}")
        for name, reason in device["kernels"].items():
            lines.append(f"  kernels  {name}: {'usable' if reason is None else reason}")
    models = found["models"] or {"none": "this build carries no weights; give a folder"}
    lines += [f"model      {name}: {place}" for name, place in models.items()]
    for profile in PROFILES.values():
        lines.append(f"profile    {profile.name}: {profile.summary}")
        if profile.lossy:
            lines += [f"  lossy    {profile.changes}", f"  needs    {profile.needs}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def collect() -> dict[str, Any]:
    """Return everything as plain JSON values.

    The value of a backend, a kernel set or a part of one is why it cannot run, or None.
    """
    return {
        "version": shotstream_rt.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "native": shotstream_rt.build_info(),
        "devices": [_device(torch.device("cpu"))]
        + [_device(torch.device("cuda", index)) for index in range(_cuda_devices())],
        "models": available_models(),
        "profiles": {profile.name: profile.describe() for profile in PROFILES.values()},
    }


def _device(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        description = (
            f"{count} CPU(s), {torch.backends.cpu.get_cpu_capability()}, "
            f"{torch.get_num_threads()} torch thread(s)"
        )
        memory = None
    else:
        properties = torch.cuda.get_device_properties(device)
        description = f"{properties.name}, compute {properties.major}.{properties.minor}"
        memory = int(properties.total_memory)
    return {
        "name": str(device),
        "description": description,
        "memory_bytes": memory,
        "backends": registry.availability(device),
        "kernels": registry.kernel_availability(device),
    }


def _cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
