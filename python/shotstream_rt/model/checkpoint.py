"""Checkpoint files: each tensor is read when it is asked for.

Reads safetensors and torch's ``.pt``/``.pth`` for the student, the codecs, the text encoder and the
trainers. Names, shapes and types come from a file's header, so tensors can be checked, renamed and
selected before any data is read. A network is filled tensor by tensor, so a file is never in memory
as a whole. Nothing in a file is ever executed.

This module knows files, not models: the student's names are in ``student_weights.py``, where
released files are found is in the package ``loading``. A file is what its first bytes say,
whatever its name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shotstream_rt.errors import WeightsError
from shotstream_rt.inputs import kind_of_file, parse_json, read_text
from shotstream_rt.printable import printable

from .file_kinds import HEAD_BYTES, SAFETENSORS, ZIP, container, foreign
from .lazy_tensors import LazyTensor, LazyTensors, listing
from .safetensors_file import read_safetensors
from .torch_file import read_torch_file

_GROUPS = ("state_dict", "model", "module", "model_state_dict", "params", "weights")
"""Where trainers keep a network beside other things."""

FOLDER_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
"""What the libraries of Hugging Face call a network's file in a folder of its own."""
_MAX_INDEX_BYTES, _MOST_SHARDS = 16 << 20, 1000

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights are taken in. 8-bit floats are floats too, but without the scales that such files
keep beside them (each tool in its own way) they are other weights."""


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Open a checkpoint file as it is: tensors, possibly inside named groups.

    A safetensors file, a torch file of named tensors, and every group of named tensors in a torch
    file come as ``LazyTensors``: their data is read when a tensor is asked for. Whatever else a
    torch file holds (step numbers, lists, optimizers) comes as ``torch.load`` gives it. A ``.pth``
    of torch before 1.6 is one pickle, which can only be read whole.

    Args:
        path: a safetensors file or a torch file, whatever its ending.

    Raises:
        WeightsError: missing, truncated, not a checkpoint, or a pickle that holds anything but
            tensors and plain containers. Nothing in it is executed. A tensor asked for later
            raises it too if the file was cut short in the meantime.
    """
    path = Path(path)
    head = _head(path)
    found = container(head)
    strange = None if found is not None else foreign(head)
    if strange is not None:
        raise WeightsError(f"{path}: wanted a checkpoint (.safetensors, .pt, .pth), got {strange}.")
    if found == SAFETENSORS or (found is None and path.suffix == ".safetensors"):
        return read_safetensors(path)
    return read_torch_file(path, zipped=found == ZIP)


def load_checkpoint(path: str | Path) -> LazyTensors:
    """Open a checkpoint file of one network; see ``read_checkpoint`` and ``inner_group``."""
    return only_tensors(inner_group(read_checkpoint(path)), str(path))


def load_folder(folder: str | Path) -> LazyTensors:
    """Open the network in a folder of Hugging Face's libraries: one file, or several and an index.

    Args:
        folder: holds one of ``FOLDER_STEMS`` as ``.safetensors`` or ``.bin``, or the index of its
            parts, ``NAME.index.json``.

    Raises:
        WeightsError: there is none of them, a part is missing or damaged, or a tensor that the
            index lists is not in its part.
    """
    folder = Path(folder)
    for ending in (".safetensors", ".bin"):
        for stem in FOLDER_STEMS:
            path = folder / f"{stem}{ending}"
            index = path.with_name(f"{path.name}.index.json")
            if index.is_file():
                return _load_parts(index)
            if path.is_file():
                return load_checkpoint(path)
    raise WeightsError(
        f"{folder}: got no {' or '.join(f'{stem}.safetensors' for stem in FOLDER_STEMS)}, no .bin "
        "of these names and no index of one, wanted a network's folder of Hugging Face"
    )


def has_network(folder: Path) -> bool:
    """Tell whether ``load_folder`` finds a file in ``folder``."""
    names = [f"{stem}{ending}" for stem in FOLDER_STEMS for ending in (".safetensors", ".bin")]
    return any(
        (folder / f"{name}{more}").is_file() for name in names for more in ("", ".index.json")
    )


def _load_parts(index: Path) -> LazyTensors:
    """Open the files that an index lists."""
    where = f"{index}: not a readable index of shards"
    text = read_text(index, limit_bytes=_MAX_INDEX_BYTES, what="index", error=WeightsError)
    data = parse_json(text, where, WeightsError)
    listed = data.get("weight_map") if isinstance(data, dict) else None
    places = {}
    for name, value in (listed if isinstance(listed, dict) else {}).items():
        # Only names: an index must not lead out of its folder.
        possible = isinstance(value, str) and value.isprintable() and len(value.encode()) < 256
        file = Path(value).name if possible else ""
        places[name] = "" if file in (".", "..") else file
    files = set(places.values())
    if "" in files or not 0 < len(files) <= _MOST_SHARDS:
        raise WeightsError(
            f"{where}: wanted a weight_map with the names of 1 to {_MOST_SHARDS} files"
        )
    absent = sorted(file for file in files if not (index.parent / file).is_file())
    if absent:
        first = next(name for name, file in places.items() if file == absent[0])
        raise WeightsError(
            f"{index.parent / absent[0]}: is missing, one of {len(absent)} of {len(files)} files "
            f"that {index.name} lists; tensor {printable(first, 200)!r} is in it. Is the download "
            "complete?"
        )
    parts = {file: load_checkpoint(index.parent / file).entries for file in sorted(files)}
    entries: dict[str, LazyTensor] = {}
    for part in parts.values():
        entries |= part
    for name, file in places.items():
        if name not in parts[file]:
            raise WeightsError(
                f"{index.parent / file}: tensor {printable(name, 200)!r} is not in it, but "
                f"{index.name} says so; is the file of another download?"
            )
    return LazyTensors(entries)


