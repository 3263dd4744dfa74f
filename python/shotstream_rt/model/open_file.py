"""A checkpoint's file while its tensors are being read."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.printable import printable

from .lazy_tensors import spots, temporary


class OpenFile:
    """A file that stays open for reads at an offset; renaming or deleting it changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path.open("rb", buffering=0)
        self._file, self._lock = file, threading.Lock()
        weakref.finalize(self, file.close)

    def size(self) -> int:
        """Return how many bytes the file has now."""
        return os.fstat(self._file.fileno()).st_size

    def is_at(self, path: Path) -> bool:
        """Tell whether this is still the file of that name."""
        return os.path.samestat(os.fstat(self._file.fileno()), path.stat())

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes from ``offset`` on.

        Raises:
            OSError: the file ends too early, or cannot be read.
        """
        with self._lock:
            self._file.seek(offset)
            while buffer:
                count = self._file.readinto(buffer)
                if not count:
                    raise OSError("the file ends too early")
                buffer = buffer[count:]

    def sample(self, offset: int, length: int) -> bytes:
        """Return some of the ``length`` bytes from ``offset`` on; see ``spots``.

        Raises:
            WeightsError: the file ends too early, or cannot be read.
        """
        pieces = [bytearray(end - start) for start, end in spots(length)]
        try:
            for piece, (start, _) in zip(pieces, spots(length), strict=True):
                self.read_into(memoryview(piece), offset + start)
        except OSError as error:
            raise WeightsError(
                f"{self.path}: could not be read ({first_line(error)}); was the file changed "
                "while it was being loaded?"
            ) from error
        return b"".join(pieces)

    def fill(self, dtype: torch.dtype, offset: int, tensor: Tensor) -> None:
        """Fill a contiguous tensor from the bytes at ``offset``.

        Args:
            dtype: of the values in the file.
            offset: of the first one.
            tensor: gets them, cast to its type.

        Raises:
            WeightsError: the file ends too early, or cannot be read.
        """
        direct = tensor.device.type == "cpu" and tensor.dtype == dtype
        target = tensor if direct else temporary(tuple(tensor.shape), dtype)
        try:
            self.read_into(target.view(-1).view(torch.uint8).numpy().data, offset)
        except OSError as error:
            raise WeightsError(
                f"{self.path}: a tensor of shape {tuple(tensor.shape)} could not be read "
                f"({first_line(error)}); was the file changed while it was being loaded?"
            ) from error
        if not direct:
            tensor.copy_(target)


def first_line(error: object) -> str:
    """Return the first line of another library's message, short and fit to be shown."""
    text = str(error).strip()
    return printable(text.splitlines()[0], 200) if text else type(error).__name__
