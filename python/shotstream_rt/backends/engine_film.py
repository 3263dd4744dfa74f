"""One film on exported passes: its caches, its rotary tables and the order of passes.

Keys and values go in as views of the arena and come out straight into their slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..abandonment import Abandoned, never
from ..errors import ConfigError
from ..kernels.sets.arena_layout import ArenaLayout
from ..plan.policy import PassPlan
from .cache import CachedFilm, DualKVCache
from .cross_attention import CaptionProducts
from .engine_passes import PassRun, Tensors
from .passes import RotaryTable

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..model.captions import CaptionSet


class EngineFilm(CachedFilm):
    """One film's caches, and the passes over them.

    Args:
        runs: the passes, this film's own.
        config: shapes, cache and schedule.
        dtype: of latents and caches.
        arena_frames: slots of one layer's arena.
    """

    def __init__(
        self, runs: Mapping[str, PassRun], config: StreamConfig, dtype: torch.dtype,
        arena_frames: int,
    ) -> None:  # fmt: skip
        self.device, self.dtype = torch.device("cpu"), dtype
        self.abandoned: Abandoned = never
        self._runs, self._model = dict(runs), config.model
        self._layers = range(config.model.num_layers)
        self._steps = config.schedule.num_steps
        self._on_read = config.cache.key_rotation == "on_read"
        # Token by token in memory, so that any run of slots is one block that engines can read.
        self.cache = DualKVCache(
            config.model, arena_frames, layout=ArenaLayout(), dtype=dtype, device=self.device
        )
        phase, self._commit_time = config.shot.shot_phase, config.schedule.context_noise
        context, chunk = config.cache.context_frames, config.shot.chunk_frames

        def table(frames: int, plain_frames: int = 0) -> RotaryTable:
            return RotaryTable(
                config.model, frames, shot_phase=phase, device=self.device,
                plain_frames=plain_frames,
            )  # fmt: skip

        self._context_rotation, self._rotation = table(context), table(chunk)
        self._read_rotation = table(arena_frames - context, context) if self._on_read else None
        latents = (1, chunk, self._model.in_dim, self._model.latent_height,
                   self._model.latent_width)  # fmt: skip
        self._x0 = torch.zeros(latents, dtype=dtype)
        self._spare = [torch.zeros_like(self._x0), torch.zeros_like(self._x0)]
        self._captions: list[dict[str, Tensor]] = []
        self._products = CaptionProducts(self.caption_tensors, kept=context + 2)
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._scattered: tuple[int, ...] | None = None
        self._caption = 0
        self._levels: tuple[tuple[int, ...], ...] = ()
        self._noise = self._x = torch.empty(0, device="cpu")

    @torch.inference_mode()
    def prepare_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._products.of(captions)

    def begin_shot(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self.change_captions(captions)

    @torch.inference_mode()
    def change_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._captions = self._products.of(captions)

    @torch.inference_mode()
    def caption_tensors(self, text: Tensor, length: int) -> dict[str, Tensor]:
        """Compute a caption's keys and values, ``caption_k_0``... ``[1, N, text_len, D]``.

        Args:
            text: embeddings ``[text_len, text_dim]``, on any device.
            length: rows of them that are real tokens; the engine computes all.
        """
        model, rows = self._model, text.to(self.device, self.dtype)
        shape = (1, model.num_heads, model.text_len, model.head_dim)
        kv = {f"{part}_{layer}": torch.empty(shape, dtype=self.dtype)
              for part in ("k", "v") for layer in self._layers}  # fmt: skip
        self._runs["captions"]({"text": rows[None].contiguous()}, kv)
        return {f"caption_{name}": value for name, value in kv.items()}

    @torch.inference_mode()
    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState.encode_context``.

        Args:
            plan: of the pass; of a given chunk if ``plan.chunk`` is a number.
            captions: caption of each frame, as a row of the shot's captions.
            latents: the frames, ``[1, F, C, h, w]``.

        Raises:
            ConfigError: a given chunk, and the exported clean pass is not at time 0.
        """
        if plan.chunk is not None:  # a given chunk: what a clean pass leaves of it
            if self._commit_time:
                raise ConfigError(
                    f"given start: the exported clean pass is at time {self._commit_time}, wanted "
                    "0; use backend eager"
                )
            self.begin_chunk(plan, captions[0], latents.to(self.dtype)[None])
            self._x0.copy_(latents)
            self.commit()
            return
        self._context_rotation.set(plan.positions)
        rows = [self._captions[row] for row in captions]
        inputs = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        inputs["x"] = latents.to(self.dtype).contiguous()
        inputs["rotation"] = torch.view_as_real(self._context_rotation.rows)
        self._scattered, outputs = self._own_slots(plan)
        self._runs["context"](inputs, outputs)
        self._scatter(outputs)

    @torch.inference_mode()
    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState.begin_chunk``.

        Args:
            plan: of the chunk.
            caption: row of the shot's captions.
            noise: ``[S, 1, F, C, h, w]``; read until the last pass was run.
        """
        self._rotation.set(plan.positions)
        self._scattered, self._outputs = self._own_slots(plan)
        self._inputs = self._prefix(plan)
        self._inputs["rotation"] = torch.view_as_real(self._rotation.rows)
        self._caption, self._noise, self._x = caption, noise, noise[0].contiguous()
        self._levels = plan.levels

    @torch.inference_mode()
    def denoise(self, step: int) -> Tensor:
        """See ``FilmState``."""
        inputs, outputs = self._chunk_inputs(self._x), {**self._outputs, "x0": self._x0}
        step = self._levels[step][0]  # a chunk made from given frames has only the last ones
        following = self._spare[step % 2]
        if step + 1 < self._steps:
            inputs["noise"] = self._noise[step + 1].contiguous()
            outputs["next_x"] = following
        self._runs[f"denoise_{step}"](inputs, outputs)
        self._scatter(outputs)
        self._x = following
        return self._x0

    @torch.inference_mode()
    def commit(self) -> None:
        """See ``FilmState``."""
        self._runs["commit"](self._chunk_inputs(self._x0), self._outputs)
        self._scatter(self._outputs)

    def close(self) -> None:
        """Drop the caches and this film's hold on the passes."""
        self.cache.close()
        self._products.clear()
        self._runs, self._captions, self._inputs, self._outputs = {}, [], {}, {}

    def _chunk_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Inputs of a pass over the chunk begun; captions may have changed since then."""
        return {**self._inputs, **self._captions[self._caption], "x": x}

    def _own_slots(self, plan: PassPlan) -> tuple[tuple[int, ...] | None, dict[str, Tensor]]:
        """Where a pass's keys and values go.

        That is their slots if those are neighbours; else memory that is copied to them afterwards,
        and then the slots come with it.
        """
        tokens, first = self.cache.frame_tokens, plan.writes[0]
        outputs = {}
        apart = plan.writes != tuple(range(first, first + len(plan.writes)))
        begin, count = first * tokens, len(plan.writes) * tokens
        for layer, arena in enumerate(self.cache.arenas):
            for part, rows in (("k", arena.k), ("v", arena.v)):
                own = (
                    rows.new_empty(count, *rows.shape[1:]) if apart else rows[begin : begin + count]
                )
                outputs[f"{part}_{layer}"] = own.unsqueeze(0)
        return plan.writes if apart else None, outputs

    def _scatter(self, outputs: Tensors) -> None:
        """Copy keys and values to slots that are no neighbours."""
        if self._scattered is None:
            return
        tokens, slots = self.cache.frame_tokens, list(self._scattered)
        for layer, arena in enumerate(self.cache.arenas):
            for part, rows in (("k", arena.k), ("v", arena.v)):
                own = outputs[f"{part}_{layer}"][0].unflatten(0, (-1, tokens))
                rows.unflatten(0, (-1, tokens))[slots] = own

    def _prefix(self, plan: PassPlan) -> dict[str, Tensor]:
        """What a pass attends to beside its own keys: in front of its slots, and behind."""
        ((begin, end),) = plan.reads[0]
        assert begin == 0 and len(plan.reads) == 1, "a plan that prunes history"
        tokens, first = self.cache.frame_tokens, min(plan.writes)
        behind = [slot for slot in range(first, end) if slot not in plan.writes]
        together = behind == list(range(end - len(behind), end))

        def back(rows: Tensor) -> Tensor:
            if together:
                return rows[(end - len(behind)) * tokens : end * tokens]
            picked: Tensor = rows.unflatten(0, (-1, tokens))[behind]
            return picked.flatten(0, 1)

        inputs = {}
        for layer, arena in enumerate(self.cache.arenas):
            for part, rows in (("k", arena.k), ("v", arena.v)):
                inputs[f"front_{part}_{layer}"] = rows[: first * tokens].unsqueeze(0)
                inputs[f"back_{part}_{layer}"] = back(rows).unsqueeze(0)
        if self._read_rotation is not None and plan.read_positions is not None:
            self._read_rotation.set([place for place in plan.read_positions if place is not None])
            rows = torch.view_as_real(self._read_rotation.rows)
            own = rows.unflatten(0, (-1, tokens))[list(plan.writes)].flatten(0, 1)
            inputs |= {"front_rotation": rows[:first * tokens], "back_rotation": back(rows),
                       "own_rotation": own}  # fmt: skip
        return inputs