def inner_group(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tensors under ``state_dict``, ``model`` and the like, else ``raw`` itself."""
    if isinstance(raw, LazyTensors):
        return raw
    groups = [raw[key] for key in _GROUPS if isinstance(raw.get(key), LazyTensors)]
    return groups[0] if groups else raw


def only_tensors(raw: Mapping[Any, Any], source: str) -> LazyTensors:
    """Return what a file or a group holds as tensors.

    Args:
        raw: of ``read_checkpoint``, or one of its groups.
        source: named in errors.

    Raises:
        WeightsError: it is empty, or some entry is not a tensor.
    """
    if isinstance(raw, LazyTensors) and raw:
        return raw
    # A lazy group without a tensor has nothing to look through.
    items = [] if isinstance(raw, LazyTensors) else raw.items()
    others = [f"{k} ({type(v).__name__})" for k, v in items if not isinstance(v, Tensor)]
    if others or not raw:
        raise WeightsError(
            f"{source}: got {listing(others) or 'nothing'}, wanted only named tensors"
        )
    return LazyTensors.of({str(name): tensor for name, tensor in raw.items()})


def check_tensors(
    state: Mapping[str, Tensor], wanted: Mapping[str, Iterable[int]], source: str
) -> None:
    """Check that ``state`` has exactly the names and shapes ``wanted``; reads no data.

    All of them must be of one of ``WEIGHT_DTYPES``.

    Args:
        state: what is there.
        wanted: shape by name.
        source: the file, named in errors.

    Raises:
        WeightsError: naming the file and a handful of the tensors at fault.
    """
    entries = LazyTensors.of(state).entries
    complaints = []
    for what, names in (
        ("missing", [name for name in wanted if name not in entries]),
        ("unexpected", [name for name in entries if name not in wanted]),
    ):
        if names:
            complaints.append(f"{len(names)} {what}: {listing(names)}")
    shapes = [
        f"{name} {printable(entries[name].shape, 80)} (wanted {tuple(shape)})"
        for name, shape in wanted.items()
        if name in entries and entries[name].shape != tuple(shape)
    ]
    if shapes:
        complaints.append(f"{len(shapes)} of another shape: {listing(shapes)}")
    kinds = {
        name: entry.dtype
        for name, entry in entries.items()
        if name in wanted and entry.dtype not in WEIGHT_DTYPES
    }
    eighths = [dtype for dtype in kinds.values() if dtype.is_floating_point]
    if eighths:
        raise WeightsError(
            f"{source}: got {len(eighths)} of {len(entries)} tensors in {eighths[0]}, such as "
            f"{listing(kinds)}; wanted float32, bfloat16 or float16. 8-bit weights are not the "
            "model's own any more, and tools keep their scales in different ways. Take the "
            "original file; profile fp8 computes with 8-bit weights made from it."
        )
    if kinds:
        shown = listing(f"{name} ({dtype})" for name, dtype in kinds.items())
        complaints.append(f"{len(kinds)} not of a float type: {shown}")
    if complaints:
        raise WeightsError(
            f"{source}: got {len(entries)} tensors, wanted {len(wanted)}; " + "; ".join(complaints)
            + ". Check that the file belongs to this model and its configured size."
        )  # fmt: skip


def load_into(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    """Check ``state`` against a network (made on the meta device) and put it in.

    Args:
        network: its parameters are replaced, so its own values are never allocated.
        state: exactly the network's names and shapes.
        source: named in errors.
        device: where the parameters go.
        dtype: what they are cast to; ``None`` keeps the file's.

    Raises:
        WeightsError: names or shapes differ, or values that no network can compute with.
    """
    check_tensors(state, {k: v.shape for k, v in network.state_dict().items()}, source)
    place_into(network, LazyTensors.of(state).checked(source), device=device, dtype=dtype)


def place_into(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
    whole: bool = True,
    briefly: bool = False,
) -> None:
    """Put tensors that were checked before into a network (made on the meta device).

    One tensor at a time is read, moved and cast, so that no more is held than the network's
    parameters and one tensor. What the network holds afterwards depends neither on the file nor on
    the tensors in ``state``.

    Args:
        network: its parameters are replaced, so its own values are never allocated.
        state: exactly the network's names and shapes; see ``check_tensors``.
        device: where the parameters go.
        dtype: what they are cast to; ``None`` keeps the file's.
        whole: whether ``state`` holds all of the network; otherwise the rest stays as it is.
        briefly: the parameters will be dropped soon; see ``LazyTensor.to``.
    """
    placed = {
        name: entry.to(device, dtype or entry.dtype, briefly=briefly)
        for name, entry in LazyTensors.of(state).entries.items()
    }
    network.load_state_dict(placed, strict=whole, assign=True)


def _head(path: Path) -> bytes:
    """Return the first bytes of a regular file."""
    shown_path = printable(path, 300)
    wanted = "wanted a checkpoint file (.safetensors, .pt, .pth)"
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise WeightsError(f"{shown_path}: is {kind_of_file(mode)}, {wanted}")
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise WeightsError(f"{shown_path}: is missing, {wanted}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise WeightsError(f"{shown_path}: cannot be read ({why}), {wanted}") from error
