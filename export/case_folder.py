"""Exported passes of a configuration, from a folder that keeps those of many, or made for once."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .manifest import MANIFEST_FILE, fit_of
from .packages import require_writers

if TYPE_CHECKING:
    from ..config import StreamConfig


@contextmanager
def exported(
    config: StreamConfig, dtype: torch.dtype, keep: Path | None, form: str = "passes",
    products: str = "exact",
) -> Iterator[Path]:  # fmt: skip
    """Give the folder of a configuration's passes; they are exported if they are not there.

    Args:
        config: of the model, its shots and its schedule.
        dtype: of the passes.
        keep: holds one folder for each configuration; ``None``: the passes vanish afterwards.
        form: ``passes`` or ``segments``.
        products: of segments.

    Raises:
        OutputError: they cannot be written.
        ExportError: a graph is not what it was meant to be.
    """
    require_writers()
    from .exporter import export_graphs

    key = json.dumps([fit_of(config, form), str(dtype), form, products], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (Path(temporary) if keep is None else keep) / name
        if not (folder / MANIFEST_FILE).is_file():
            export_graphs(config, dtype, folder, form=form, products=products)
        yield folder
