"""Building blocks of the Wan VAE: causal convolutions with a memory, norms, resampling, attention.

Used by ``network.py`` only. Feature maps are ``[B, C, F, H, W]``. A stream is processed in groups:
the first group is one frame, every later one has the same number of frames. Each block that looks
back in time owns a slot of a ``FrameMemory``; the first frame has zeros before it, so its causal
convolutions reduce to 2-D ones (the last temporal tap), and later groups see the frames remembered.
Shapes and memory addresses are constant from the second group on, which graph capture needs.

Source: Wan2.1 VAE as specified by its released weights (parameter names and shapes are theirs).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAST_FRAMES = 2
"""Frames a 3-wide causal convolution looks back."""


class FrameMemory:
    """Last input frames of every causal layer of one stream.

    Buffers are made on the first group and reused after ``reset`` while shapes stay the same.
    """

    def __init__(self, slots: int) -> None:
        self.first = True
        self._past: list[Tensor | None] = [None] * slots

    def reset(self) -> None:
        """Begin a new stream: the next group is a single first frame."""
        self.first = True

    def start(self, slot: int, frame: Tensor, frames: int, *, keep: bool = True) -> None:
        """Remember ``frames`` past frames: zeros, then ``frame`` if ``keep``.

        Args:
            slot: whose memory.
            frame: ``[B, C, 1, H, W]``, the stream's first input.
            frames: how many frames that layer looks back.
            keep: false where the first frame is not part of the layer's past.
        """
        shape = (*frame.shape[:2], frames, *frame.shape[3:])
        past = self._past[slot]
        if past is None or past.shape != shape or past.dtype != frame.dtype:
            layout = torch.channels_last_3d if _is_channels_last(frame) else torch.contiguous_format
            past = torch.empty(shape, dtype=frame.dtype, device=frame.device, memory_format=layout)
            self._past[slot] = past
        past.zero_()
        if keep:
            past[:, :, -1:].copy_(frame)

    def extend(self, slot: int, group: Tensor) -> Tensor:
        """Return the remembered frames then ``group``; remember the last frames of both."""
        past = self._past[slot]
        assert past is not None, "start comes before extend"
        joined = torch.cat((past, group), dim=2)
        past.copy_(joined[:, :, -past.shape[2] :])
        return joined


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.shape[1] > 1


class CausalConv(nn.Conv3d):
    """3x3x3 convolution over space and the past: it reads two earlier frames and no later one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=(0, 1, 1))
        self.slot = -1

    def forward(self, x: Tensor, memory: FrameMemory | None = None) -> Tensor:
        """Convolve a group; without a memory, ``x`` must be one frame without a past."""
        if memory is None or memory.first:
            if memory is not None:
                memory.start(self.slot, x, PAST_FRAMES)
            tap = self.weight[:, :, -1]  # the others would multiply zero frames
            return F.conv2d(x.squeeze(2), tap, self.bias, padding=1).unsqueeze(2)
        return super().forward(memory.extend(self.slot, x))


class ChannelNorm(nn.Module):
    """Scale every position to length ``sqrt(C)`` over its channels, times ``gamma``."""

    def __init__(self, channels: int, spatial: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * spatial))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over dimension 1."""
        # Rounded once, at the end: in bfloat16 that is a tenth of a decode's distance.
        wide = torch.promote_types(x.dtype, torch.float32)
        gain = self.gamma.to(wide) * self.gamma.shape[0] ** 0.5
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide)
        out: Tensor = x / length.clamp_min(1e-12)
        out = out.mul_(gain) if not torch.is_grad_enabled() else out * gain
        return out.to(x.dtype)


class ResidualBlock(nn.Module):
    """Norm, SiLU, causal convolution, twice; plus the input (projected if channels change)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(inputs),
            nn.SiLU(),
            CausalConv(inputs, outputs),
            ChannelNorm(outputs),
            nn.SiLU(),
            nn.Identity(),
            CausalConv(outputs, outputs),
        )  # fmt: skip  (entry 5 is the training dropout: it holds the place of a name)
        self.shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, memory: FrameMemory | None = None) -> Tensor:
        """Map ``[B, inputs, F, H, W]`` to ``[B, outputs, F, H, W]``."""
        h = x
        for layer in self.residual:
            h = layer(h, memory) if isinstance(layer, CausalConv) else layer(h)
        skipped: Tensor = self.shortcut(x)
        return h + skipped


