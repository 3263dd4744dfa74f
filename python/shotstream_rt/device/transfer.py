"""Tensors from the host to a device, without waiting for the work queued there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def send(x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on ``device``, copied in the order of the current stream.

    From ordinary memory, the host would wait for everything queued before the copy. From
    page-locked memory it does not; torch keeps that memory until the copy is done.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
