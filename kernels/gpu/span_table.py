"""Which keys each head reads, as a table on the device; for the kernels of pruned history."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..reference.history_attention import Spans
from ..tuning import on_device

MAX_SPANS = 3
"""The ring wraps around once, so a head reads at most: the context, the frames up to the ring's
end, and those from its beginning."""


def span_table(spans: Sequence[Spans], heads: int, keys: int, device: torch.device) -> Tensor:
    """Return which keys each head reads, as kernels read it.

    Args:
        spans: per head, half-open ranges of keys; at most 3.
        heads: how many there are.
        keys: how many there are.
        device: where the table is wanted.

    Returns:
        int32 ``[N * 7]``: rows ``head, begin, end, begin, end, begin, end``, the head with the most
        keys first; no span is ``(0, 0)``.

    Raises:
        ValueError: not one entry per head, or a span outside of the keys.
    """
    if len(spans) != heads:
        raise ValueError(f"spans: got {len(spans)} entries, wanted one per head, {heads}")
    for head, own in enumerate(spans):
        inside = all(0 <= begin < end <= keys for begin, end in own)
        if not inside or not 1 <= len(own) <= MAX_SPANS:
            raise ValueError(
                f"spans of head {head}: got {own}, wanted 1 to {MAX_SPANS} ranges within {keys} "
                "keys"
            )
    order = sorted(range(heads), key=lambda head: -sum(end - begin for begin, end in spans[head]))
    padding = [(0, 0)] * MAX_SPANS
    rows = [
        [head, *(number for pair in [*spans[head], *padding][:MAX_SPANS] for number in pair)]
        for head in order
    ]
    return on_device([number for row in rows for number in row], torch.int32, device)
