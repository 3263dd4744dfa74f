"""Captions after the text encoder: what the student is conditioned on.

Made by the session from a ``TextEncoder``'s output, read by the pipeline and the backends. Holds
tensors, and of the text no more than what tells equal captions apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionSet:
    """Embeddings of the captions of one pass, one row per shot.

    Making one checks nothing: what is made by hand goes through ``checked``. A film need not do so,
    because what a text encoder returns is checked once, when it comes.

    Attributes:
        embeddings: ``[N, text_len, text_dim]`` float; positions at or past a row's length are zero,
            and they do take part in cross-attention.
        lengths: real tokens of each row, ``0 <= lengths[i] <= text_len``, on the host.
        keys: one for each row; rows of equal keys are equal, whatever set of a film they are in, so
            that what was computed of one need not be computed again. ``None``: nothing is known.
    """

    embeddings: Tensor
    lengths: tuple[int, ...]
    keys: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def checked(self) -> CaptionSet:
        """Return the set.

        Raises:
            ConfigError: embeddings, lengths and keys do not belong together.
        """
        shape = self.embeddings.shape
        one_each = len(shape) == 3 and shape[0] == len(self.lengths) > 0
        if not one_each or not all(0 <= length <= shape[1] for length in self.lengths):
            raise unfit_captions(self.embeddings, self.lengths)
        if self.keys is not None and len(self.keys) != len(self.lengths):
            raise ConfigError(
                f"CaptionSet.keys: got {len(self.keys)}, wanted {len(self.lengths)}: one a caption"
            )
        return self

    def select(self, rows: Sequence[int]) -> CaptionSet:
        """Return the captions at ``rows``, in that order, in new memory."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.embeddings.device)
        return CaptionSet(
            embeddings=self.embeddings.index_select(0, index),
            lengths=tuple(self.lengths[row] for row in rows),
        ).checked()

    def append(self, other: CaptionSet) -> CaptionSet:
        """Return these captions followed by ``other``'s; dtype and device are those of ``self``."""
        added = other.embeddings.to(self.embeddings)
        if added.shape[1:] != self.embeddings.shape[1:]:
            raise ConfigError(
                f"CaptionSet.append: got rows of {tuple(added.shape[1:])}, wanted "
                f"{tuple(self.embeddings.shape[1:])} (text_len, text_dim of the same encoder)"
            )
        return CaptionSet(
            embeddings=torch.cat((self.embeddings, added)), lengths=self.lengths + other.lengths
        ).checked()

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> CaptionSet:
        """Return the set on another device or in another float type."""
        moved = self.embeddings.to(device=device, dtype=dtype)
        return CaptionSet(embeddings=moved, lengths=self.lengths)


def unfit_captions(embeddings: Tensor, lengths: Sequence[int]) -> ConfigError:
    """Return what is wrong with embeddings and lengths that do not make a ``CaptionSet``."""
    shape = tuple(embeddings.shape)
    if len(shape) == 3 and shape[0] == len(lengths) > 0:
        return ConfigError(
            f"CaptionSet.lengths: got {tuple(lengths)}, wanted 0 to text_len {shape[1]}"
        )
    return ConfigError(
        f"CaptionSet: got embeddings {shape} with {len(lengths)} length(s), wanted "
        "[captions, text_len, text_dim] with one length per caption and at least one"
    )


@runtime_checkable
class TextEncoder(Protocol):
    """Prompts in, caption embeddings out; umT5 or the nano encoder."""

    @property
    def text_dim(self) -> int:
        """Width of an embedding."""
        ...

    @property
    def text_len(self) -> int:
        """Positions of every caption, padding included."""
        ...

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Encode prompts.

        Returns:
            Embeddings ``[N, text_len, text_dim]`` with zero rows at and past each length, and the
            lengths.
        """
        ...

    def check(self, prompt: str) -> list[str]:
        """Return notes a user should see about a prompt: unknown words, truncation."""
        ...
