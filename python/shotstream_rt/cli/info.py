"""``info``: versions, devices, backends and models of this machine."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import platform
from typing import Any

import torch

import shotstream_rt
from shotstream_rt.backends import kernel_registry, registry
from shotstream_rt.backends.proven_attention import HEAD_DIM
from shotstream_rt.export.library import SERVES, missing_reason
from shotstream_rt.loading.fetch import BASE, fetched_models
from shotstream_rt.loading.layouts import available_models
from shotstream_rt.loading.placement import torch_dtype
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.profiles import PROFILES
from shotstream_rt.terminal import tell, tell_json

_PACKAGES = ("torch", "numpy", "av", "pillow", "safetensors", "transformers", "huggingface_hub",
             "triton", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt-rtx", "tensorrt",
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
        tell_json(found)
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
        lines.append(f"  type     {device['dtype']} by default")
        auto = device["auto_kernels"]
        lines.append(f"  kernels  auto takes {auto['name']}: {auto['reason']}")
    for library, engines in found["engine_libraries"].items():
        lines.append(f"engines    {library}: {engines['reason'] or 'installed'}")
        lines.append(f"  for      {engines['serves']}")
    models = found["models"] or {"none": "this build carries no weights; give a folder"}
    lines += [f"model      {name}: {place}" for name, place in models.items()]
    lines.append(f"model      {BASE}: {found['base_model'] or 'not fetched'}")
    for name, student in found["students"].items():
        lines.append(f"student    {name}: {student['title']}; {student['file'] or 'not fetched'}")
        lines += [f"  {word:8} {student[word]}" for word in ("cut", "prompt", "extend", "start")]
    for profile in PROFILES.values():
        lines.append(f"profile    {profile.name}: {profile.summary}")
        if profile.lossy:
            lines += [f"  lossy    {profile.changes}", f"  needs    {profile.needs}"]
    tell(*lines)
    return 0


def collect() -> dict[str, Any]:
    """Return everything as plain JSON values.

    Of a student that was fetched, ``file`` says where it is.

    The value of a backend, a kernel set or a part of one is why it cannot run, or None, and so is
    ``reason`` of a library that builds engines for GPUs; ``serves`` says for which. A device's
    ``auto_kernels`` is the set that ``auto`` takes there for the released student, and why.
    """
    fetched = fetched_models()
    return {
        "version": shotstream_rt.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "native": shotstream_rt.build_info(),
        "devices": [_device(torch.device("cpu"))]
        + [_device(torch.device("cuda", index)) for index in range(_cuda_devices())],
        "engine_libraries": {
            name: {"reason": missing_reason(name), "serves": serves}
            for name, serves in SERVES.items()
        },
        "models": available_models(),
        "base_model": fetched[BASE],
        "students": {
            name: {**student.describe(), "file": fetched[name]}
            for name, student in STUDENTS.items()
        },
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
        "dtype": str(torch_dtype(None, device)).removeprefix("torch."),
        "backends": registry.availability(device),
        "kernels": registry.kernel_availability(device),
        "auto_kernels": dataclasses.asdict(kernel_registry.choose_auto(_student_on(device))),
    }


def _student_on(device: torch.device) -> kernel_registry.Target:
    """The released student in the type that it has there by default."""
    return kernel_registry.Target(device=device, dtype=torch_dtype(None, device), head_dim=HEAD_DIM)


def _cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
