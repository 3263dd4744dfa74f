"""The baseline: a straightforward student in eager torch, pass by pass.

Same weights, plans, noise and results as the runtime, and the structure of the original's inference
code: nothing is kept from one pass to the next but keys and values. Every pass embeds the captions
and times again and builds the rotary tables again; every layer rotates queries and keys as complex
numbers in float64, clones the caches and concatenates what it attends to; captions are attended to
with all their padding; the clean pass and the context pass run to the end, head included. Other
slow things that the original does (prints, scalars read from the device in every layer) are left
out, so ratios to it are on the low side.

The maths is in ``docs/architecture.md``. Source of what is repeated: ShotStream
``wan/modules/causal_model.py`` and ``pipeline/causal_inference_ar.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shotstream_rt.abandonment import never
from shotstream_rt.errors import ConfigError
from shotstream_rt.model.blocks import fold_patches
from shotstream_rt.model.student import Student
from shotstream_rt.plan.schedule import Schedule

if TYPE_CHECKING:
    from shotstream_rt.config import StreamConfig
    from shotstream_rt.model.blocks import Attention, Block
    from shotstream_rt.model.captions import CaptionSet
    from shotstream_rt.plan.policy import PassPlan, RotaryPosition

_MAX_POSITIONS = 1024
_SHOT_PHASE_RAD = 1 / 6


_SDPA_BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def attend_by(name: str) -> AbstractContextManager[None]:
    """Make torch's attention use one library, or fail; ``torch`` leaves the choice to it."""
    return nullcontext() if name == "torch" else sdpa_kernel([_SDPA_BACKENDS[name]])


class PlainStudent:
    """A ``FilmState`` without any of the runtime's savings.

    Attributes:
        attention: ``torch`` for what torch takes by itself, else the library that it must take:
            ``cudnn`` or ``flash``.

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
        self.attention = "torch"
        self.abandoned: Callable[[], bool] = never
        self.device, self.dtype = student.patch_embedding.weight.device, student.dtype
        self.schedule = Schedule.from_config(config.schedule)
        model = config.model
        self._scale = model.head_dim**-0.5
        self._phase_rad = _SHOT_PHASE_RAD if config.shot.shot_phase else 0.0
        rows = config.shot.shot_frames * model.tokens_per_frame
        shape = (1, rows, model.num_heads, model.head_dim)
        self._local = [
            [torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in range(2)]
            for _ in student.layers
        ]
        self._context: list[list[Tensor]] = []
        self._embeddings = torch.empty(0)
        self._captions: list[tuple[Tensor, Tensor]] = []
        self._plan: PassPlan | None = None
        self._caption = 0
        self._noise = self._x = self._x0 = torch.empty(0)

    def prepare_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``; nothing is computed ahead here."""

    def begin_shot(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self.change_captions(captions)

    def change_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``; keys and values are made by the next pass."""
        self._embeddings = captions.embeddings.to(self.device, self.dtype)
        self._captions = []

    @torch.inference_mode()
    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState``.

        Args:
            plan: of the context pass.
            captions: caption of each context frame, as a row of the shot's captions.
            latents: the context frames, ``[1, F, C, h, w]``.
        """
        self._context = []
        self._pass(latents, 0.0, plan, captions, first_token=None)

    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState``.

        Args:
            plan: of the chunk.
            caption: row of the shot's captions.
            noise: ``[S, 1, F, C, h, w]``; entry ``s`` enters the input of step ``s``.
        """
        self._plan, self._caption = plan, caption
        self._noise, self._x = noise, noise[0]

    @torch.inference_mode()
    def denoise(self, step: int) -> Tensor:
        """See ``FilmState``."""
        sigmas = self.schedule.sigmas
        flow = self._chunk(self._x, self.schedule.timesteps[step])
        x0 = (self._x.double() - sigmas[step] * flow.double()).to(self.dtype)
        if step + 1 < len(sigmas):
            level, noise = sigmas[step + 1], self._noise[step + 1]
            self._x = ((1 - level) * x0.float() + level * noise.float()).to(self.dtype)
        self._x0 = x0
        return x0

    @torch.inference_mode()
    def commit(self) -> None:
        """See ``FilmState``."""
        self._chunk(self._x0, self.schedule.commit_timestep)

    def keep(self, slots: Sequence[int] | None = None) -> Callable[[], None]:
        """See ``FilmState``."""
        raise ConfigError("baseline: got a student that keeps its caches at a cut, wanted none")

    def poison(self) -> None:
        """See ``FilmState``."""
        for pair in self._local:
            for cache in pair:
                cache.fill_(torch.nan)

    def close(self) -> None:
        """Drop the caches."""
        self._context, self._captions, self._local = [], [], []

    def _chunk(self, x: Tensor, time: float) -> Tensor:
        plan, cache = self._plan, self.config.cache
        assert plan is not None, "a pass before begin_chunk"
        first = (plan.writes[0] - cache.context_frames) * self.config.model.tokens_per_frame
        return self._pass(x, time, plan, [self._caption] * len(plan.writes), first)

    def _pass(
        self,
        latents: Tensor,
        time: float,
        plan: PassPlan,
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
        with attend_by(self.attention):
            for layer, block in enumerate(student.layers):
                if len(self._captions) == layer:
                    self._captions.append(self._caption_kv(block, text))
                # [1, F, 1, dim] each: shift, scale and gate of attention, then of the feed-forward.
                m = (time_rows + block.modulation).unsqueeze(3).unbind(2)
                h = self._modulate(x, m[0], m[1])
                q, k, v = self._project(block.self_attn, h)
                turns = self._rotation(frequencies, plan.positions)
                q, k = _rotate(q, turns), _rotate(k, turns)
                keys, values = self._remember(layer, k, v, first_token)
                x = x + _gated(self._attend(block.self_attn, q, keys, values), m[2])
                x = x + self._cross(block, layer, x, rows)
                x = x + _gated(block.ffn(self._modulate(x, m[3], m[4])), m[5])
        shift, scale = (features.unsqueeze(2) + student.head.modulation).unsqueeze(3).unbind(2)
        patches = student.head.head(self._modulate(x, shift, scale))
        return fold_patches(patches, self.config.model.grid)

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

    def _rotation(self, frequencies: list[Tensor], positions: Sequence[RotaryPosition]) -> Tensor:
        """The rotation of every token of some frames, complex128 ``[T, 1, D / 2]``."""
        time, height, width = frequencies
        rows, columns = self.config.model.grid
        parts = []
        for place in positions:
            angle = torch.full((1, 1), place.flag * self._phase_rad, dtype=torch.float64)
            phase = torch.polar(torch.ones_like(angle), angle).to(self.device)
            turned = (time[place.frame] * phase).expand(rows, columns, -1)
            down = height[:rows, None].expand(rows, columns, -1)
            across = width[None, :columns].expand(rows, columns, -1)
            parts.append(torch.cat([turned, down, across], -1).flatten(0, 1))
        return torch.cat(parts).unsqueeze(1)


def _rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the feature pairs of ``[B, T, N, D]``."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _gated(y: Tensor, gate: Tensor) -> Tensor:
    gated: Tensor = y.unflatten(1, (gate.shape[1], -1)) * gate
    return gated.flatten(1, 2)
