"""Named tensors that are read when they are asked for.

Made by ``checkpoint.py`` from a file's header; checked, renamed and merged while a model is opened,
before any data is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.printable import printable

_LISTED = 5  # names per message: enough to see the pattern
_SAMPLE_BYTES = 4096
_LARGEST = 1e18
"""A larger weight's square is infinite in float32, and every norm squares what weights make."""


@dataclass(frozen=True, slots=True, eq=False)
class LazyTensor:
    """A tensor that is read when it is asked for.

    Attributes:
        shape: known without reading.
        dtype: likewise.
        fill: writes the values into a contiguous tensor of this shape, of any type and on any
            device. What else it needs meanwhile comes from ``temporary``.
        origin: file and name for messages. Where it is given, values that no network can compute
            with (NaN, infinite, beyond 1e18) are refused when the tensor is read.
        may_be_infinite: infinite values mean something, such as a limit that is never reached.
        sample: returns a few of its bytes without reading all; see ``spots``.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: Callable[[Tensor], None]
    origin: str | None = None
    may_be_infinite: bool = False
    sample: Callable[[], bytes] | None = None

    def read(self) -> Tensor:
        """Return it on the CPU; it shares memory neither with the file nor with other reads."""
        return self.to("cpu", self.dtype)

    def to(
        self, device: torch.device | str, dtype: torch.dtype, *, briefly: bool = False
    ) -> Tensor:
        """Read it to a device, cast to a type; other memory that this needs is freed at the end.

        Args:
            device: where the tensor is made.
            dtype: of the tensor.
            briefly: it will be dropped soon; on a CPU it then comes from ``temporary``.

        Raises:
            WeightsError: it has an ``origin`` and values that no network can compute with, or
                there is no memory for it.
        """
        try:
            if briefly and torch.device(device).type == "cpu":
                tensor = temporary(self.shape, dtype)
            else:
                tensor = torch.empty(self.shape, dtype=dtype, device=device)
        except (OSError, RuntimeError, MemoryError, TypeError) as error:
            raise WeightsError(
                f"{self.origin or 'a tensor'}: no memory on {device} for a tensor of "
                f"{printable(self.shape, 80)} in {dtype}"
            ) from error
        with torch.no_grad():
            self.fill(tensor)
            if self.origin is not None:
                _check_values(tensor, self.origin, self.may_be_infinite)
        return tensor

    def sampled(self) -> bytes:
        """Return the bytes at a few spots, to tell weights apart; reads little where it can."""
        if self.sample is not None:
            return self.sample()
        return sample_of(self.read())


def spots(length: int) -> list[tuple[int, int]]:
    """Return where samples of ``length`` bytes are taken: begin and end of each, in bytes.

    All of it where it is short, else a few kilobytes at its beginning, middle and end.
    """
    if length <= 3 * _SAMPLE_BYTES:
        return [(0, length)]
    middle = (length - _SAMPLE_BYTES) // 2
    starts = (0, middle, length - _SAMPLE_BYTES)
    return [(start, start + _SAMPLE_BYTES) for start in starts]


def sample_of(tensor: Tensor) -> bytes:
    """Return a tensor's bytes at its ``spots``."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    pieces = (flat[start:end].cpu() for start, end in spots(flat.numel()))
    return b"".join(piece.numpy().tobytes() for piece in pieces)


def _check_values(tensor: Tensor, origin: str, may_be_infinite: bool) -> None:
    if tensor.is_meta or not tensor.numel() or not tensor.dtype.is_floating_point:
        return
    # A sum is the cheapest pass over all values: any that is NaN or infinite makes it so, and one
    # that is too large makes it too large. Whether values are at fault is then looked at for good.
    if abs(float(tensor.sum())) <= _LARGEST:
        return
    # Both are NaN if any value is.
    low, high = (float(edge) for edge in torch.aminmax(tensor))
    if math.isnan(low) or math.isnan(high):
        what = "NaN"
    elif may_be_infinite or (low >= -_LARGEST and high <= _LARGEST):
        return
    else:
        what = f"values from {low:.3g} to {high:.3g}"
    raise WeightsError(
        f"{origin}: got {what}, wanted finite numbers of at most {_LARGEST:g}; the file is damaged "
        "or the training that wrote it diverged. Take another copy or an earlier checkpoint."
    )


def temporary(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor of zeros on the CPU whose memory goes back to the system when it is dropped.

    Memory from the usual allocator would stay with the process, in pieces between the tensors that
    are kept: casting a whole model that way takes up to half as much memory again.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
    """
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype, device="cpu")
    pages = mmap.mmap(-1, count * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).reshape(shape)


class LazyTensors(Mapping[str, Tensor]):
    """Named tensors of which each is read when it is asked for, every time it is asked for.

    To choose, rename or check without reading, work on ``entries``. Iterating over ``items()``
    reads one tensor at a time.

    Args:
        entries: name to tensor.
    """

    def __init__(self, entries: Mapping[str, LazyTensor]) -> None:
        self.entries: dict[str, LazyTensor] = dict(entries)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> LazyTensors:
        """Return ``state`` as it is if it is lazy, else wrapped: reading then copies."""
        if isinstance(state, LazyTensors):
            return state
        return cls({
            name: LazyTensor(
                tuple(tensor.shape), tensor.dtype, partial(copy_into, tensor),
                sample=partial(sample_of, tensor),
            )
            for name, tensor in state.items()
        })  # fmt: skip

    def checked(self, source: str, infinite: Callable[[str], bool] | None = None) -> LazyTensors:
        """Return the same tensors, refused when they are read with values that are not usable.

        Tensors that are checked already stay as they are.

        Args:
            source: the file, named in errors.
            infinite: tells by name which tensors may hold infinite values; none by default.
        """
        return LazyTensors({
            name: dataclasses.replace(
                entry,
                origin=f"{source}: tensor {printable(name, 200)!r}",
                may_be_infinite=infinite is not None and infinite(name),
            )
            if entry.origin is None
            else entry
            for name, entry in self.entries.items()
        })  # fmt: skip

    def digest(self) -> str:
        """Return a digest of names, shapes, types and some bytes of every tensor.

        The same for the same weights in files of another format. Tells weights apart that were
        trained differently; a change of a few bytes in a large tensor may not show.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self.entries):
            entry = self.entries[name]
            digest.update(f"{name!r} {entry.shape} {entry.dtype};".encode("utf-8", "replace"))
            digest.update(entry.sampled())
        return digest.hexdigest()

    def __getitem__(self, name: str) -> Tensor:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries  # the inherited one reads the tensor

    def __repr__(self) -> str:
        return f"LazyTensors({len(self)} tensors: {listing(self)})"


def listing(names: Iterable[str]) -> str:
    """Return the first few names for a message."""
    shown = [printable(name, 120) for name in itertools.islice(iter(names), _LISTED + 1)]
    return ", ".join(shown[:_LISTED]) + (", ..." if len(shown) > _LISTED else "")


def copy_into(tensor: Tensor, into: Tensor) -> None:
    """Fill ``into`` with the values of a tensor in memory: what ``LazyTensor.fill`` does then."""
    into.copy_(tensor.detach())
