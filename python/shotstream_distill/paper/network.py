"""The student's network as it is trained: frames in groups, keys and values with gradients.

Called by every stage, for teacher, critic and student alike. Parameters, names and maths are those
of ``shotstream_rt.model.student``; what differs is the form of a pass. A pass computes
frames in groups: a group sees itself, the groups before it and, if given, the keys and values of
earlier passes. One group is the bidirectional teacher; context, then chunks, is the masked training
form; a chunk with earlier keys is the cached rollout. All are dense products without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shotstream_rt.config import ModelConfig
from shotstream_rt.kernels.reference.rope_shot import SHOT_PHASE_RAD, rope_angles, rotation
from shotstream_rt.kernels.sets.kernel_set import REFERENCE
from shotstream_rt.kernels.torch_ops.pass_ops import rms_norm
from shotstream_rt.model.blocks import Block, fold_patches
from shotstream_rt.model.student import Student

from ..common.sequence import Captions

KeysValues = tuple[Tensor, Tensor]
"""Rotated keys and values of a layer, each ``[B, T, N, D]``."""


def joined(past: Sequence[KeysValues], fresh: Sequence[KeysValues]) -> list[KeysValues]:
    """Append a pass's keys and values, layer by layer, to those of the passes before it."""
    return [
        (torch.cat((k, new_k), 1), torch.cat((v, new_v), 1))
        for (k, v), (new_k, new_v) in zip(past, fresh, strict=True)
    ]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Attention of ``[B, T, N, D]``; ``bias`` broadcasts to ``[B, N, T, keys]``.

    On a CPU torch's fused call is slower than its parts: in bfloat16 a third of the speed.

    Args:
        q: queries ``[B, T, N, D]``.
        k: keys, alike.
        v: values, alike.
        scale: of the products.
        bias: added to them, broadcasting to ``[B, N, T, keys]``.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.is_meta and bias is None:
        # What a device would run: its memory, not that of a decomposition, is to be counted.
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        out: Tensor = flash(q, k, v, 0.0, False, scale=scale)[0]
        return out.transpose(1, 2)
    if q.device.type != "cpu":
        if bias is not None:
            bias = bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).transpose(1, 2)
    logits = (q * scale) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias.to(q.dtype)
    return (logits.softmax(-1) @ v).transpose(1, 2)


_KERNELS = replace(REFERENCE, name="train", rms_norm=rms_norm, attention=attend)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """Latent frames of one pass.

    Attributes:
        latents: ``[B, F, C, h, w]``.
        times: ``[B, F]`` timesteps in [0, 1000].
        captions: captions of each sample.
        caption_index: int64 ``[B, F]``, the caption row each frame attends to.
        positions: temporal rotary position of each frame.
        flags: int64 ``[B, F]`` shot numbers of the rotary phase.
        groups: frames of each group, in order.
        context: frames in front that are context.
    """

    latents: Tensor
    times: Tensor
    captions: Captions
    caption_index: Tensor
    positions: Sequence[int]
    flags: Tensor
    groups: tuple[int, ...]
    context: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tables:
    """What every block of a pass reads besides its input."""

    rotation: Tensor
    rows: Tensor | None
    text_bias: Tensor
    frames: int
    group_tokens: tuple[int, ...]
    keep: bool
    flow: bool


class TrainBlock(Block):
    """A block as a module of its own, so that it can be sharded and recomputed alone."""

    def forward(
        self,
        x: Tensor,
        time_rows: Tensor,
        text: Tensor,
        past: KeysValues | None,
        tables: _Tables,
    ) -> tuple[Tensor, Tensor, Tensor] | Tensor:
        """Run on ``[B, T, dim]``.

        Args:
            x: tokens.
            time_rows: ``[B, F, 6, dim]``.
            text: ``[B * captions, tokens, dim]`` after the text MLP.
            past: keys and values of earlier passes that everything here sees.
            tables: of the pass.

        Returns:
            The output, with ``tables.keep`` also this pass's keys and values.
        """
        bound, modulation = self.bind(_KERNELS), self.modulate(time_rows)
        scale = self.config.head_dim**-0.5
        q, k, v = bound.split(bound.project(x, modulation), tables.rotation)
        if not tables.flow:
            return x, k, v
        kept, earlier = (k, v), 0
        if past is not None:
            earlier = past[0].shape[1]
            k, v = torch.cat((past[0], k), 1), torch.cat((past[1], v), 1)
        parts, start = [], 0
        for tokens in tables.group_tokens:
            end = start + tokens
            seen = earlier + end
            parts.append(attend(q[:, start:end], k[:, :seen], v[:, :seen], scale))
            start = end
        attended = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        x, q = bound.leave_self(x, attended.flatten(2), modulation)

        k, v = bound.caption_kv(text)
        bias, rows = tables.text_bias[:, None, None], tables.rows
        if rows is None:
            attended = attend(q, k, v, scale, bias)
        else:
            per_frame = q.unflatten(1, (tables.frames, -1)).flatten(0, 1)
            attended = attend(per_frame, k[rows], v[rows], scale, bias[rows])
            attended = attended.unflatten(0, (len(x), -1)).flatten(1, 2)
        out = bound.leave_cross(x, attended.flatten(2), modulation)
        return (out, *kept) if tables.keep else out


