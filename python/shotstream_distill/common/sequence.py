"""Training sequences and their captions, as the networks of every training read them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Parameters = dict[str, Tensor]
"""A network's parameters under the student's state-dict names."""

KeysValues = tuple[Tensor, Tensor]
"""Rotated keys and values of one layer, each ``[B, N, T, D]``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Captions:
    """Captions of a batch, padding folded into one key.

    Attributes:
        embeddings: ``[B, S, L, text_dim]``, zero past each length.
        lengths: int64 ``[B, S]``; 0 stands for a dropped caption.
        text_len: positions the student attends to, padding included.
    """

    embeddings: Tensor
    lengths: Tensor
    text_len: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sequence:
    """One training sequence per sample: ``shared`` frames, then ``groups`` of equal size.

    Attributes:
        latents: ``[B, F, C, h, w]``.
        times: ``[B, F]`` in [0, 1] (noise level; 0 is clean).
        caption_index: int64 ``[B, F]`` rows of the captions.
        positions: ``[B, F]`` temporal positions.
        flags: ``[B, F]`` shot flags.
        shared: frames at the front that are shared keys.
        context: the first of them, that are context.
        groups: noisy groups behind them.
        shared_groups: frames of each group of shared frames, in order; a group sees itself and the
            groups before it. Empty: all see all.
        visible: leading shared frames that each noisy group sees. Empty: all of them.
    """

    latents: Tensor
    times: Tensor
    caption_index: Tensor
    positions: Tensor
    flags: Tensor
    shared: int
    context: int
    groups: int
    shared_groups: tuple[int, ...] = ()
    visible: tuple[int, ...] = ()
