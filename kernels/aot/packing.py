"""The parameters of a launch as the driver takes them: values in memory, and where each begins.

Triton's order: the arguments that are not constants, each descriptor as a tensor map by value
followed by its shape (int32) and strides (int64), then two pointers to scratch memory. The driver
copies each parameter to where the machine code's own table has it; number and sizes must agree.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...printable import printable, shown
from .signature import NONE, ONE, Argument

TENSOR_MAP_BYTES = 128
_TENSOR_MAP_ALIGNMENT = 64
_MOST_AXES = 5
_FORMATS = {
    "u1": "B", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q",
    "u64": "Q", "fp16": "e", "fp32": "f", "fp64": "d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """Layout of a kernel's parameters.

    Attributes:
        format: for ``struct``, little-endian with explicit gaps.
        starts: where each parameter begins.
        sizes: bytes of each parameter.
    """

    format: str
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, arguments: Sequence[Argument]) -> ParameterLayout:
        """Lay out the parameters of a kernel with these arguments.

        Raises:
            KeyError: an argument's type has no place in parameter memory.
        """
        text, starts, sizes, end = "<", [], [], 0
        for code in _codes(arguments):
            size = struct.calcsize(f"<{code}")
            alignment = _TENSOR_MAP_ALIGNMENT if size == TENSOR_MAP_BYTES else size
            start = -(-end // alignment) * alignment
            text += f"{start - end}x{code}" if start > end else code
            starts.append(start)
            sizes.append(size)
            end = start + size
        return cls(text, tuple(starts), tuple(sizes))

    def pack(self, values: Sequence[Any]) -> PackedParameters:
        """Write values: addresses and numbers; tensor maps as bytes."""
        memory = ctypes.create_string_buffer(struct.pack(self.format, *values))
        base = ctypes.addressof(memory)
        pointers = (ctypes.c_void_p * len(self.starts))(*(base + start for start in self.starts))
        return PackedParameters(memory, pointers)


@dataclass(frozen=True, slots=True)
class PackedParameters:
    """Parameters of one launch in memory; alive as long as this object is."""

    memory: Any
    pointers: Any

    @property
    def address(self) -> int:
        """Address of the array of pointers to the parameters."""
        return ctypes.addressof(self.pointers)


def rank_of(descriptor_type: str) -> int:
    """Axes of a ``tensordesc<bf16[128, 64]>``.

    Raises:
        KeyError: it is none, or has more axes than a tensor map.
    """
    _, opened, rest = descriptor_type.partition("[")
    block, closed, _ = rest.partition("]")
    if not opened or not closed or block.count(",") >= _MOST_AXES:
        raise KeyError(f"got {shown(descriptor_type)}, wanted tensordesc<TYPE[SIZE, ...]>")
    return block.count(",") + 1


def _codes(arguments: Sequence[Argument]) -> list[str]:
    codes = []
    for argument in arguments:
        if argument.type in (ONE, NONE):
            continue
        if argument.type.startswith("*"):
            codes.append("Q")
        elif argument.type.startswith("tensordesc"):
            rank = rank_of(argument.type)
            codes += [f"{TENSOR_MAP_BYTES}s", *"i" * rank, *"q" * rank]
        elif argument.type in _FORMATS:
            codes.append(_FORMATS[argument.type])
        else:
            name = printable(argument.name, 200)
            raise KeyError(f"{name}: got type {shown(argument.type)}, wanted one of "
                           f"{', '.join(_FORMATS)}, a pointer or a tensordesc")  # fmt: skip
    return [*codes, "Q", "Q"]
