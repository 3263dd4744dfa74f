"""How a workload is run: what the command line asks for, checked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from shotstream_rt.errors import ConfigError
from shotstream_rt.loading.placement import resolve_device
from shotstream_rt.profiles import find_profile

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def add_how(out: argparse._ActionsContainer) -> None:
    """Declare where and with what a subcommand runs a model; each as in ``BenchOptions``."""
    out.add_argument("--device", default="auto")
    out.add_argument("--backend", default="auto")
    out.add_argument("--kernels", metavar="SET", help="kernel set and its parts")
    out.add_argument("--profile", default="exact", help="of the runtime, such as exact or fp8")
    out.add_argument("--dtype", choices=tuple(DTYPES))
    out.add_argument("--threads", type=int, metavar="N")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What was asked for.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        backend: ``auto`` or a backend's name.
        engines: folder of exported passes, for a backend that runs such.
        kernels: a kernel set and its parts; None: what ``SHOTSTREAM_KERNEL_SET`` says, else auto.
        profile: a name of ``profiles.PROFILES``.
        dtype: ``float32``, ``bfloat16`` or None for the model's own choice (students with random
            weights: float32).
        lora: LoRA file or folder merged into a film's student; None for none.
        ema: take the running average of a trainer's checkpoint, for a film.
        student: whose settings a film's student file is run with; None: what the file tells.
        threads: CPU threads of the student; None leaves torch's own choice.
        warmup: runs that are not counted; of a film only its first shot.
        repeats: runs that are.
        full_check: compare whole shots with the oracle instead of two chunks.
        baseline: run the plain baseline too, in the same type, alternating with what is measured.
        roofline: measure the device's ceilings and give every stage's floor.
        quick: leave out what takes longest and is not a rate: two chunks are checked of a lossy
            profile too, by an oracle whose products on a GPU are tf32 (unless float32 is
            measured), a film has no ``fidelity``, and no captions are changed.
        url: of a server that runs already, with its token; None: one is started for the run.
    """

    device: str = "auto"
    backend: str = "auto"
    engines: str | None = None
    kernels: str | None = None
    profile: str = "exact"
    dtype: str | None = None
    lora: str | None = None
    ema: bool = False
    student: str | None = None
    threads: int | None = None
    warmup: int = 1
    repeats: int = 5
    full_check: bool = False
    baseline: bool = False
    roofline: bool = False
    quick: bool = False
    url: str | None = None

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
        if self.quick and self.full_check:
            raise ConfigError("quick: got it together with full_check, wanted one of the two")
        self.torch_device()

    def torch_device(self) -> torch.device:
        """Return the device asked for; ``auto`` takes a GPU where there is one."""
        return resolve_device(self.device)

    @property
    def checks_whole_shot(self) -> bool:
        """Whether all chunks of the checked shot are compared, not the first two alone."""
        return self.full_check or (find_profile(self.profile).lossy and not self.quick)

    def requested(self) -> dict[str, Any]:
        """Return what enters a workload's fingerprint."""
        asked = {
            "device": self.torch_device().type,
            "backend": self.backend,
            "profile": self.profile,
            "dtype": self.dtype,
            "threads": self.threads,
        }
        # What was not asked for stays out, so that older records keep their fingerprint.
        return {**asked, **self.optional()}

    def optional(self) -> dict[str, Any]:
        """Return kernels, LoRA, running average, student and a server where they were asked for."""
        asked = {
            "kernels": self.kernels, "lora": self.lora, "ema": self.ema or None,
            "student": self.student, "url": self.url is not None or None,
        }  # fmt: skip
        return {name: value for name, value in asked.items() if value is not None}
