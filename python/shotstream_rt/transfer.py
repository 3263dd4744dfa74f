"""Numbers from the host to a device without waiting for what the device is at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def send(x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on ``device``; ordered with the current stream's work.

    A plain copy to a GPU waits until everything queued before it is done. From page-locked memory
    it does not; torch keeps that memory until the copy is over.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
