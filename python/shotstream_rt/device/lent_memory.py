"""Memory that is lent, and lent again when what was made of it is gone.

For what is kept for a while again and again: new pages take longer than the copy that is put there.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from .own_memory import own_memory


class LentMemory:
    """A piece of memory, lent as long as somebody has this object.

    Args:
        piece: uint8 ``[bytes]``.

    Attributes:
        piece: uint8 ``[bytes]``; tensors that lie in it are not to be used longer than this object.
    """

    def __init__(self, piece: Tensor) -> None:
        self.piece = piece


class MemoryLender:
    """Lends pieces of memory; one thread at a time.

    Args:
        device: where it is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pieces: list[tuple[Tensor, weakref.ref[LentMemory] | None]] = []

    def __len__(self) -> int:
        """Pieces, lent or not."""
        return len(self._pieces)

    def lend(self, size: int) -> LentMemory:
        """Lend a piece of so many bytes, a new one if there is none of this size."""
        for number, (piece, lent) in enumerate(self._pieces):
            if len(piece) == size and (lent is None or lent() is None):
                del self._pieces[number]
                break
        else:
            piece = self._new(size)
        found = LentMemory(piece)
        self._pieces.append((piece, weakref.ref(found)))
        return found

    def lay_in(self, size: int, count: int) -> None:
        """See to it that there are so many pieces of a size, lent or not.

        Args:
            size: in bytes.
            count: how many.
        """
        missing = count - sum(len(piece) == size for piece, _ in self._pieces)
        self._pieces += [(self._new(size), None) for _ in range(missing)]

    def clear(self) -> None:
        """Let go of all pieces; those that are lent go with what was made of them."""
        self._pieces.clear()

    def _new(self, size: int) -> Tensor:
        return own_memory((size,), dtype=torch.uint8, device=self._device)
