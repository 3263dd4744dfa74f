"""Convolutions of the nano codec: torch's, and the native core's where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...kernels.cpu.avx2_products import PanelKernel, fits_images


class Convolution(nn.Conv2d):
    """A convolution of 3 x 3 pixels, padded by one.

    A frozen one is the native core's on a CPU with AVX2 and nothing wider, on one thread, with the
    bits of torch's. Its weight is packed when it is first used so.

    Args:
        inputs: channels.
        outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self._kernel: PanelKernel | None = None
        self._packed_from: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[B, in, h, w]`` to ``[B, out, h, w]``."""
        weight, bias = self.weight, self.bias
        wide = x.dtype == torch.float32
        if bias is None or weight.requires_grad or not (wide and fits_images(x, weight)):
            return super().forward(x)
        source = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        if self._kernel is None or source != self._packed_from:
            self._kernel, self._packed_from = PanelKernel(weight, bias), source
        return self._kernel.convolve(x)
