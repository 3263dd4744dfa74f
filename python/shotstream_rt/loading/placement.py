"""Where and how large: devices, number types and frame sizes as callers write them."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import torch

from shotstream_rt.checks import as_integer
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import BackendUnavailableError, ConfigError
from shotstream_rt.kernels.cpu.instructions import has_fast_bfloat16
from shotstream_rt.printable import shown

DTYPES = ("float32", "bfloat16")


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` takes a GPU where there is one.

    Raises:
        ConfigError: not a device's name.
        BackendUnavailableError: no such device here.
    """
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", name):
        raise ConfigError(f"device: got {shown(name)}, wanted auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise BackendUnavailableError(
            f"device {name}: torch sees {count} CUDA device(s); use cpu or auto"
        )
    return torch.device("cuda", index)


def torch_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the type of a name of ``DTYPES``; ``None`` for the one that the device is fast in.

    That is bfloat16 on a GPU and on a CPU that multiplies it faster than float32: with a matrix
    unit (AMX), or AMD's with AVX-512's products of it. A film takes half the time there.
    """
    if name is None:
        fast = device.type == "cuda" or (device.type == "cpu" and has_fast_bfloat16())
        name = "bfloat16" if fast else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def parse_size(size: tuple[int, int] | str) -> tuple[int, int]:
    """Return frame height and width in pixels.

    Raises:
        ConfigError: not two multiples of 16 from 16 to 4096 (latents are 8 times smaller and the
            student reads them in 2x2 patches).
    """
    values: list[int | None] = []
    if isinstance(size, str):
        if match := re.fullmatch(r"([0-9]{1,4})[xX]([0-9]{1,4})", size.strip()):
            values = [int(match[1]), int(match[2])]
    elif isinstance(size, tuple | list) or (isinstance(size, np.ndarray) and size.ndim == 1):
        values = [as_integer(side) for side in size]
    sides = [side for side in values if side is not None and 16 <= side <= 4096 and side % 16 == 0]
    if len(sides) != 2 or len(values) != 2:
        raise ConfigError(
            f"size: got {shown(size)}, wanted height x width in multiples of 16, such as 480x832"
        )
    return sides[0], sides[1]


def resized(config: StreamConfig, size: tuple[int, int] | None) -> StreamConfig:
    """Return ``config`` for frames of another height and width in pixels; ``None`` keeps them."""
    if size is None:
        return config
    height, width = size
    model = dataclasses.replace(config.model, latent_height=height // 8, latent_width=width // 8)
    return dataclasses.replace(config, model=model)
