"""What an NVIDIA ELF file says about itself: architecture, kernels and their parameters.

Read without a driver, so that a bundle can be checked where it is built. Layout of the ELF header
and sections as in the System V ABI; the flags word and the ``.nv.info`` attributes as the compiler
writes them (checked against ptxas 12.8 and 12.9 for sm_80 to sm_120).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC, _MACHINE_CUDA = b"\x7fELF", 190
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NEW_FLAGS_ABI = 8
"""Since this ABI version the architecture is the second byte of the flags, not the first."""

_PARAMETER_INFO = 0x17
_FORMAT_SIZED = 4


class CubinError(Exception):
    """The bytes are not a whole machine code file of an NVIDIA GPU; says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cubin:
    """Facts of one machine code file.

    Attributes:
        capability: 90 for sm_90.
        parameters: by kernel symbol, bytes of each parameter in order.
    """

    capability: int
    parameters: dict[str, tuple[int, ...]]


def read_cubin(data: bytes) -> Cubin:
    """Read a file's header and its kernels' parameter tables.

    Raises:
        CubinError: not such a file, or cut off.
    """
    try:
        return _read(data)
    except (struct.error, IndexError) as error:
        raise CubinError(f"cut off after {len(data)} bytes ({error})") from error


def _read(data: bytes) -> Cubin:
    if data[:4] != _MAGIC:
        raise CubinError(f"got {data[:4]!r} at the start, wanted {_MAGIC!r}")
    header = _HEADER.unpack_from(data)
    ident, machine, sections_at, flags = header[0], header[2], header[6], header[7]
    count, names_at = header[12:14]
    if machine != _MACHINE_CUDA:
        raise CubinError(f"got ELF machine {machine}, wanted {_MACHINE_CUDA}")
    segments_end = header[5] + header[9] * header[10]
    if max(sections_at + count * _SECTION.size, segments_end) > len(data):
        raise CubinError(f"cut off after {len(data)} bytes, before its tables end")
    if names_at >= count:
        raise CubinError(f"got names in section {names_at} of {count}")
    sections = [_SECTION.unpack_from(data, sections_at + i * _SECTION.size) for i in range(count)]
    names = sections[names_at][4]
    parameters = {}
    for name_at, kind, _, _, start, size, *_ in sections:
        name = _name(data, names + name_at)
        # Kind 8 occupies no bytes of the file.
        if kind != 8 and start + size > len(data):
            raise CubinError(f"cut off after {len(data)} bytes, inside section {name}")
        if name.startswith(".nv.info."):
            table = sorted(_parameters(data[start : start + size]))
            parameters[name.removeprefix(".nv.info.")] = tuple(length for _, length in table)
    capability = (flags >> 8 if ident[8] >= _NEW_FLAGS_ABI else flags) & 0xFF
    return Cubin(capability=capability, parameters=parameters)


def _name(data: bytes, start: int) -> str:
    end = data.find(b"\0", start)
    if start >= len(data) or end < 0:
        raise CubinError(f"cut off after {len(data)} bytes, inside a name")
    try:
        return data[start:end].decode()
    except UnicodeDecodeError as error:
        raise CubinError(f"got {data[start:end][:40]!r} as a name ({error.reason})") from error


def _parameters(attributes: bytes) -> Iterator[tuple[int, int]]:
    """Yield (number, bytes) of each parameter that a kernel's attributes list."""
    place = 0
    while place + 4 <= len(attributes):
        form, code, value = struct.unpack_from("<BBH", attributes, place)
        place += 4
        if form != _FORMAT_SIZED:
            continue
        if code == _PARAMETER_INFO:
            _, number, _, packed = struct.unpack_from("<IHHI", attributes, place)
            yield number, packed >> 18
        place += value
