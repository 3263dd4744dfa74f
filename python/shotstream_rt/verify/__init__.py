"""Parity with ShotStream: golden vectors recomputed with this package and compared.

``run(folder, dtype)`` walks a folder of ``NAME.safetensors`` + ``NAME.json`` pairs. Everything is
read from the files; no size, option or seed is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ..errors import ConfigError
from . import block, network, rollout, scheduler, teacher, vae
from .check import CaseReport, Check
from .golden import GoldenCase

CaseCheck = Callable[[GoldenCase, torch.dtype], Iterator[Check]]

CASES: dict[str, CaseCheck] = {
    "a_": scheduler.check,
    "b_": block.check,
    "c_": network.check,
    "d_": rollout.check_default,
    "e_": rollout.check_options,
    "f_": vae.check,
    "g_": teacher.check,
}
"""Which check reads a file, by the beginning of its name."""


def find(folder: Path) -> list[GoldenCase]:
    """Golden cases in a folder, by name.

    Raises:
        ConfigError: no such folder, or no case in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; wanted one with golden vectors")
    paths = [p for p in sorted(folder.glob("*.safetensors")) if p.name[:2] in CASES]
    if not paths:
        raise ConfigError(
            f"{folder}: got no golden case, wanted files such as d_rollout.safetensors beside "
            "d_rollout.json"
        )
    return [GoldenCase.read(path) for path in paths]


def run(case: GoldenCase, dtype: torch.dtype) -> CaseReport:
    """Recompute one case in a type and compare.

    Args:
        case: from ``find``.
        dtype: float32 or bfloat16; decides the limits too.
    """
    checks = list(CASES[case.name[:2]](case, dtype))
    return CaseReport(case.name, checks)


__all__ = ["CASES", "CaseReport", "Check", "GoldenCase", "find", "run"]
