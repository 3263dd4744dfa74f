"""The student's training form on a CPU: same parameters, same maths, arranged for speed.

Called by the nano trainer. Works on a dictionary of tensors with the student's own state-dict
names, so that weights move between it and ``shotstream_rt.model.student`` without conversion;
``tests/distill/test_fast_student.py`` holds the two equal. One pass computes a sequence
``[shared frames | noisy groups]``: shared frames (context, clean history) are keys for everybody,
a noisy group sees the shared frames its mask allows and itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.config import ModelConfig
from shotstream_rt.kernels.reference.rope_shot import SHOT_PHASE_RAD

from ..common.sequence import Captions, KeysValues, Parameters, Sequence

_MASKED = -1e4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """One block of a pass: its name, what it reads of earlier passes, where it leaves its own."""

    name: str
    last: bool
    memory: KeysValues | None
    keep: list[KeysValues] | None


def rotary_angles(
    config: ModelConfig, positions: Tensor, flags: Tensor, *, phase_rad: float = SHOT_PHASE_RAD
) -> Tensor:
    """Return rotary angles ``[B, F * tokens_per_frame, head_dim / 2]`` in radians.

    Pairs split into time, height, width; the shot phase ``flag * phase_rad`` is added to every
    temporal angle. Source: ShotStream, ``causal_model.py:70``.

    Args:
        config: the student's shape.
        positions: temporal positions ``[B, F]``.
        flags: shot flags ``[B, F]``.
        phase_rad: of one flag; 0 for none.
    """
    pairs = config.head_dim // 2
    axis = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    rows, columns = config.grid
    rates = [10000.0 ** (-torch.arange(n, dtype=torch.float64) / n) for n in axis]
    batch, frames = positions.shape
    time = positions.double()[..., None] * rates[0] + flags.double()[..., None] * phase_rad
    height = torch.arange(rows, dtype=torch.float64)[:, None] * rates[1]
    width = torch.arange(columns, dtype=torch.float64)[:, None] * rates[2]
    shape = (batch, frames, rows, columns)
    angles = torch.cat(
        (
            time[:, :, None, None].expand(*shape, -1),
            height[None, None, :, None].expand(*shape, -1),
            width[None, None, None].expand(*shape, -1),
        ),
        dim=-1,
    )
    return angles.reshape(batch, frames * rows * columns, pairs)


def _pair_order(config: ModelConfig) -> Tensor:
    """Feature order that turns interleaved pairs into two halves per head.

    Queries and keys are permuted alike, so their products do not change, and the rotation becomes
    two contiguous halves.
    """
    head = torch.arange(config.head_dim).view(-1, 2).T.reshape(-1)
    heads = torch.arange(config.num_heads)[:, None] * config.head_dim
    return (heads + head).reshape(-1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), -1)


def _see(noisy: Iterable[Tensor], shared_k: Tensor, shared_v: Tensor) -> Tensor:
    """Let groups attend to some shared keys and to their own.

    Args:
        noisy: queries, keys and values ``[B, N, groups, T, D]``.
        shared_k: ``[B, N, S, D]``.
        shared_v: alike.

    Returns:
        ``[B, N, groups * T, D]``.
    """
    q, k, v = noisy
    keys = shared_k.shape[2]
    to_shared = q.flatten(2, 3) @ shared_k.transpose(-1, -2)
    to_own = (q @ k.transpose(-1, -2)).flatten(2, 3)
    weights = torch.cat((to_shared, to_own), -1).softmax(-1)
    own = weights[..., keys:].unflatten(2, q.shape[2:4]) @ v
    out: Tensor = weights[..., :keys] @ shared_v + own.flatten(2, 3)
    return out


class FastStudent:
    """Forward pass over a parameter dictionary; holds no weights.

    Args:
        config: the student's shape.
        aux_after: blocks before the auxiliary head.
        shot_phase: whether shots turn the rotary phase.
    """

    def __init__(self, config: ModelConfig, aux_after: int = 2, *, shot_phase: bool = True) -> None:
        self.config = config
        self._phase_rad = SHOT_PHASE_RAD if shot_phase else 0.0
        self._aux_after = aux_after
        self._order = _pair_order(config)
        self._omega = 10000.0 ** (
            -torch.arange(config.freq_dim // 2, dtype=torch.float64) / (config.freq_dim // 2)
        )

    def _heads(self, x: Tensor) -> Tensor:
        """``[B, T, dim]`` to ``[B, N, T, D]``."""
        batch, tokens, _ = x.shape
        return x.view(batch, tokens, self.config.num_heads, -1).transpose(1, 2)

    def _time(self, p: Parameters, times: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = times.double()[..., None] * 1000 * self._omega
        feature = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
        hidden = F.silu(F.linear(feature, p["time_embedding.0.weight"], p["time_embedding.0.bias"]))
        e = F.linear(hidden, p["time_embedding.2.weight"], p["time_embedding.2.bias"])
        e0 = F.linear(F.silu(e), p["time_projection.1.weight"], p["time_projection.1.bias"])
        return e, e0.view(*times.shape, 6, self.config.dim)

    def _text(self, p: Parameters, captions: Captions) -> tuple[Tensor, Tensor]:
        """Return keys' features ``[B, S, L + 1, dim]`` and their bias ``[B, S, L + 1]``."""
        embedded = F.pad(captions.embeddings, (0, 0, 0, 1))  # the last row stands for all padding
        hidden = F.gelu(
            F.linear(embedded, p["text_embedding.0.weight"], p["text_embedding.0.bias"]),
            approximate="tanh",
        )
        features = F.linear(hidden, p["text_embedding.2.weight"], p["text_embedding.2.bias"])
        width = captions.embeddings.shape[2]
        column = torch.arange(width)
        bias = torch.where(column < captions.lengths[..., None], 0.0, _MASKED)
        padding = (captions.text_len - captions.lengths).double().log().float()
        return features, torch.cat((bias, padding[..., None]), -1).to(features.dtype)

    def _attend(
        self,
        seq: Sequence,
        qkv: tuple[Tensor, Tensor, Tensor],
        memory: KeysValues | None,
        noisy_only: bool,
    ) -> Tensor:
        """Shared groups see their past; each noisy group sees leading shared frames and itself.

        What a group does not see is never computed: keys are prefixes, and there is no mask.
        """
        q, k, v = qkv
        tokens = self.config.tokens_per_frame
        split = 0 if memory else seq.shared * tokens
        shared_k, shared_v = memory or (k[:, :, :split], v[:, :, :split])
        outputs = []
        if split and not noisy_only:
            begin = 0
            for frames in seq.shared_groups or (seq.shared,):
                end = begin + frames * tokens
                scores = q[:, :, begin:end] @ shared_k[:, :, :end].transpose(-1, -2)
                outputs.append(scores.softmax(-1) @ shared_v[:, :, :end])
                begin = end
        if seq.groups:
            noisy = (x[:, :, split:].unflatten(2, (seq.groups, -1)) for x in (q, k, v))
            if seq.visible:
                for seen, *own in zip(seq.visible, *(x.unbind(2) for x in noisy), strict=True):
                    keys = (x[:, :, : seen * tokens] for x in (shared_k, shared_v))
                    outputs.append(_see((x[:, :, None] for x in own), *keys))
            else:
                outputs.append(_see(noisy, shared_k, shared_v))
        return torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]

    def __call__(
        self,
        p: Parameters,
        seq: Sequence,
        captions: Captions,
        memory: list[KeysValues] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the flow of the noisy frames.

        Args:
            p: parameters by state-dict name; ``aux.*`` optional.
            seq: the sequences; with ``memory`` its frames are the noisy ones only.
            captions: captions of each sample.
            memory: of the shared frames, from ``remember``.

        Returns:
            float32 flow ``[B, noisy, C, h, w]`` and the auxiliary class logits
            ``[B, noisy, classes, h, w]`` (``None`` without ``aux.*``).
        """
        config = self.config
        first = 0 if memory else seq.shared
        u, e, aux = self._run(p, seq, captions, memory, None)
        m = e[:, first:, None] + p["head.modulation"][0]  # [B, F, 2, dim]
        u = F.layer_norm(u, (config.dim,), eps=config.eps)
        u = u.view(u.shape[0], -1, config.tokens_per_frame, config.dim)
        u = torch.addcmul(m[:, :, 0:1], u, 1 + m[:, :, 1:2])
        out = F.linear(u, p["head.head.weight"], p["head.head.bias"])
        return self._unpatchify(out, config.out_dim).float(), aux

    def remember(
        self,
        p: Parameters,
        seq: Sequence,
        captions: Captions,
        memory: list[KeysValues] | None = None,
    ) -> list[KeysValues]:
        """Return every layer's rotated keys and values of clean frames.

        Args:
            p: parameters by state-dict name.
            seq: shared frames only; with ``memory`` one group only, that sees it.
            captions: captions of each sample.
            memory: of earlier frames; what is returned begins with it.
        """
        kept: list[KeysValues] = []
        self._run(p, seq, captions, memory, kept)
        if memory is None:
            return kept
        return [
            (torch.cat((k, own_k), 2), torch.cat((v, own_v), 2))
            for (k, v), (own_k, own_v) in zip(memory, kept, strict=True)
        ]

    def _run(
        self,
        p: Parameters,
        seq: Sequence,
        captions: Captions,
        memory: list[KeysValues] | None,
        keep: list[KeysValues] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the last block's output, the time features and the auxiliary logits."""
        config = self.config
        dtype = p["patch_embedding.weight"].dtype
        x = seq.latents.to(dtype)
        batch, frames, channels, height, width = x.shape
        tokens = config.tokens_per_frame
        patches = x.view(batch, frames, channels, height // 2, 2, width // 2, 2)
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, frames * tokens, -1)
        u = F.linear(patches, p["patch_embedding.weight"].flatten(1), p["patch_embedding.bias"])
        if config.cache_indicator:
            other, own = p["cache_indicator.weight"]
            edge = seq.context * tokens
            u = torch.cat((u[:, :edge] + other, u[:, edge:] + own), 1)
        e, e0 = self._time(p, seq.times, dtype)
        text, text_bias = self._text(p, captions)
        text_row = torch.arange(batch)[:, None] * captions.lengths.shape[1] + seq.caption_index
        angles = rotary_angles(config, seq.positions, seq.flags, phase_rad=self._phase_rad)
        rotation = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]
        caption = (text, text_bias, text_row)
        noisy = 0 if memory else seq.shared * tokens
        aux = None
        for index in range(config.num_layers):
            layer = _Layer(
                name=f"blocks.{index}.",
                last=index == config.num_layers - 1,
                memory=memory[index] if memory else None,
                keep=keep,
            )
            u = self._block(p, layer, seq, u, e0, rotation, caption)
            if index + 1 == self._aux_after and "aux.weight" in p and keep is None:
                aux = self._aux(p, u[:, noisy:])
        return u, e, aux

    def _unpatchify(self, out: Tensor, channels: int) -> Tensor:
        rows, columns = self.config.grid
        batch, frames = out.shape[:2]
        out = out.reshape(batch, frames, rows, columns, 2, 2, channels)
        out = out.permute(0, 1, 6, 2, 4, 3, 5)
        return out.reshape(batch, frames, channels, rows * 2, columns * 2)

    def _aux(self, p: Parameters, u: Tensor) -> Tensor:
        normed = F.layer_norm(u, (self.config.dim,))
        logits = F.linear(normed, p["aux.weight"], p["aux.bias"])
        batch, count, width = logits.shape
        frames = count // self.config.tokens_per_frame
        return self._unpatchify(logits.view(batch, frames, -1, width), width // 4)

    def _block(
        self,
        p: Parameters,
        layer: _Layer,
        seq: Sequence,
        u: Tensor,
        e0: Tensor,
        rotation: tuple[Tensor, Tensor],
        caption: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        config, name = self.config, layer.name
        dim, tokens, eps = config.dim, config.tokens_per_frame, config.eps
        scale = config.head_dim**-0.5
        batch, frames = e0.shape[:2]
        m = (e0 + p[name + "modulation"])[:, :, :, None]  # [B, F, 6, 1, dim]

        def modulate(x: Tensor, shift: int, first: int) -> Tensor:
            framed = F.layer_norm(x, (dim,), eps=eps).view(batch, -1, tokens, dim)
            modulated = torch.addcmul(m[:, first:, shift], framed, 1 + m[:, first:, shift + 1])
            return modulated.view(batch, -1, dim)

        def gated(residual: Tensor, x: Tensor, gate: int, first: int) -> Tensor:
            shape = (batch, -1, tokens, dim)
            return torch.addcmul(
                residual.reshape(shape), x.reshape(shape), m[:, first:, gate]
            ).view(batch, -1, dim)

        own, cross = name + "self_attn.", name + "cross_attn."
        order = self._order
        weight = torch.cat(
            (p[own + "q.weight"][order], p[own + "k.weight"][order], p[own + "v.weight"])
        )
        bias = torch.cat((p[own + "q.bias"][order], p[own + "k.bias"][order], p[own + "v.bias"]))
        q, k, v = F.linear(modulate(u, 0, 0), weight, bias).chunk(3, -1)
        q = F.rms_norm(q, (dim,), p[own + "norm_q.weight"][order] * scale, 1e-6)
        k = F.rms_norm(k, (dim,), p[own + "norm_k.weight"][order], 1e-6)
        # The last block computes noisy frames only: no layer behind it reads the others.
        first = seq.shared if layer.last and not layer.memory else 0
        q, k = _rotate(self._heads(q), *rotation), _rotate(self._heads(k), *rotation)
        v = self._heads(v).contiguous()  # or every product would copy it
        if layer.keep is not None:
            layer.keep.append((k, v))
            if layer.last:
                return u
        attended = self._attend(seq, (q, k, v), layer.memory, layer.last)
        attended = attended.transpose(1, 2).reshape(batch, -1, dim)
        u = u[:, first * tokens :]
        projected = F.linear(attended, p[own + "o.weight"], p[own + "o.bias"])
        u = gated(u, projected, 2, first)

        text, text_bias, text_row = caption
        rows = text_row[:, first:].reshape(-1)
        text = text.flatten(0, 1)  # [B * S, L + 1, dim]
        ck = F.linear(text, p[cross + "k.weight"], p[cross + "k.bias"])
        ck = F.rms_norm(ck, (dim,), p[cross + "norm_k.weight"], 1e-6)
        cv = F.linear(text, p[cross + "v.weight"], p[cross + "v.bias"])
        normed = F.layer_norm(u, (dim,), p[name + "norm3.weight"], p[name + "norm3.bias"], eps)
        cq = F.linear(normed, p[cross + "q.weight"], p[cross + "q.bias"])
        cq = F.rms_norm(cq, (dim,), p[cross + "norm_q.weight"] * scale, 1e-6)
        cq = self._heads(cq.view(batch * (frames - first), tokens, dim))
        scores = cq @ self._heads(ck)[rows].transpose(-1, -2)
        scores = scores + text_bias.flatten(0, 1)[rows][:, None, None]
        crossed = (scores.softmax(-1) @ self._heads(cv)[rows]).transpose(1, 2)
        crossed = crossed.reshape(batch, -1, dim)
        u = u + F.linear(crossed, p[cross + "o.weight"], p[cross + "o.bias"])

        hidden = F.linear(modulate(u, 3, first), p[name + "ffn.0.weight"], p[name + "ffn.0.bias"])
        hidden = F.gelu(hidden, approximate="tanh")
        return gated(
            u, F.linear(hidden, p[name + "ffn.2.weight"], p[name + "ffn.2.bias"]), 5, first
        )
