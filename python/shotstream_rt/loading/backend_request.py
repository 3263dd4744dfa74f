"""Parts of a model that are opened without all of it: its configuration, its weights, its codec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.checks import check_one_of
from shotstream_rt.config import StreamConfig

from .layouts import open_parts
from .parts import LoadOptions
from .placement import DTYPES, parse_size, resized, torch_dtype

if TYPE_CHECKING:
    from ..model.nano.codec import NanoCodec


def stream_config(
    model: str | Path, *, size: tuple[int, int] | str | None = None, student: str | None = None
) -> StreamConfig:
    """Return what decides a model's numbers, without reading its weights.

    Args:
        model: as for ``Model.open``.
        size: likewise.
        student: likewise.

    Raises:
        ConfigError: an argument is not usable.
        WeightsError: a file is missing or broken.
        ManifestError: ``student.json`` is broken.
    """
    wanted = None if size is None else parse_size(size)
    return resized(open_parts(model, LoadOptions(student=student)).config, wanted)


def backend_request(
    model: str | Path,
    *,
    size: tuple[int, int] | str | None = None,
    dtype: str = "float32",
    engines: Path | None = None,
    student: str | None = None,
) -> BackendRequest:
    """Return the request that ``Model.open`` would build a backend from, on the CPU.

    Args:
        model: as for ``Model.open``.
        size: likewise.
        dtype: likewise.
        engines: likewise.
        student: likewise.

    Raises:
        ConfigError: an argument is not usable.
        WeightsError: a file is missing or broken.
        ManifestError: ``student.json`` is broken.
    """
    check_one_of("dtype", dtype, DTYPES)
    wanted = None if size is None else parse_size(size)
    place = torch.device("cpu")
    kind = torch_dtype(dtype, place)
    parts = open_parts(model, LoadOptions(device=place, student=student))
    return BackendRequest(
        config=resized(parts.config, wanted), device=place, dtype=kind, weights=parts.weights,
        folder=parts.folder, source=parts.source, engines=engines,
    )  # fmt: skip


def open_nano_codec(model: str | Path, *, student: str | None = None) -> NanoCodec | None:
    """Return a model's codec alone, on the CPU, if it is nano's; reads no other.

    Args:
        model: as for ``Model.open``.
        student: likewise.

    Raises:
        ConfigError: no model has this name.
        WeightsError: a file is missing or broken.
        ManifestError: ``student.json`` is broken.
    """
    from ..model.nano.codec import NanoCodec

    parts = open_parts(model, LoadOptions(student=student))
    codec = parts.codec(torch.float32) if parts.latents == "nano" else None
    return codec if isinstance(codec, NanoCodec) else None
