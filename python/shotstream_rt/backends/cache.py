"""The dual KV cache of one film: tensors only; every index comes from a plan.

One arena per layer, ``[context slots | local ring]``, indexed by token: row ``t`` is token ``t`` of
the slots in order, whatever the layout in memory. Nothing is ever moved or cloned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..config import ModelConfig, StreamConfig
from ..device.lent_memory import LentMemory, MemoryLender
from ..device.own_memory import bytes_together, copies_in
from ..errors import ConfigError
from ..kernels.sets.arena_layout import (
    E4M3,
    ArenaLayout,
    ArenaPart,
    ArenaScales,
    ResultScales,
    ScaledPart,
)

_NO_SCALES = ArenaScales()


def check_layout(layout: ArenaLayout, config: StreamConfig) -> None:
    """Refuse an arena in 8 bits where passes do more with keys than attend to all of them.

    Args:
        layout: what the kernel set asks for.
        config: what passes do.

    Raises:
        ConfigError: keys are rotated as they are read, or history is pruned.
    """
    if not layout.keys_in_8_bits:
        return
    if config.cache.key_rotation != "on_write":
        raise ConfigError(
            f"CacheConfig.key_rotation: got {config.cache.key_rotation!r}, wanted 'on_write' with "
            "keys in 8 bits: a key that is rotated when it is read would be rounded twice; use "
            "profile fp8"
        )
    if config.history is not None:
        raise ConfigError(
            "StreamConfig.history: got a policy, wanted None with keys in 8 bits: no kernel reads "
            "spans of such an arena; use profile fast, whose keys are in the model's type"
        )


class KVArena:
    """Keys and values of one layer.

    Args:
        tokens: rows.
        heads: attention heads.
        head_dim: features per head.
        layout: what is kept in 8 bits, and how it lies in memory.
        dtype: element type of what is not in 8 bits.
        device: where it lives.
        scales: of what is in 8 bits, on ``device``.

    Attributes:
        k: memory of the keys, ``[rows, N, D]``.
        v: memory of the values; like ``k``, but ``[N, D, rows]`` where they are in 8 bits.
        keys: what the kernel set writes keys to: ``k``, with its scales in 8 bits.
        values: what it writes values to: ``v``, likewise.
    """

    def __init__(
        self,
        tokens: int,
        heads: int,
        head_dim: int,
        *,
        layout: ArenaLayout,
        dtype: torch.dtype,
        device: torch.device,
        scales: ArenaScales = _NO_SCALES,
    ) -> None:
        self._layout, self._scales = layout, scales
        rows = layout.rows(tokens)
        shape = (rows, heads, head_dim)
        self.k: Tensor
        self.v: Tensor
        if layout.keys_in_8_bits:
            self.k = torch.zeros(shape, dtype=E4M3, device=device)
            if layout.values_in_8_bits:
                self.v = torch.zeros(heads, head_dim, rows, dtype=E4M3, device=device)
            else:
                self.v = torch.zeros(shape, dtype=dtype, device=device)
        elif layout.head_major:
            storage = torch.zeros(2, heads, rows, head_dim, dtype=dtype, device=device)
            self.k, self.v = storage.transpose(1, 2).unbind(0)
        else:
            self.k, self.v = torch.zeros(2, *shape, dtype=dtype, device=device).unbind(0)
        self._result: ResultScales | None = None
        if layout.result_in_8_bits:
            assert scales.values is not None
            self._result = ResultScales.of(scales.values, rows)
        self.keys, self.values = _part(self.k, scales.keys), _part(self.v, scales.values)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.k.nbytes + self.v.nbytes

    def prefix(self, tokens: int) -> tuple[ArenaPart, ArenaPart]:
        """Keys and values of the first ``tokens`` rows, without a copy, as attention takes them.

        Tensors ``[1, tokens, N, D]``; in 8 bits a ``ScaledPart`` with such numbers. Where values
        are in 8 bits, these are ``[N, D, tokens]``, and keys whole groups of rows.
        """
        if self._scales == _NO_SCALES:
            return self.k[:tokens].unsqueeze(0), self.v[:tokens].unsqueeze(0)
        return self._scaled_prefix(tokens)

    def _scaled_prefix(self, tokens: int) -> tuple[ArenaPart, ArenaPart]:
        k, v = self.k[: self._layout.rows(tokens)].unsqueeze(0), self.v
        v = v[..., :tokens] if self._layout.values_in_8_bits else v[:tokens].unsqueeze(0)
        return _part(k, self._scales.keys), _part(v, self._scales.values, self._result)


class KeptParts:
    """What parts of the arenas held; calling it puts that back.

    Args:
        parts: of the arenas.
        memory: takes copies of them.
    """

    def __init__(self, parts: Sequence[Tensor], memory: LentMemory) -> None:
        self._parts, self._memory = parts, memory
        self._copies = copies_in(memory.piece, parts)

    def __call__(self) -> None:
        """Put it back."""
        for part, copy in zip(self._parts, self._copies, strict=True):
            part.copy_(copy)


class DualKVCache:
    """One arena per layer for the context frames and the running shot.

    Args:
        model: shape of the network.
        arena_frames: slots of a layer's arena.
        layout: see ``KVArena``.
        dtype: element type of what is not in 8 bits.
        device: where it lives.
        scales: by layer, of what is in 8 bits; default: nothing is.
    """

    def __init__(
        self,
        model: ModelConfig,
        arena_frames: int,
        *,
        layout: ArenaLayout,
        dtype: torch.dtype,
        device: torch.device,
        scales: Sequence[ArenaScales] | None = None,
    ) -> None:
        self.frame_tokens, self._layout = model.tokens_per_frame, layout
        self.arenas = [
            KVArena(
                arena_frames * self.frame_tokens,
                model.num_heads,
                model.head_dim,
                layout=layout,
                dtype=dtype,
                device=device,
                scales=own,
            )
            for own in scales or [_NO_SCALES] * model.num_layers
        ]
        # Every chunk keeps some slots for a while.
        self._lender = MemoryLender(device)

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(arena.nbytes for arena in self.arenas)

    @staticmethod
    def bytes_of(
        model: ModelConfig, arena_frames: int, layout: ArenaLayout, dtype: torch.dtype
    ) -> int:
        """Return how many bytes a cache of these arguments holds, without making one.

        Args:
            model: shape of the network.
            arena_frames: slots of a layer's arena.
            layout: what the kernels store.
            dtype: of activations.
        """
        tokens = arena_frames * model.tokens_per_frame
        own = layout.bytes_of(tokens, model.num_heads, model.head_dim, dtype)
        return model.num_layers * own

    def keep(self, slots: Sequence[int] | None = None) -> KeptParts:
        """Copy what all layers hold; calling the result puts it back.

        Args:
            slots: copy these alone; default: all.
        """
        parts = [part for arena in self.arenas for part in self._parts(arena, slots)]
        return KeptParts(parts, self._lender.lend(bytes_together(parts)))

    def close(self) -> None:
        """Drop all memory."""
        self.arenas.clear()
        self._lender.clear()

    def _parts(self, arena: KVArena, slots: Sequence[int] | None) -> Iterator[Tensor]:
        """Yield the memory of some slots, or of all."""
        # Where values are in 8 bits, sixteen rows are stored together, whatever slots they are of.
        if slots is None or self._layout.values_in_8_bits:
            yield from (arena.k, arena.v)
            return
        for slot in slots:
            rows = slice(slot * self.frame_tokens, (slot + 1) * self.frame_tokens)
            yield from (arena.k[rows], arena.v[rows])

    def poison(self) -> None:
        """Fill with NaN, so that reading a slot that was never written shows."""
        for arena in self.arenas:
            arena.k.fill_(torch.nan)
            arena.v.fill_(torch.nan)


class CachedFilm:
    """What a film leaves to its cache; see ``FilmState``.

    Attributes:
        cache: the film's own.
    """

    cache: DualKVCache

    @torch.inference_mode()
    def keep(self, slots: Sequence[int] | None = None) -> Callable[[], None]:
        """See ``FilmState``."""
        return self.cache.keep(slots)

    def poison(self) -> None:
        """See ``FilmState``."""
        self.cache.poison()


def _part(numbers: Tensor, scales: Tensor | None, result: ResultScales | None = None) -> ArenaPart:
    return numbers if scales is None else ScaledPart(numbers, scales, result)