class FrameAttention(nn.Module):
    """Single-head attention among the positions of each frame, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, spatial=2)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, F, H, W]`` to the same shape."""
        batch, channels, frames, height, width = x.shape
        flat = _frames_as_batch(x)  # [B F, C, H, W]
        qkv = self.to_qkv(self.norm(flat)).flatten(2).transpose(1, 2)  # [B F, H W, 3 C]
        q, k, v = (part.contiguous() for part in qkv.chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        out = self.proj(out.transpose(1, 2).reshape(-1, channels, height, width))
        return x + _batch_as_frames(out, batch, frames)


class Downsample(nn.Module):
    """Halve height and width, and with ``temporal`` the frame rate after the first frame."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        # One row below and one column to the right are zeros: asymmetric, so not Conv2d padding.
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2)
        )
        self.time_conv: nn.Conv3d | None = None
        if temporal:
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))
        self.slot = -1

    def forward(self, x: Tensor, memory: FrameMemory | None = None) -> Tensor:
        """Map ``[B, C, F, H, W]`` to half the size; a later group also to half the frames."""
        batch, _, frames = x.shape[:3]
        x = _batch_as_frames(self.resample(_frames_as_batch(x)), batch, frames)
        if self.time_conv is None or memory is None:
            return x
        if memory.first:
            memory.start(self.slot, x, 1)
            return x
        halved: Tensor = self.time_conv(memory.extend(self.slot, x))
        return halved


class Upsample(nn.Module):
    """Double height and width, halve channels, and with ``temporal`` double later frames."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest-exact"),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
        )
        self.time_conv: nn.Conv3d | None = None
        if temporal:
            self.time_conv = nn.Conv3d(channels, channels * 2, (3, 1, 1))
        self.slot = -1

    def forward(self, x: Tensor, memory: FrameMemory | None = None) -> Tensor:
        """Map ``[B, C, F, H, W]`` to twice the size; a later group also to twice the frames."""
        batch = x.shape[0]
        if self.time_conv is not None and memory is not None:
            if memory.first:
                # The first frame is neither doubled nor part of the time convolution's past.
                memory.start(self.slot, x, PAST_FRAMES, keep=False)
            else:
                pairs = self.time_conv(memory.extend(self.slot, x))  # [B, 2 C, F, H, W]
                x = _interleave(*pairs.chunk(2, dim=1))
        frames = x.shape[2]
        return _batch_as_frames(self.resample(_frames_as_batch(x)), batch, frames)


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """Two ``[B, C, F, H, W]`` to ``[B, C, 2 F, H, W]``: even, odd, even, odd; one copy."""
    if not _is_channels_last(even):
        return torch.stack((even, odd), dim=3).flatten(2, 3)
    rows = [half.movedim(1, -1) for half in (even, odd)]  # [B, F, H, W, C]
    return torch.stack(rows, dim=2).flatten(1, 2).movedim(-1, 1)


def _frames_as_batch(x: Tensor) -> Tensor:
    """``[B, C, F, H, W]`` to ``[B F, C, H, W]``; a view where one frame or channels-last allows."""
    batch, channels, frames, height, width = x.shape
    return x.transpose(1, 2).reshape(batch * frames, channels, height, width)


def _batch_as_frames(x: Tensor, batch: int, frames: int) -> Tensor:
    """``[B F, C, H, W]`` to ``[B, C, F, H, W]``."""
    return x.reshape(batch, frames, *x.shape[1:]).transpose(1, 2)


def assign_slots(network: nn.Module) -> int:
    """Give every layer that looks back in time its memory slot; return how many there are."""
    slots = 0
    for layer in network.modules():
        temporal = isinstance(layer, Downsample | Upsample) and layer.time_conv is not None
        if isinstance(layer, CausalConv) or temporal:
            layer.slot = slots  # type: ignore[assignment]
            slots += 1
    return slots
