"""Safetensors files: names, shapes and types from the header, data when a tensor is asked for.

Source: the safetensors format.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch

from shotstream_rt.errors import WeightsError
from shotstream_rt.printable import printable

from .lazy_tensors import LazyTensor, LazyTensors
from .open_file import OpenFile, first_line

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: Path) -> LazyTensors:
    """Open a file; reads its header.

    Raises:
        WeightsError: it is damaged, or holds a tensor of an unknown type.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            pass  # checks names, shapes, offsets and the file's size against each other
        file = OpenFile(path)
        length = bytearray(8)
        file.read_into(memoryview(length), 0)
        size = int.from_bytes(length, "little")
        if size > file.size():
            raise OSError("the header is longer than the file")
        text = bytearray(size)
        file.read_into(memoryview(text), len(length))
        header = json.loads(text)
        entries = {}
        for name, facts in header.items():
            if name == "__metadata__":
                continue
            shape, dtype = tuple(facts["shape"]), DTYPES.get(facts["dtype"])
            if dtype is None:
                raise WeightsError(
                    f"{path}: tensor {printable(name, 200)!r} is of type {facts['dtype']}, wanted "
                    f"one of {', '.join(DTYPES)}"
                )
            begin, end = facts["data_offsets"]
            offset = len(length) + size + begin
            entries[name] = LazyTensor(
                shape, dtype, partial(file.fill, dtype, offset),
                sample=partial(file.sample, offset, end - begin),
            )  # fmt: skip
    except WeightsError:
        raise
    # The library checked a file of this name; these come if it was replaced in the meantime.
    except (
        SafetensorError, OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError,
        MemoryError,
    ) as error:  # fmt: skip
        where = _cut_short(path)
        raise WeightsError(
            f"{path}: not a readable safetensors file ({where or first_line(error)}); is the "
            "download complete?"
        ) from error
    return LazyTensors(entries)


def _cut_short(path: Path) -> str | None:
    """Say in which tensor a file ends before its time, or ``None`` if its header does not tell."""
    try:
        file = OpenFile(path)
        length = bytearray(8)
        file.read_into(memoryview(length), 0)
        held = file.size() - 8 - int.from_bytes(length, "little")
        if held < 0:
            return None
        text = bytearray(int.from_bytes(length, "little"))
        file.read_into(memoryview(text), 8)
        places = [
            (facts["data_offsets"][0], facts["data_offsets"][1], name)
            for name, facts in json.loads(text).items()
            if name != "__metadata__"
        ]
        if not all(isinstance(offset, int) for *offsets, _ in places for offset in offsets):
            return None
        lost = sorted(place for place in places if place[1] > held)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
        return None
    if not lost:
        return None
    begin, end, name = lost[0]
    return (
        f"it ends in tensor {printable(name, 200)!r}, of which it has {max(0, held - begin)} of "
        f"{end - begin} bytes, and lacks {len(lost)} of {len(places)} tensors"
    )
