"""What a backend is: execution of planned passes, and nothing of chunk history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .._native import ChunkPlan, ContextPlan
    from ..model.captions import CaptionSet


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """What a backend resolved to.

    Attributes:
        name: ``eager``, ``cuda_graph`` or ``tensorrt``.
        kernel_set: ``reference``, ``torch``, ``cpu`` or ``triton``.
        device: such as ``cpu`` or ``cuda:0``.
        dtype: type of weights, activations and caches, such as ``bfloat16``.
        cache_bytes: bytes of the dual cache.
        weight_bytes: bytes of the student's weights.
    """

    name: str
    kernel_set: str
    device: str
    dtype: str
    cache_bytes: int
    weight_bytes: int


class StudentBackend(Protocol):
    """Runs the passes of the student. All latents are ``[1, F, C, h, w]`` on ``device``."""

    @property
    def device(self) -> torch.device:
        """Where latents are taken and given."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of latents."""
        ...

    @property
    def info(self) -> BackendInfo:
        """What was resolved."""
        ...

    @property
    def noise(self) -> Tensor:
        """Noise ``[S, 1, F, C, h, w]`` of a chunk, in ``dtype``; written before its step 0.

        Entry ``s`` enters the input of step ``s``.
        """
        ...

    def set_captions(self, captions: CaptionSet) -> None:
        """Compute caption keys and values of every layer, once per caption set."""
        ...

    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """Run the context pass at time 0 and fill the context slots.

        Args:
            plan: slots and positions.
            rows: caption row of each context frame.
            latents: the context frames.
        """
        ...

    def denoise(self, step: int, plan: ChunkPlan, row: int) -> Tensor:
        """Run one denoising step of a chunk; a chunk's steps are run in order.

        Args:
            step: index into the schedule.
            plan: slots, positions and valid length.
            row: caption row of the chunk.

        Returns:
            The clean estimate ``[1, F, C, h, w]``, valid until the next call.
        """
        ...

    def commit(self, plan: ChunkPlan, row: int, x0: Tensor) -> None:
        """Run the clean pass: leave the keys and values of ``x0`` in the chunk's slots."""
        ...

    def close(self) -> None:
        """Release device memory."""
        ...
