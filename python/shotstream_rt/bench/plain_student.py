"""The baseline: the student as one writes it first, in eager torch, pass by pass.

Same weights, plans, noise and results as the runtime, and the structure of the original's inference
code: nothing is kept from one pass to the next but keys and values. Every pass embeds the captions
and times again and builds the rotary tables again; every layer turns queries and keys as complex
numbers in float64, clones the caches and concatenates what it attends to; captions are attended to
with all their padding; the clean pass and the context pass run to the end, head included. What the
original does beyond that and is no matter of structure (prints, scalars read from the device in
every layer) is left out, so ratios to it are on the low side.

Source: ``docs/architecture.md``; what the original repeats, in ShotStream
``wan/modules/causal_model.py`` and ``pipeline/causal_inference_ar.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.backends.base import BackendInfo
from shotstream_rt.errors import ConfigError
from shotstream_rt.model.student import Student
from shotstream_rt.schedule import Schedule

if TYPE_CHECKING:
    from shotstream_rt._native import ChunkPlan, ContextPlan
    from shotstream_rt.config import StreamConfig
    from shotstream_rt.model.blocks import Attention, Block
    from shotstream_rt.model.captions import CaptionSet

_MAX_POSITIONS = 1024
_SHOT_PHASE_RAD = 1 / 6


class PlainStudent:
    """A ``StudentBackend`` without any of the runtime's savings.

    Args:
        student: the network, on its device and in its type.
        config: with a local cache of a whole shot, and keys rotated as they are written.

    Raises:
        ConfigError: the configuration has a window, a sink or keys rotated on read.
    """

    def __init__(self, student: Student, config: StreamConfig) -> None:
        cache = config.cache
        if cache.window_frames or cache.sink_frames or cache.key_rotation != "on_write":
            raise ConfigError(
                "baseline: got a window, a sink or keys rotated on read, wanted the shipped cache "
                "of a whole shot; leave out --baseline"
            )
        self.student, self.config = student.eval(), config
        self.device, self.dtype = student.patch_embedding.weight.device, student.dtype
        self.schedule = Schedule.from_config(config.schedule)
        model = config.model
        self._scale = model.head_dim**-0.5
        self._phase_rad = _SHOT_PHASE_RAD if config.shot.shot_phase else 0.0
        self.noise = torch.zeros(
            config.schedule.num_steps, 1, config.shot.chunk_frames,
            model.in_dim, model.latent_height, model.latent_width,
            device=self.device, dtype=self.dtype,
        )  # fmt: skip
        rows = config.shot.shot_frames * model.tokens_per_frame
        shape = (1, rows, model.num_heads, model.head_dim)
        self._local = [
            [torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in range(2)]
            for _ in student.layers
        ]
        self._context: list[list[Tensor]] = []
        self._embeddings = torch.empty(0)
        self._captions: list[tuple[Tensor, Tensor]] = []
        self._x = self.noise[0]

    @property
    def info(self) -> BackendInfo:
        """What was resolved."""
        return BackendInfo(
            name="baseline",
            kernel_set="plain",
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            cache_bytes=sum(cache.nbytes for pair in self._local for cache in pair),
            weight_bytes=sum(p.nbytes for p in self.student.parameters()),
        )

    def set_captions(self, captions: CaptionSet) -> None:
        """See ``StudentBackend``; keys and values are made by the next pass."""
        self._embeddings = captions.embeddings.to(self.device, self.dtype)
        self._captions = []

    @torch.inference_mode()
    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """See ``StudentBackend``."""
        self._context = []
        self._pass(latents, 0.0, plan.positions, plan.flags, rows, first_token=None)

    @torch.inference_mode()
    def denoise(self, step: int, plan: ChunkPlan, row: int) -> Tensor:
        """See ``StudentBackend``."""
        x = self._x if step else self.noise[0]
        sigmas = self.schedule.sigmas
        flow = self._chunk(x, self.schedule.timesteps[step], plan, row)
        x0 = (x.double() - sigmas[step] * flow.double()).to(self.dtype)
        if step + 1 < len(sigmas):
            level, noise = sigmas[step + 1], self.noise[step + 1]
            self._x = ((1 - level) * x0.float() + level * noise.float()).to(self.dtype)
        return x0

    @torch.inference_mode()
    def commit(self, plan: ChunkPlan, row: int, x0: Tensor) -> None:
        """See ``StudentBackend``."""
        self._chunk(x0, self.schedule.commit_timestep, plan, row)

    def close(self) -> None:
        """Drop the caches."""
        self._context, self._captions, self._local = [], [], []

    def _chunk(self, x: Tensor, time: float, plan: ChunkPlan, row: int) -> Tensor:
        frames = len(plan.positions)
        first = plan.first_frame * self.config.model.tokens_per_frame
        return self._pass(x, time, plan.positions, [plan.flag] * frames, [row] * frames, first)

    def _pass(
        self,
        latents: Tensor,
        time: float,
        positions: Sequence[int],
        flags: Sequence[int],
        rows: Sequence[int],
        first_token: int | None,
    ) -> Tensor:
        """Run the network; ``first_token`` is the chunk's place in its shot, None for context."""
        student, frames = self.student, latents.shape[1]
        x = student.embed_patches(latents, frames if first_token is None else 0)
        times = torch.full((1, frames), time, dtype=torch.float32, device=self.device)
        features, time_rows = student.embed_times(times)
        text = student.embed_text(self._embeddings)
        frequencies = self._frequency_table()
        for layer, block in enumerate(student.layers):
            if len(self._captions) == layer:
                self._captions.append(self._caption_kv(block, text))
            # [1, F, 1, dim] each: shift, scale and gate of attention, then of the feed-forward.
            m = (time_rows + block.modulation).unsqueeze(3).unbind(2)
            h = self._modulate(x, m[0], m[1])
            q, k, v = self._project(block.self_attn, h)
            turns = self._rotation(frequencies, positions, flags)
            q, k = _rotate(q, turns), _rotate(k, turns)
            keys, values = self._remember(layer, k, v, first_token)
            x = x + _gated(self._attend(block.self_attn, q, keys, values), m[2])
            x = x + self._cross(block, layer, x, rows)
            x = x + _gated(block.ffn(self._modulate(x, m[3], m[4])), m[5])
        shift, scale = (features.unsqueeze(2) + student.head.modulation).unsqueeze(3).unbind(2)
        patches = student.head.head(self._modulate(x, shift, scale))
        return student.fold_patches(patches, frames, self.config.model.grid)

    def _remember(
        self, layer: int, k: Tensor, v: Tensor, first_token: int | None
    ) -> tuple[Tensor, Tensor]:
        """Store a pass's keys and values, and gather all that it attends to."""
        if first_token is None:
            self._context.append([k, v])
            return k, v
        gathered = []
        for which, fresh in enumerate((k, v)):
            cache = self._local[layer][which].clone()
            cache[:, first_token : first_token + fresh.shape[1]] = fresh
            self._local[layer][which] = cache
            parts = [cache[:, : first_token + fresh.shape[1]]]
            if self._context:
                parts.insert(0, self._context[layer][which].clone())
            gathered.append(torch.cat(parts, 1))
        return gathered[0], gathered[1]

    def _project(self, attention: Attention, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.config.model.num_heads
        q = self._rms(attention.q(h), attention.norm_q.weight)
        k = self._rms(attention.k(h), attention.norm_k.weight)
        q, k, v = (z.unflatten(-1, (heads, -1)) for z in (q, k, attention.v(h)))
        return q, k, v

    def _attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of ``[B, T, N, D]`` and its output layer."""
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self._scale)
        out: Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
        return out

    def _caption_kv(self, block: Block, text: Tensor) -> tuple[Tensor, Tensor]:
        cross, heads = block.cross_attn, self.config.model.num_heads
        k = self._rms(cross.k(text), cross.norm_k.weight)
        return k.unflatten(-1, (heads, -1)), cross.v(text).unflatten(-1, (heads, -1))

    def _cross(self, block: Block, layer: int, x: Tensor, rows: Sequence[int]) -> Tensor:
        """Cross-attention in which every frame attends to its caption, padding included."""
        cross, model = block.cross_attn, self.config.model
        q = self._rms(cross.q(block.norm3(x)), cross.norm_q.weight)
        q = q.unflatten(-1, (model.num_heads, -1))
        k, v = self._captions[layer]
        if len(k) > 1:
            per_frame = q.unflatten(1, (len(rows), -1)).flatten(0, 1)
            return self._attend(cross, per_frame, k[list(rows)], v[list(rows)]).flatten(0, 1)[None]
        return self._attend(cross, q, k, v)

    def _modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        h = F.layer_norm(x, x.shape[-1:], eps=self.config.model.eps)
        modulated: Tensor = h.unflatten(1, (scale.shape[1], -1)) * (1 + scale) + shift
        return modulated.flatten(1, 2)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.config.model.eps)
        return normed.to(x.dtype) * weight

    def _frequency_table(self) -> list[Tensor]:
        """Unit complex numbers of every position, float64, for time, height and width."""
        pairs = self.config.model.head_dim // 2
        third = pairs // 3
        tables = []
        for count in (pairs - 2 * third, third, third):
            rates = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
            angles = torch.outer(torch.arange(_MAX_POSITIONS, dtype=torch.float64), rates)
            tables.append(torch.polar(torch.ones_like(angles), angles).to(self.device))
        return tables

    def _rotation(
        self, frequencies: list[Tensor], positions: Sequence[int], flags: Sequence[int]
    ) -> Tensor:
        """The rotation of every token of some frames, complex128 ``[T, 1, D / 2]``."""
        time, height, width = frequencies
        rows, columns = self.config.model.grid
        parts = []
        for position, flag in zip(positions, flags, strict=True):
            angle = torch.full((1, 1), flag * self._phase_rad, dtype=torch.float64)
            phase = torch.polar(torch.ones_like(angle), angle).to(self.device)
            turned = (time[position] * phase).expand(rows, columns, -1)
            down = height[:rows, None].expand(rows, columns, -1)
            across = width[None, :columns].expand(rows, columns, -1)
            parts.append(torch.cat([turned, down, across], -1).flatten(0, 1))
        return torch.cat(parts).unsqueeze(1)


def _rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the feature pairs of ``[B, T, N, D]``."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _gated(y: Tensor, gate: Tensor) -> Tensor:
    gated: Tensor = y.unflatten(1, (gate.shape[1], -1)) * gate
    return gated.flatten(1, 2)
