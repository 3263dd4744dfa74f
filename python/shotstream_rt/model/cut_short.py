"""Where a torch file ends that is cut short: the zip's own directory, at its end, is lost then.

Called by ``torch_file.py`` for its message alone. The list of tensors is the archive's first entry;
it is read operation by operation and never run.

Source: torch's zip container (entries uncompressed and in order, sizes behind the data) and the
pickle in it.
"""

from __future__ import annotations

import pickletools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shotstream_rt.printable import printable

_ENTRY = b"PK\x03\x04"
_HEADER = struct.Struct("<4s22sHH")
_LIST_ENDING, _DATA_PART = "/data.pkl", "/data/"
_MAX_LIST_BYTES = 64 << 20
_SMALL_ENTRY_BYTES = 4096
_REBUILD = "torch._utils _rebuild_tensor_v2"
_ITEM_BYTES = {
    "DoubleStorage": 8, "LongStorage": 8, "FloatStorage": 4, "IntStorage": 4, "HalfStorage": 2,
    "BFloat16Storage": 2, "ShortStorage": 2, "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1,
}  # fmt: skip
_STRINGS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "UNICODE"})
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1"})
_PUTS, _GETS = frozenset({"BINPUT", "LONG_BINPUT"}), frozenset({"BINGET", "LONG_BINGET"})


@dataclass(frozen=True, slots=True)
class _Storage:
    """The bytes of one tensor in the archive."""

    tensor: str
    nbytes: int


def where_it_ends(path: Path) -> str | None:
    """Say in which tensor a torch file ends before its time, or ``None`` if that cannot be told."""
    try:
        with path.open("rb") as file:
            return _where(file, path.stat().st_size)
    except (OSError, ValueError, TypeError, ArithmeticError, LookupError, struct.error):
        return None  # the message is then the library's own


def _where(file: BinaryIO, size: int) -> str | None:
    name, data = _entry(file, 0)
    if not name.endswith(_LIST_ENDING):
        return None
    file.seek(data)
    text = file.read(min(size - data, _MAX_LIST_BYTES))
    storages, length = _storages(text)
    front = name.removesuffix(_LIST_ENDING) + _DATA_PART
    place = _next(file, data + length)
    seen = 0
    while place is not None:
        name, data = _entry(file, place)
        storage = storages.get(name.removeprefix(front)) if name.startswith(front) else None
        if storage is None:
            place = _next(file, data)
            continue
        if data + storage.nbytes > size:
            return (
                f"it ends in tensor {printable(storage.tensor, 200)!r}, of which it has "
                f"{max(0, size - data)} of {storage.nbytes} bytes, and lacks "
                f"{len(storages) - seen} of {len(storages)} tensors"
            )
        seen += 1
        place = _next(file, data + storage.nbytes)
    if seen < len(storages):
        return None
    return f"its {seen} tensors are there, but the directory behind them is cut short"


def _entry(file: BinaryIO, place: int) -> tuple[str, int]:
    """Return an entry's name and where its data begins."""
    file.seek(place)
    mark, _, name_length, extra_length = _HEADER.unpack(file.read(_HEADER.size))
    if mark != _ENTRY:
        raise ValueError("not an entry of a zip archive")
    name = file.read(name_length).decode("utf-8")
    return name, place + _HEADER.size + name_length + extra_length


def _next(file: BinaryIO, place: int) -> int | None:
    """Return where the next entry begins, a little behind ``place``."""
    file.seek(place)
    found = file.read(_SMALL_ENTRY_BYTES).find(_ENTRY)
    return None if found < 0 else place + found


def _storages(text: bytes) -> tuple[dict[str, _Storage], int]:
    """Return the storages that a list of tensors names, and how long the list is."""
    storages: dict[str, _Storage] = {}
    memo: dict[int, Any] = {}
    value: Any = None
    tensor = ""
    since_mark: list[Any] = []
    for operation, argument, at in pickletools.genops(text):
        kind = operation.name
        if kind in _PUTS:
            memo[int(argument or 0)] = value
            continue
        if kind == "MARK":
            since_mark = []
        elif kind == "BINPERSID":
            _, storage_kind, key, _, count = since_mark[:5]
            item = _ITEM_BYTES.get(str(storage_kind).rpartition(" ")[2], 1)
            storages.setdefault(str(key), _Storage(tensor, int(count) * item))
        previous = value
        value = None
        if kind in _STRINGS or kind in _NUMBERS or kind == "GLOBAL":
            value = argument
        elif kind in _GETS:
            value = memo.get(int(argument or 0))
        if value == _REBUILD and isinstance(previous, str):
            tensor = previous
        if value is not None:
            since_mark.append(value)
        if kind == "STOP":
            return storages, (at or 0) + 1
    raise ValueError("the list of tensors is cut short itself")
