"""Checks the normalisation table inside a tokenizer's file before a library walks it.

The table is a trie over UTF-8 bytes and, behind it, the texts that its leaves point at. The
libraries follow its offsets without looking: one flipped bit ends the process or reads memory that
is not the table's.

Source: SentencePiece's ``precompiled_charsmap``; darts-clone's double array.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

_UNIT_BYTES = 4
_AT_ONCE = 4096
_LABELS = np.arange(1, 256, dtype=np.int64)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NORMALIZER_SPEC, _CHARSMAP = 3, 2
"""Fields of SentencePiece's ``ModelProto`` and ``NormalizerSpec``."""


def check_charsmap(data: bytes) -> None:
    """Follow every path through the table.

    Args:
        data: size of the trie in bytes (uint32), the trie (uint32 units), texts ended by zeros.

    Raises:
        ValueError: a size or an offset leads out of the table; says which.
    """
    if len(data) < _UNIT_BYTES:
        raise ValueError(f"normalisation table of {len(data)} bytes, wanted at least {_UNIT_BYTES}")
    (size,) = struct.unpack_from("<I", data)
    if size == 0 or size % _UNIT_BYTES or size > len(data) - _UNIT_BYTES:
        raise ValueError(f"normalisation table of {len(data)} bytes with a trie of {size}")
    units = np.frombuffer(data, "<u4", size // _UNIT_BYTES, _UNIT_BYTES).astype(np.int64)
    texts = np.frombuffer(data, np.uint8, offset=_UNIT_BYTES + size)
    data[_UNIT_BYTES + size :].decode("utf-8")  # UnicodeDecodeError is a ValueError
    # Where a text may begin: not inside of a character.
    begins = np.append((texts & 0xC0) != 0x80, True)
    seen = np.zeros(len(units), dtype=bool)
    pending = [_offsets(units[:1])]
    while pending:
        nodes = pending.pop()
        if len(nodes) > _AT_ONCE:
            pending.append(nodes[_AT_ONCE:])
            nodes = nodes[:_AT_ONCE]
        places = nodes[:, None] ^ _LABELS
        _inside(places, len(units))
        children = places[units[places] & 0x800000FF == _LABELS]
        children = np.unique(children[~seen[children]])
        if not children.size:
            continue
        seen[children] = True
        found = units[children]
        nodes = children ^ _offsets(found)
        leaves = nodes[(found >> 8) & 1 == 1]
        _inside(leaves, len(units))
        starts = units[leaves] & 0x7FFFFFFF
        if (starts >= len(begins)).any() or not begins[starts].all():
            raise ValueError("normalisation table: a leaf points at no text")
        pending.append(nodes)


def _offsets(units: np.ndarray) -> np.ndarray:
    return (units >> 10) << ((units & (1 << 9)) >> 6)


def _inside(places: np.ndarray, count: int) -> None:
    if places.size and places.max() >= count:
        raise ValueError(f"normalisation table: unit {places.max()} of {count} is pointed at")


def charsmap_of_sentencepiece(model: bytes) -> bytes:
    """Return the normalisation table of a ``spiece.model``; empty if it has none.

    Raises:
        ValueError: the bytes are not a message of Protocol Buffers.
    """
    table = b""
    for number, spec in _fields(model):
        if number == _NORMALIZER_SPEC:
            for inner, value in _fields(spec):
                if inner == _CHARSMAP:
                    table = value
    return table


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Give number and bytes of each field that is a string or a message."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, place = _varint(message, place)
            if length > len(message) - place:
                raise ValueError(f"cut off inside field {tag >> 3}")
            yield tag >> 3, message[place : place + length]
            place += length
        else:
            raise ValueError(f"field {tag >> 3} of unknown kind {kind}")
    if place > len(message):
        raise ValueError("cut off inside a number")


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("cut off inside a number")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number of more than ten bytes")
