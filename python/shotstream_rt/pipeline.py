"""THE HOT PATH: one shot, chunk by chunk.

    begin_shot: captions -> caption K/V;  context latents -> context slots
    run_chunk:  noise -> [denoise -> x0 -> next noise level] x steps -> x0
    commit:     x0 at time 0 -> local slots

Read top to bottom; nothing here allocates caches, looks at pixels or knows a device. The session
calls it from one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .backends.base import StudentBackend
from .config import StreamConfig
from .errors import ConfigError
from .model.captions import CaptionSet
from .noise import NoiseSource
from .nvtx import annotate
from .plans import planner_of
from .transfer import send

if TYPE_CHECKING:
    from ._native import ChunkPlan


class Pipeline:
    """Denoises the chunks of a film's shots with one backend.

    Args:
        config: everything that decides the numbers.
        backend: executes the planned passes.
    """

    def __init__(self, config: StreamConfig, backend: StudentBackend) -> None:
        self.config, self.backend = config, backend
        self.planner = planner_of(config)
        self._shot = -1
        self._flag = 0
        self._row = 0
        self._context_shots: tuple[int, ...] = ()
        self._done: tuple[ChunkPlan, Tensor] | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of one chunk's latents, ``(1, F, C, h, w)``."""
        model = self.config.model
        return (
            1,
            self.config.shot.chunk_frames,
            model.in_dim,
            model.latent_height,
            model.latent_width,
        )

    def begin_shot(
        self,
        shot: int,
        context: Tensor,
        flags: Sequence[int],
        captions: CaptionSet,
        target_flag: int,
    ) -> None:
        """Start a shot: caption keys and values, then the context pass.

        Args:
            shot: shot number; addresses the noise.
            context: ``[1, context_frames, C, h, w]``; zeros for a film's first shot.
            flags: shot number of each context frame.
            captions: one caption for all frames, or one per shot among ``flags`` in rising order
                followed by the running shot's.
            target_flag: phase number of the running shot.

        Raises:
            ConfigError: shapes that do not fit the configuration or each other.
        """
        wanted = (1, self.config.cache.context_frames, *self.latent_shape[2:])
        if tuple(context.shape) != wanted or len(flags) != wanted[1]:
            raise ConfigError(
                f"context: got latents {tuple(context.shape)} with {len(flags)} flag(s), wanted "
                f"{wanted} and one flag per frame"
            )
        self._shot, self._flag, self._done = shot, target_flag, None
        self._context_shots = tuple(sorted(set(flags)))
        self.set_captions(captions)
        if not flags:
            return
        rows = [self._context_shots.index(flag) if self._row else 0 for flag in flags]
        plan = self.planner.context(list(flags))
        latents = send(context, self.backend.device).to(self.backend.dtype)
        with annotate("context.pass", shot):
            self.backend.encode_context(plan, rows, latents)

    def set_captions(self, captions: CaptionSet) -> None:
        """Replace the captions of the running shot, from the next pass on; caches are kept.

        Args:
            captions: as for ``begin_shot``.

        Raises:
            ConfigError: neither one caption nor one per shot.
        """
        shots = len(self._context_shots)
        if len(captions) not in (1, shots + 1):
            raise ConfigError(
                f"captions: got {len(captions)}, wanted 1 or {shots + 1} (one per shot in the "
                "context and the running shot's)"
            )
        self._row = len(captions) - 1
        self.backend.set_captions(captions)

    def run_chunk(self, chunk: int, noise: NoiseSource) -> Tensor:
        """Denoise one chunk.

        Args:
            chunk: number within the shot, from 0; chunks run in order.
            noise: where noise comes from.

        Returns:
            Clean latents ``[1, F, C, h, w]`` on the backend's device, valid until the next call.
        """
        plan = self.planner.chunk(self._shot, chunk, self._flag)
        for step, entry in enumerate(self.backend.noise):
            entry.copy_(self._draw(noise, chunk, step))
        for step in range(self.config.schedule.num_steps):
            with annotate("step", step):
                x0 = self.backend.denoise(step, plan, self._row)
        self._done = plan, x0
        return x0

    def _draw(self, noise: NoiseSource, chunk: int, step: int) -> Tensor:
        """Noise that enters a step's input; its first frame may be that of the frame before."""
        shape, device = self.latent_shape, self.backend.device
        drawn = noise.draw(self._shot, chunk, step, shape, device)
        if step == 0 or chunk == 0 or not self.config.schedule.carry_renoise:
            return drawn
        before = noise.draw(self._shot, chunk - 1, step, shape, device)
        return torch.cat((before[:, -1:], drawn[:, 1:]), dim=1)

    def commit(self) -> None:
        """Run the clean pass of the chunk just denoised; its keys serve the chunks after it.

        A shot's last chunk needs none.
        """
        assert self._done is not None, "commit before run_chunk"
        plan, x0 = self._done
        self.backend.commit(plan, self._row, x0)

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()
