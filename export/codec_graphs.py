"""Graphs of the nano codec's streaming decoder: a stream's first chunk, and every later one.

What the decoder keeps between chunks comes in and goes out. Weights and statistics are inputs under
their names in ``codec.safetensors``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .graph import Exported, Part, finish, weightless_graphs

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..model.nano.codec import NanoCodecNet

FIRST, NEXT = "decode_first", "decode_next"


class _FirstChunk(nn.Module):
    """Begins a stream.

    Args:
        net: of the codec.
    """

    def __init__(self, net: NanoCodecNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        """Give pixels ``[1, P, 3, H, W]`` in [-1, 1], and what the next chunk reads.

        Args:
            latents: ``[1, F, C, h, w]``.
        """
        pixels, after = self.net.decode(latents, None)
        return pixels.clamp(-1, 1), *after


class _NextChunk(_FirstChunk):
    """Goes on with a stream."""

    def forward(self, latents: Tensor, **before: Tensor) -> tuple[Tensor, ...]:
        """See ``_FirstChunk``.

        Args:
            latents: ``[1, F, C, h, w]``.
            before: what the chunk before left.
        """
        pixels, after = self.net.decode(latents, tuple(before.values()))
        return pixels.clamp(-1, 1), *after


def codec_graphs(config: StreamConfig, net: NanoCodecNet) -> Iterator[Exported]:
    """Export both; always in float32.

    Args:
        config: shapes of latents.
        net: of the codec; its numbers are not read.

    Raises:
        ExportError: a graph is not what it was meant to be.
    """
    model = config.model
    shape = (1, config.shot.chunk_frames, model.in_dim, model.latent_height, model.latent_width)

    def of_its_own() -> NanoCodecNet:
        return copy.deepcopy(net).to("meta")

    def latents() -> Tensor:
        return torch.empty(shape, device="meta")

    first, following = _FirstChunk(of_its_own()), _NextChunk(of_its_own())
    states = [torch.empty_like(state) for state in first(latents())[1:]]
    before = {f"before_{index}": state for index, state in enumerate(states)}
    results = ["pixels", *(f"after_{index}" for index in range(len(states)))]
    parts = {
        FIRST: Part(network=first, examples={"latents": latents()}, dynamic={}, results=results,
                    prefix="net."),
        NEXT: Part(network=following, examples={"latents": latents(), **before}, dynamic={},
                   results=results, prefix="net."),
    }  # fmt: skip
    for name, graph in weightless_graphs(parts).items():
        yield Exported(name, finish(graph, {}))
