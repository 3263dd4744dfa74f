"""The student (and teacher): the Wan2.1 transformer with per-frame times and shot phases.

Holds parameters under their released names, the small pieces around the blocks, and the masked
full-sequence form used in training. The form that the runtime runs is ``bound_student.py``; both
run the same bound blocks and are equal to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..kernels.reference.rope_shot import SHOT_PHASE_RAD, rope_angles, rotation
from ..kernels.sets.kernel_set import REFERENCE
from .blocks import Block, Head, PatchEmbedding, fold_patches
from .checkpoint import load_into

if TYPE_CHECKING:
    from ..config import ModelConfig


class Student(nn.Module):
    """Wan2.1 text-to-video transformer; 825 tensors at full size.

    Args:
        config: shape of the network.
        layers: how many of its blocks to make; default: all. A bound student keeps none of them.
    """

    def __init__(self, config: ModelConfig, *, layers: int | None = None) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.patch_embedding = PatchEmbedding(config.in_dim, dim, config.PATCH, config.PATCH)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(
            Block(config) for _ in range(config.num_layers if layers is None else layers)
        )
        self.head = Head(config)
        self.cache_indicator = nn.Embedding(2, dim) if config.cache_indicator else None

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        config: ModelConfig,
        *,
        source: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Student:
        """Load a whole student, as training and checks want it.

        Args:
            state: exactly the tensors of a ``Student`` of this shape.
            config: shape of the network.
            source: named in errors.
            device: where the parameters go.
            dtype: what they are cast to; ``None`` keeps the file's.

        Raises:
            WeightsError: names or shapes differ.
        """
        with torch.device("meta"):
            student = cls(config)
        load_into(student, state, source=source, device=device, dtype=dtype)
        return student.eval().requires_grad_(False)

    @property
    def layers(self) -> list[Block]:
        """The transformer blocks, typed."""
        return [block for block in self.blocks if isinstance(block, Block)]

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and activations."""
        return self.patch_embedding.weight.dtype

    def embed_patches(self, latents: Tensor, context: int = 0) -> Tensor:
        """Turn latents ``[B, F, C, h, w]`` into tokens ``[B, F * rows * columns, dim]``.

        Their order is by frame, row and column. That the first ``context`` frames are context
        matters to a student with a cache indicator only.
        """
        tokens: Tensor = self.patch_embedding(latents)
        if self.cache_indicator is not None:
            return self.tell_context(tokens, context * tokens.shape[1] // latents.shape[1])
        return tokens

    def tell_context(self, tokens: Tensor, context: int) -> Tensor:
        """Tell tokens of a shot from the first ``context`` ones, which are of its context."""
        assert self.cache_indicator is not None
        other, own = self.cache_indicator.weight.unbind()
        return torch.cat((tokens[:, :context] + other, tokens[:, context:] + own), 1)

    def embed_times(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Time features and their six-way projection.

        Args:
            times: ``[B, F]`` in [0, 1000], not rounded.

        Returns:
            ``[B, F, dim]`` (for the head) and ``[B, F, 6, dim]`` (for the blocks).
        """
        return self.project_times(time_features(times, self.config.freq_dim).to(self.dtype))

    def project_times(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Give what ``embed_times`` gives, from sinusoids ``[B, F, freq_dim]``."""
        embedded = self.time_embedding(features)
        return embedded, self.time_projection(embedded).unflatten(-1, (6, -1))

    def embed_text(self, embeddings: Tensor) -> Tensor:
        """Text MLP on ``[captions, tokens, text_dim]``; padding rows are zeros, not skipped."""
        out: Tensor = self.text_embedding(embeddings.to(self.dtype))
        return out

    def forward_train(
        self,
        latents: Tensor,
        times: Tensor,
        captions: Tensor,
        caption_index: Tensor,
        positions: Sequence[int] | Tensor,
        flags: Tensor | None,
        frame_mask: Tensor | None = None,
        hidden: list[Tensor] | None = None,
        context: int = 0,
    ) -> Tensor:
        """Masked full-sequence pass: what training runs, and the oracle of the cached form.

        Args:
            latents: ``[B, F, C, h, w]``.
            times: ``[B, F]`` timesteps in [0, 1000].
            captions: ``[B, captions, tokens, text_dim]``, zero rows past each length.
            caption_index: int ``[B, F]``, the caption row each frame attends to.
            positions: ``[F]`` temporal rotary positions.
            flags: ``[F]`` or ``[B, F]`` shot numbers for the phase; ``None`` for no phase.
            frame_mask: bool ``[F, F]``; a query row may see the key columns that are true.
            hidden: if given, every block's output ``[B, T, dim]`` is appended.
            context: frames in front that are context (for a cache indicator).

        Returns:
            Predicted flow ``[B, F, C, h, w]``.
        """
        config, kernels = self.config, REFERENCE
        batch, frames, _, height, width = latents.shape
        grid, tokens = (height // 2, width // 2), height * width // 4
        if flags is None:
            flags = torch.zeros(frames, dtype=torch.float32)
        tables = [
            rotation(rope_angles(positions, row.double() * SHOT_PHASE_RAD, grid, config.head_dim))
            for row in flags.reshape(-1, frames)
        ]
        table = torch.stack(tables).to(latents.device)
        bias = None
        if frame_mask is not None:
            bias = torch.where(frame_mask, 0.0, -torch.inf).to(latents.device)
            bias = bias.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
        scale = config.head_dim**-0.5
        features, time_rows = self.embed_times(times)
        text = self.embed_text(captions.flatten(0, 1)).unflatten(0, captions.shape[:2])
        pick = torch.arange(batch, device=latents.device)[:, None], caption_index

        x = self.embed_patches(latents, context)
        for block in self.layers:
            bound = block.bind(kernels)
            k_text, v_text = (
                kv.unflatten(0, captions.shape[:2])[pick].flatten(0, 1)
                for kv in bound.caption_kv(text.flatten(0, 1))
            )
            m = block.modulate(time_rows)
            q, k, v = bound.split(bound.project(x, m), table)
            y = kernels.attention(q, k, v, scale, bias)
            x, q = bound.leave_self(x, y.flatten(2), m)
            q = q.unflatten(1, (frames, tokens)).flatten(0, 1)
            y = kernels.cross_attention(q, k_text, v_text, scale, None)
            x = bound.leave_cross(x, y.unflatten(0, (batch, frames)).flatten(1, 2).flatten(2), m)
            if hidden is not None:
                hidden.append(x)
        patches = self.head(x, *self.head.modulate(features), kernels)
        return fold_patches(patches, grid)


def time_features(times: Tensor, width: int) -> Tensor:
    """Sinusoids of timesteps, cosines first, in float64.

    Args:
        times: any shape, in [0, 1000].
        width: features per time, even.

    Returns:
        float64 ``[..., width]``.
    """
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=times.device) / half)
    angles = times.double().unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
