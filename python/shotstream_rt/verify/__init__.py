"""Parity with ShotStream: golden vectors recomputed with this package and compared.

``find(folder)`` lists ``NAME.safetensors`` + ``NAME.json`` pairs, ``run(case, asked)`` recomputes
one. Everything is read from the files; no size, option or seed is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError, ShotStreamError
from ..printable import shown
from . import block, network, rollout, scheduler, students, teacher, vae
from .check import CaseReport, Check
from .golden import GoldenCase, VerifyOptions

CaseCheck = Callable[[GoldenCase, VerifyOptions], Iterator[Check]]

CASES: dict[str, CaseCheck] = {
    "a_": scheduler.check,
    "b_": block.check,
    "c_": network.check,
    "d_": rollout.check_default,
    "e_": rollout.check_options,
    "f_": vae.check,
    "g_": teacher.check,
    "h_": students.check,
    "i_": students.check,
    "j_": students.check,
    "k_": students.check,
    "l_": students.check,
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


def run(case: GoldenCase, asked: VerifyOptions) -> CaseReport:
    """Recompute one case and compare.

    Args:
        case: from ``find``.
        asked: type, backend, kernels and device.

    Raises:
        ConfigError: no backend or kernel set has the name asked for, or the case's json and tensors
            do not fit together or to this package.
        WeightsError: a tensor that it names is missing.
        BackendUnavailableError: the backend cannot run here.
    """
    try:
        checks = list(CASES[case.name[:2]](case, asked))
    except ShotStreamError as error:
        raise type(error)(f"{case.folder / case.name}: {error}") from error
    except Exception as error:
        # Its json names shapes, options and tensors freely, so a broken one fails anywhere.
        raise ConfigError(
            f"{case.folder / case.name}: cannot be recomputed: {type(error).__name__}: "
            f"{shown(str(error))}; wanted a golden file as it was exported"
        ) from error
    return CaseReport(case.name, checks)


__all__ = ["CASES", "CaseReport", "Check", "GoldenCase", "VerifyOptions", "find", "run"]
