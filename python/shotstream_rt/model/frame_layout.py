"""Convolutions over frames whose channels come last, ``[F, H, W, C]`` dense.

What the chunk programs share. A batch of one in this layout is torch's ``channels_last_3d`` and a
run of frames is one piece of memory, so a convolution over time reads its input and the frames
before it in place, and its result is the next kernel's input: nothing is copied.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shotstream_rt.kernels.sets.decoder_set import Convolve, convolve

_Layer = TypeVar("_Layer", bound=nn.Module)

WIDE = 8
"""Channels a convolution's result is padded to: tensor cores want multiples of it."""


def conv_over_time(
    lane: Tensor, weight: Tensor, bias: Tensor | None = None, run: Convolve = convolve
) -> Tensor:
    """Convolve frames together with those before them; same height and width.

    Args:
        lane: ``[T - 1 + F, H, W, C]``, the past first.
        weight: ``[O, C, T, K, K]``, ``K`` odd.
        bias: ``[O]``.
        run: convolves.

    Returns:
        ``[F, H, W, O]``.
    """
    edge = weight.shape[-1] // 2
    y = run(as_clip(lane), weight, bias, (0, edge, edge))
    return y[0].permute(1, 2, 3, 0).contiguous()


def as_clip(frames: Tensor) -> Tensor:
    """View ``[F, H, W, C]`` as a batch of one, ``[1, C, F, H, W]`` in ``channels_last_3d``."""
    # The batch axis is added first: torch reads the format off its stride too.
    return frames[None].permute(0, 4, 1, 2, 3)


def conv_frames(
    frames: Tensor, weight: Tensor, bias: Tensor | None = None, run: Convolve = convolve
) -> Tensor:
    """Convolve every frame alone, to ``[F, H, W, O]``.

    Args:
        frames: ``[F, H, W, C]``.
        weight: ``[O, C, K, K]``, ``K`` odd.
        bias: ``[O]``; ``None`` for none.
        run: convolves.
    """
    edge = weight.shape[-1] // 2
    y = run(frames.permute(0, 3, 1, 2), weight, bias, (edge, edge))
    return y.permute(0, 2, 3, 1).contiguous()


def enlarge(frames: Tensor, weight: Tensor, run: Convolve = convolve) -> Tensor:
    """Double height and width and convolve, as one convolution of the frames as they are.

    Args:
        frames: ``[F, H, W, C]``.
        weight: from ``enlarging_weight``.
        run: convolves.

    Returns:
        ``[F, 2 H, 2 W, O]``.
    """
    count, height, width, _ = frames.shape
    quarters = run(frames.permute(0, 3, 1, 2), weight, None, (1, 1))
    quarters = quarters.permute(0, 2, 3, 1).contiguous()  # [F, H + 1, W + 1, 4 O]
    frame, row, column, _ = quarters.stride()
    outputs = column // 4
    # Row 2 m + a of the result is quarter a of row m + a; columns likewise.
    woven = quarters.as_strided(
        (count, height, 2, width, 2, outputs),
        (frame, row, row + 2 * outputs, column, column + outputs, 1),
    )
    return woven.reshape(count, 2 * height, 2 * width, outputs).contiguous()


def enlarging_weight(weight: Tensor) -> Tensor:
    """Fold nearest-neighbour doubling into the 3x3 convolution after it.

    Of a doubled picture's three neighbours two are equal, so along an axis an output sees two
    inputs: ``y[2m] = w0 x[m-1] + (w1 + w2) x[m]``, ``y[2m+1] = (w0 + w1) x[m] + w2 x[m+1]``.
    The even and odd rows and columns become four groups of channels of one 2x2 convolution: 4/9 of
    the products, and the doubled picture is never written. Sums are rounded once.

    Args:
        weight: ``[O, C, 3, 3]``.

    Returns:
        ``[4 O, C, 2, 2]``, channels last; groups in the order of rows, then columns.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    taps = torch.tensor(
        [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=wide, device=weight.device
    )
    folded = torch.einsum("air,ocrs,bjs->abocij", taps, weight.to(wide), taps).flatten(0, 2)
    return folded.to(weight.dtype).contiguous(memory_format=torch.channels_last)


def widened(weight: Tensor) -> Tensor:
    """Add output channels of zeros to ``[O, ...]`` up to a multiple of ``WIDE``."""
    missing = -weight.shape[0] % WIDE
    padded = F.pad(weight, (0, 0) * (weight.dim() - 1) + (0, missing))
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return padded.contiguous(memory_format=layouts[weight.dim()])


def spread(pairs: Tensor, factor: int, out: Tensor) -> None:
    """Turn groups of channels into consecutive frames.

    Args:
        pairs: ``[F, H, W, factor C]``; the first ``C`` channels are the earliest frame.
        factor: frames made of each.
        out: receives ``[factor F, H, W, C]``.
    """
    parts = pairs.unflatten(3, (factor, -1)).permute(0, 3, 1, 2, 4)
    out.unflatten(0, (-1, factor)).copy_(parts)


def layers_of(layers: nn.Module, kind: type[_Layer]) -> list[_Layer]:
    """Return the layers of one kind among a sequence's, in order."""
    return [layer for layer in layers.children() if isinstance(layer, kind)]
