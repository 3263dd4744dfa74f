"""Rows of e4m3 numbers with one scale each, made where the rows themselves are made.

    peak = max(|row|, 1e-12);  values = e4m3(row * (448 / peak));  scale = peak / 448
    quantise_rows(x)                    rows of x
    gelu_quantise(x)                    rows of gelu(x), the tanh approximation
    layer_norm_quantise(x)              rows of LN(x) * factor + offset
    gated_residual_norm_quantise(x, y)  z = x + y * gate, and rows of LN(z) * factor + offset

A row is the last axis. What is quantised is float32: the row is never rounded to the type of ``x``
in between. A row of zeros has values 0 and a tiny scale, not NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import adaln

LARGEST = 448.0
"""Largest e4m3 number."""

FLOOR = 1e-12
"""Smallest peak that a row is scaled by."""


class Fp8Rows(NamedTuple):
    """Quantised rows; ``values * scale`` stands for what was quantised.

    Attributes:
        values: float8_e4m3fn ``[..., width]``.
        scale: float32 ``[..., 1]``.
    """

    values: Tensor
    scale: Tensor

    def dequantise(self) -> Tensor:
        """Return float32 like ``values``."""
        return self.values.float() * self.scale

    def flatten(self, start: int) -> Fp8Rows:
        """Return rows whose axes from ``start`` on, heads and features, are one."""
        return Fp8Rows(self.values.flatten(start), self.scale)


def quantise_rows(x: Tensor) -> Fp8Rows:
    """Quantise along the last axis.

    Args:
        x: ``[..., width]``, finite, of any float type.
    """
    wide = x.float()
    peak = wide.abs().amax(-1, keepdim=True).clamp(min=FLOOR)
    return Fp8Rows((wide * (LARGEST / peak)).to(torch.float8_e4m3fn), peak / LARGEST)


def gelu_quantise(x: Tensor) -> Fp8Rows:
    """Apply the tanh approximation of GELU and quantise; see ``quantise_rows``."""
    return quantise_rows(F.gelu(x.float(), approximate="tanh"))


def layer_norm_quantise(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Fp8Rows:
    """Quantise ``reference.adaln.layer_norm`` of the same arguments.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        factor: ``[B or 1, F or 1, dim]``; each row serves one frame's tokens.
        offset: like ``factor``.
        eps: added to the variance.
    """
    return quantise_rows(adaln.layer_norm(x.float(), factor.float(), offset.float(), eps))


def gated_residual_norm_quantise(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Fp8Rows]:
    """Like ``reference.adaln.gated_residual_norm`` with its second result quantised.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        y: like ``x``.
        gate: ``[B or 1, F or 1, dim]``, or ``None`` for one.
        factor: like ``gate``; the norm's factor.
        offset: like ``factor``; the norm's offset.
        eps: added to the variance.

    Returns:
        ``z`` in the type of ``x``, and the rows of its norm; the norm reads the rounded ``z``.
    """
    total = x + y if gate is None else adaln.gated_residual(x, y, gate)
    return total, layer_norm_quantise(total, factor, offset, eps)
