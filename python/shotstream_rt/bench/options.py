"""How a workload is run: what the command line asks for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from shotstream_rt.errors import ConfigError
from shotstream_rt.model.loading import resolve_device
from shotstream_rt.profiles import find_profile

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What was asked for.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        backend: ``auto`` or a backend's name.
        kernels: a kernel set and its parts; None: what ``SHOTSTREAM_KERNEL_SET`` says, else auto.
        profile: a name of ``profiles.PROFILES``.
        dtype: ``float32``, ``bfloat16`` or None for the model's own choice (students with random
            weights: float32).
        threads: CPU threads of the student; None leaves torch's own choice.
        warmup: runs that are not counted; of a film only its first shot.
        repeats: runs that are.
        full_check: compare whole shots with the oracle instead of two chunks.
        baseline: run the plain baseline too, in the same type, by turns with what is measured.
        roofline: measure the device's ceilings and tell every stage's floor.
    """

    device: str = "auto"
    backend: str = "auto"
    kernels: str | None = None
    profile: str = "exact"
    dtype: str | None = None
    threads: int | None = None
    warmup: int = 1
    repeats: int = 5
    full_check: bool = False
    baseline: bool = False
    roofline: bool = False

    def __post_init__(self) -> None:
        find_profile(self.profile)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"dtype: got {self.dtype!r}, wanted {' or '.join(DTYPES)}")
        limits = {"warmup": (self.warmup, 0), "repeats": (self.repeats, 1)}
        if self.threads is not None:
            limits["threads"] = (self.threads, 1)
        for name, (value, low) in limits.items():
            if not low <= value <= 10_000:
                raise ConfigError(f"{name}: got {value}, wanted {low} to 10000")
        self.torch_device()

    def torch_device(self) -> torch.device:
        """Return the device asked for; ``auto`` takes a GPU where there is one."""
        return resolve_device(self.device)

    def requested(self) -> dict[str, Any]:
        """Return what enters a workload's fingerprint."""
        asked = {
            "device": self.torch_device().type,
            "backend": self.backend,
            "profile": self.profile,
            "dtype": self.dtype,
            "threads": self.threads,
        }
        return asked if self.kernels is None else {**asked, "kernels": self.kernels}
