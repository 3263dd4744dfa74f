"""A frozen set of kernels for decoding on a device, chosen once at construction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference import frame_pack, rms_silu
from .kernel_set import triton_unavailable_reason

_log = logging.getLogger("shotstream_rt.kernels")


class Convolve(Protocol):
    """A convolution of pictures or of clips, by the library."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]
    ) -> Tensor:
        """Convolve; see ``convolve``.

        Args:
            x: ``[B, C, H, W]``, or ``[B, C, F, H, W]`` over time too.
            weight: ``[O, C, K, K]``, or ``[O, C, T, K, K]``.
            bias: ``[O]``; ``None`` for none.
            padding: zeros at either end of each axis after the channels.
        """
        ...


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
    """Convolve by what the library takes for a shape.

    Args:
        x: ``[B, C, H, W]``, or ``[B, C, F, H, W]`` over time too.
        weight: ``[O, C, K, K]``, or ``[O, C, T, K, K]``.
        bias: ``[O]``; ``None`` for none.
        padding: zeros at either end of each axis after the channels.

    Returns:
        ``[B, O, H, W]`` or ``[B, O, F, H, W]``.
    """
    return (F.conv2d if x.dim() == 4 else F.conv3d)(x, weight, bias, padding=padding)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderKernels:
    """Callables with the signatures of ``kernels/reference``, and the convolutions between them.

    Attributes:
        name: ``reference`` or ``triton``.
        convolve: the library's convolutions; see ``model/measured_convolution.py`` for others.
    """

    name: str
    rms_silu: Callable[
        [Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor, bool, bool], None
    ]
    add_bias: Callable[[Tensor, Tensor | None, Tensor | None, Tensor, bool], None]
    frame_pack: Callable[[Tensor], Tensor]
    convolve: Convolve = convolve


REFERENCE_DECODER = DecoderKernels(
    name="reference",
    rms_silu=rms_silu.rms_silu,
    add_bias=rms_silu.add_bias,
    frame_pack=frame_pack.frame_pack,
)


@cache
def triton_decoder_kernels() -> DecoderKernels:
    """Build the set for GPUs."""
    from ..gpu import frame_pack as gpu_pack
    from ..gpu import rms_silu as gpu_norm

    return DecoderKernels(
        name="triton",
        rms_silu=gpu_norm.rms_silu,
        add_bias=gpu_norm.add_bias,
        frame_pack=gpu_pack.frame_pack,
    )


def decoder_kernels(device: torch.device) -> DecoderKernels:
    """Return the fastest set of a device; logs why if that is not Triton's on a GPU."""
    if device.type != "cuda":
        return REFERENCE_DECODER
    reason = triton_unavailable_reason()
    if reason is not None:
        _log.warning("decoding on %s with the reference kernels: %s", device, reason)
        return REFERENCE_DECODER
    return triton_decoder_kernels()