class TrainNet(Student):
    """A student, teacher or critic under training.

    Args:
        config: shape of the network.
        recompute: forget activations inside blocks and compute them again on the way back.
        shot_phase: whether flags turn the time pairs (``ShotConfig.shot_phase``).
    """

    def __init__(
        self, config: ModelConfig, *, recompute: bool = False, shot_phase: bool = True
    ) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(TrainBlock(config) for _ in range(config.num_layers))
        self.recompute = recompute
        self._phase_rad = SHOT_PHASE_RAD if shot_phase else 0.0

    def forward(
        self,
        frames: Frames,
        past: Sequence[KeysValues] | None = None,
        *,
        keep: bool = False,
        flow: bool = True,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Predict the flow of all frames of a pass.

        Args:
            frames: the pass.
            past: of every layer, keys and values of earlier passes.
            keep: return this pass's keys and values too.
            flow: compute the flow; without it only keys and values are wanted.

        Returns:
            float32 flow like the latents (an empty tensor without ``flow``), and keys and values of
            every layer (an empty list unless kept).
        """
        config = self.config
        height, width = frames.latents.shape[3:]
        grid = (height // 2, width // 2)
        text, tables = self._tables(frames, keep=keep or not flow, grid=grid)
        features, time_rows = self.embed_times(frames.times)
        x = self.embed_patches(frames.latents, frames.context)
        kept: list[KeysValues] = []
        for index, block in enumerate(self.blocks):
            last = index == config.num_layers - 1
            told = tables if flow or not last else replace(tables, flow=False)
            inputs = (x, time_rows, text, None if past is None else past[index], told)
            if self.recompute and torch.is_grad_enabled():
                out = checkpoint(block, *inputs, use_reentrant=False)
            else:
                out = block(*inputs)
            if tables.keep:
                x, k, v = out
                kept.append((k, v))
            else:
                x = out
        if not flow:
            return x.new_empty(0), kept
        patches = self.head(x, *self.head.modulate(features), _KERNELS)
        return fold_patches(patches, grid).float(), kept

    def _tables(
        self, frames: Frames, *, keep: bool, grid: tuple[int, int]
    ) -> tuple[Tensor, _Tables]:
        latents, captions = frames.latents, frames.captions
        batch, count = latents.shape[:2]
        device, tokens = latents.device, grid[0] * grid[1]
        if sum(frames.groups) != count:
            raise ValueError(f"groups: got {frames.groups}, wanted frames that add up to {count}")
        # All padding rows of a caption are equal: one key with the log of their number as bias.
        embedded = self.embed_text(F.pad(captions.embeddings.flatten(0, 1), (0, 0, 0, 1)))
        column = torch.arange(captions.embeddings.shape[2], device=device)
        real = torch.where(column < captions.lengths[..., None], 0.0, -torch.inf)
        padding = (captions.text_len - captions.lengths).double().log().float()
        bias = torch.cat((real, padding[..., None]), -1).flatten(0, 1)
        rows: Tensor | None = None
        if (held := captions.lengths.shape[1]) > 1:
            first = torch.arange(batch, device=device)[:, None] * held
            rows = (first + frames.caption_index).flatten()
        return embedded, _Tables(
            rotation=self._rotation(frames, grid),
            rows=rows,
            text_bias=bias,
            frames=count,
            group_tokens=tuple(tokens * size for size in frames.groups),
            keep=keep,
            flow=True,
        )

    def _rotation(self, frames: Frames, grid: tuple[int, int]) -> Tensor:
        """Rotary tables, complex64 ``[B, T, D / 2]``; samples with equal flags share the work."""
        head_dim, device = self.config.head_dim, frames.latents.device
        if frames.latents.is_meta:
            shape = (len(frames.flags), len(frames.positions) * grid[0] * grid[1], head_dim // 2)
            return torch.empty(shape, dtype=torch.complex64, device=device)
        made: dict[tuple[int, ...], Tensor] = {}
        for row in frames.flags.tolist():
            if tuple(row) not in made:
                phases = [flag * self._phase_rad for flag in row]
                angles = rope_angles(frames.positions, phases, grid, head_dim)
                made[tuple(row)] = rotation(angles).to(device)
        return torch.stack([made[tuple(row)] for row in frames.flags.tolist()])
