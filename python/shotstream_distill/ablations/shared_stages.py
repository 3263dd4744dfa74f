"""Reuses finished stages of a run that did them in exactly the same way.

Called by the ablation runner. Random numbers are functions of (seed, stage, step), so variants that
differ in their last stages only would repeat the first ones bit for bit; what one of them made is
linked into the others' folders instead.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..paper.ode_pairs import pair_file

_log = logging.getLogger("shotstream_distill.ablations")


def _files(stage: dict[str, Any]) -> list[Path]:
    """Return the files of a finished stage, relative to its run's folder."""
    name = stage["name"]
    if stage["kind"] == "ode_pairs":
        return [pair_file(Path(name), index) for index in range(stage["pairs"])]
    return [Path(f"{name}.pt"), Path(f"{name}.json")]


def take_over(folder: Path, others: Iterable[Path]) -> list[str]:
    """Link stages that others finished into a run's folder.

    Args:
        folder: of a run, with its ``run.json``.
        others: folders of other runs on the same file system; those without ``run.json`` are
            passed over.

    Returns:
        Names of the leading stages that are now done in ``folder``.
    """
    mine = json.loads((folder / "run.json").read_text("utf-8"))
    best: list[str] = []
    for other in others:
        if not (other / "run.json").is_file():
            continue
        theirs = json.loads((other / "run.json").read_text("utf-8"))
        if any(mine[k] != theirs.get(k) for k in mine if k not in ("name", "stages")):
            continue
        taken = []
        for stage, same in zip(mine["stages"], theirs["stages"], strict=False):
            files = _files(stage)
            if stage != same or not all((other / file).is_file() for file in files):
                break
            for file in files:
                if not (folder / file).exists():
                    (folder / file).parent.mkdir(exist_ok=True)
                    os.link(other / file, folder / file)
            taken.append(stage["name"])
        if len(taken) > len(best):
            best = taken
            _log.info("%s: %s as in %s", folder.parent.name, ", ".join(taken), other.parent.name)
    return best
