"""Files of ``torch.save``: checked before torch reads them, data read when a tensor is asked for.

Source: torch's zip container, and the pickle of torch before 1.6.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.printable import printable

from .cut_short import where_it_ends
from .lazy_tensors import LazyTensor, LazyTensors, copy_into, listing, sample_of
from .open_file import OpenFile, first_line

_SAFE_TORCH = "2.6"  # before it, weights_only=True could be escaped (CVE-2025-32434)

_MOST_OF_FILE = 4
"""A torch file's tensors may be views, so that a few bytes stand for a tensor of any size. All of
them together may be this often the file: tables that a model uses several times are saved once."""


def read_torch_file(path: Path, zipped: bool) -> Mapping[str, Any]:
    """Open a file: groups of named tensors become lazy ones, the rest is as torch gives it.

    Args:
        path: the file.
        zipped: it begins as a zip archive.

    Raises:
        WeightsError: it is damaged, or holds more than tensors and plain containers.
    """
    if torch.__version__ < _SAFE_TORCH:
        raise WeightsError(
            f"{path}: refused: torch {torch.__version__} can be made to execute code by a pickle "
            f"file, wanted torch >= {_SAFE_TORCH}, or the file converted to "
            f"{path.with_suffix('.safetensors').name} beside it, which is then taken"
        )
    try:
        mapped, file = zipped and _can_be_mapped(path), OpenFile(path)
        if path.suffix.lower() == ".safetensors":
            # torch goes by the name, and can map a file by its name only.
            mapped = False
            with path.open("rb") as stream:
                raw = torch.load(stream, map_location="cpu", weights_only=True)
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        mappings = _mappings(file) if mapped else []
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused: {_reason(error)}. Nothing in it was executed. Where you trust the "
            "file, save its tensors alone, as .safetensors."
        ) from error
    except Exception as error:  # a damaged file may raise anything the parsers can
        ends = where_it_ends(path) if zipped else None
        raise WeightsError(
            f"{path}: not a readable torch file ({ends or first_line(error)}); is the download "
            "complete?"
        ) from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: got a {type(raw).__name__}, wanted named tensors")
    if _is_group(raw):
        return _lazy_group(raw, file, mappings)
    return {
        name: _lazy_group(value, file, mappings) if _is_group(value) else value
        for name, value in raw.items()
    }


def _reason(error: Exception) -> str:
    """Say why torch did not read a pickle, without its advice to switch the check off."""
    if match := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"it holds an object of class {printable(match[1], 120)}, wanted tensors, numbers and "
            "plain containers only"
        )
    found = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    # Without that mark the text is torch's advice.
    plain = found if found and "weights_only" not in found else "not a pickle of plain tensors"
    return f"it is not a torch file of plain tensors ({first_line(plain)})"


def _can_be_mapped(path: Path) -> bool:
    """Tell whether torch can map a zip container: it is in this machine's byte order.

    Raises:
        WeightsError: its entries are compressed, so that they may be any size, or none is torch's.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        held = sum(entry.file_size for entry in entries)
        if held > path.stat().st_size or any(entry.compress_type for entry in entries):
            raise WeightsError(
                f"{path}: a zip archive with compressed files in it, wanted a file that torch.save "
                "wrote. Unpack it first."
            )
        names = [entry.filename for entry in entries]
        if not any(name.endswith("data.pkl") for name in names):
            raise WeightsError(
                f"{path}: a zip archive of {listing(names) or 'nothing'}, wanted a file that "
                "torch.save wrote. Unpack it first."
            )
        orders = [name for name in names if name.endswith("/byteorder")]
        return all(archive.read(name).decode() == sys.byteorder for name in orders)


def _is_group(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _lazy_group(
    group: Mapping[str, Tensor], file: OpenFile, mappings: list[tuple[int, int, int]]
) -> LazyTensors:
    """Return a torch file's tensors as lazy ones.

    Pages touched through a mapping count as this process's memory for as long as the mapping
    lives: weights copied out of it would be there twice. So where it is known which bytes of the
    file a tensor is, these are read from the file and the mapping is not touched.

    Args:
        group: mapped tensors, or tensors in memory.
        file: the same file, to read from.
        mappings: where it is mapped; see ``_mappings``.
    """
    entries = {}
    for name, tensor in group.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else "sparse"
            raise WeightsError(
                f"{file.path}: tensor {printable(name, 200)!r} is {kind}, wanted plain tensors"
            )
        shape, dtype = tuple(tensor.shape), tensor.dtype
        fill: Callable[[Tensor], None] = partial(copy_into, tensor)
        sample = partial(sample_of, tensor)
        if tensor.is_contiguous() and tensor.numel():
            first = tensor.data_ptr()
            for start, end, offset in mappings:
                if start <= first and first + tensor.nbytes <= end:
                    fill = partial(file.fill, dtype, offset + first - start)
                    sample = partial(file.sample, offset + first - start, tensor.nbytes)
        entries[name] = LazyTensor(shape, dtype, fill, sample=sample)
    total = sum(tensor.nbytes for tensor in group.values())
    if total > _MOST_OF_FILE * file.size():
        raise WeightsError(
            f"{file.path}: tensors of {total} bytes in a file of {file.size()}, wanted each value "
            "once: they are expanded views. Save them with .contiguous()."
        )
    return LazyTensors(entries)


def _mappings(file: OpenFile) -> list[tuple[int, int, int]]:
    """Return where this process has mapped a file: first address, end, offset in the file.

    Only Linux tells; elsewhere, and if the file was replaced since it was opened, there are none.
    """
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
        if not file.is_at(file.path):
            return []
    except OSError:
        return []
    wanted = os.fsencode(os.path.realpath(file.path))
    found = []
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == wanted:
            start, _, end = fields[0].partition(b"-")
            found.append((int(start, 16), int(end, 16), int(fields[2], 16)))
    return found
