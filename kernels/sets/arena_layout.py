"""What one layer's arena holds, and how: said by a kernel set, allocated by the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..reference.dual_attention_fp8 import KEY_GROUP

E4M3 = torch.float8_e4m3fn


class ResultScales(NamedTuple):
    """Scales of an attention's result in e4m3: of its heads, and of its rows.

    Attributes:
        shares: float32 ``[N]``, scales of the values over the largest of them.
        rows: float32 ``[tokens, 1]``, the largest in each row, as products want it.
    """

    shares: Tensor
    rows: Tensor

    @classmethod
    def of(cls, scales: Tensor, tokens: int) -> ResultScales:
        """Make them of the values' scales ``[N]``, for at most ``tokens`` queries."""
        largest = scales.amax()
        return cls(scales / largest, largest.repeat(tokens, 1))


class ScaledPart(NamedTuple):
    """Keys or values in e4m3.

    Attributes:
        numbers: what is stored, in the layout of ``reference.dual_attention_fp8``.
        scales: float32 ``[N]``; a head's numbers times its scale are its keys or values.
        result: of values whose attention leaves its result in 8 bits.
    """

    numbers: Tensor
    scales: Tensor
    result: ResultScales | None = None


class ArenaScales(NamedTuple):
    """Scales of one layer's arena, float32 ``[N]`` each; ``None`` for what is not in 8 bits."""

    keys: Tensor | None = None
    values: Tensor | None = None


ArenaPart: TypeAlias = Any
"""Keys or values of an arena: a tensor ``[tokens, N, D]``, or a ``ScaledPart``. Allocated as the
set's ``ArenaLayout`` says, so read and written by that set only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaLayout:
    """How keys and values lie in memory.

    Attributes:
        head_major: each head's rows lie together in memory (what CPU products want) instead of each
            token's heads (what GPU kernels want); caption keys and values lie likewise. An arena
            with a part in 8 bits is never head-major.
        keys_in_8_bits: keys are a ``ScaledPart``; otherwise they have the type of activations.
        values_in_8_bits: so are values, and both are laid out for ``dual_attention_fp8``: keys
            exchanged within sixteen rows, values transposed. Needs ``keys_in_8_bits``.
        result_in_8_bits: attention's result is ``Fp8Rows``, and values have the ``ResultScales``
            for it. Needs ``values_in_8_bits``.
    """

    head_major: bool = False
    keys_in_8_bits: bool = False
    values_in_8_bits: bool = False
    result_in_8_bits: bool = False

    def __post_init__(self) -> None:
        assert self.keys_in_8_bits or not self.values_in_8_bits, "values in 8 bits without keys"
        assert self.values_in_8_bits or not self.result_in_8_bits, "result in 8 bits without values"

    def bytes_of(self, tokens: int, heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Return what an arena holds; scales, a number per head, belong to the model.

        Args:
            tokens: rows asked for.
            heads: attention heads.
            head_dim: features per head.
            dtype: of activations.
        """
        parts = (self.keys_in_8_bits, self.values_in_8_bits)
        number = sum(E4M3.itemsize if small else dtype.itemsize for small in parts)
        return self.rows(tokens) * heads * head_dim * number

    def rows(self, tokens: int) -> int:
        """Rows that hold so many tokens: whole groups where keys are exchanged within them."""
        return -(-tokens // KEY_GROUP) * KEY_GROUP if self.values_in_8_bits else tokens
