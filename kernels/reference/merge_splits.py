"""Join the parts of tiles of queries that were attended to over separate keys."""

from __future__ import annotations

from torch import Tensor


def merge_splits(parts: Tensor, log_sums: Tensor, out: Tensor, first_tile: int) -> None:
    """Write ``sum_s 2^log_sums_s parts_s / sum_s 2^log_sums_s`` to the tiles' rows of ``out``.

    Args:
        parts: float32 ``[tiles, S, R, D]``, each softmax-weighted over its own keys, ``R`` queries
            to a tile.
        log_sums: float32 ``[tiles, S, R]``, log2 of each part's sum of exponentials.
        out: ``[T, N, D]``, heads of a token side by side; rows of other tiles stay.
        first_tile: number of the first tile; tile ``i`` is block ``i mod b`` of head ``i / b``,
            with ``b = ceil(T / R)``.
    """
    queries, rows = out.shape[0], parts.shape[2]
    blocks = -(-queries // rows)
    weights = (log_sums.double() - log_sums.double().amax(1, keepdim=True)).exp2()
    merged = (parts * weights[..., None]).sum(1) / weights.sum(1)[..., None]
    for index, tile in enumerate(merged, first_tile):
        first = index % blocks * rows
        out[first : first + rows, index // blocks] = tile[: queries - first].to(out.dtype)
