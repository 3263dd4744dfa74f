"""The eager backend: the student's blocks run one after the other on any device; the oracle.

It is the model plus a ``KernelSet``: with the reference set on the CPU it defines what is correct,
with the ``cpu`` set it is the fast path of machines without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..abandonment import never
from ..plan.policy import PassPlan, RolloutPolicy, policy_of
from ..plan.schedule import COMMIT
from .cross_attention import CaptionKV, CaptionProducts, CaptionRuns, Captions, caption_kv
from .passes import PassInputs, PassRunner, TabulatedStudent

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..device.companion import Companion
    from ..model.bound_student import BoundStudent
    from ..model.captions import CaptionSet


class EagerBackend:
    """Runs planned passes with plain calls.

    Args:
        student: the network, bound to its kernels.
        config: shapes, cache and schedule.
        policy: plans the passes; default: the configuration's.
    """

    records_passes = False

    def __init__(
        self, student: BoundStudent, config: StreamConfig, policy: RolloutPolicy | None = None
    ) -> None:
        self._shared: TabulatedStudent | None = TabulatedStudent.of(student, config)
        self._policy = policy or policy_of(config)
        self.device, self.dtype = student.device, student.dtype
        self.info = self._shared.info("eager", self._policy.arena_frames)

    def new_film(
        self, runner: Callable[[TabulatedStudent, RolloutPolicy], PassRunner] = PassRunner
    ) -> EagerFilm:
        """See ``StudentBackend``; ``runner`` makes what runs its passes, for parity checks."""
        assert self._shared is not None, "new_film after close"
        return EagerFilm(runner(self._shared, self._policy))

    def close(self) -> None:
        """Drop the weights."""
        self._shared = None


class EagerFilm:
    """One film's caches; see ``FilmState`` and ``AccompaniedFilm``.

    Args:
        runner: runs the passes; used by this film only.
    """

    def __init__(self, runner: PassRunner) -> None:
        self._runner, self.cache = runner, runner.cache
        self.device, self.dtype = runner.device, runner.student.dtype
        self.abandoned: Callable[[], bool] = never
        self._captions: list[CaptionKV] = []
        self._products = CaptionProducts(
            partial(caption_kv, runner.student), kept=runner.config.cache.context_frames + 2
        )
        self._caption = 0
        self._inputs: PassInputs | None = None
        self._noise = self._x = self._x0 = torch.empty(0, device="cpu")

    @property
    def companion(self) -> Companion | None:
        """See ``AccompaniedFilm``."""
        return self._runner.companion

    @companion.setter
    def companion(self, companion: Companion | None) -> None:
        self._runner.companion = companion

    @torch.inference_mode()
    def prepare_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._products.of(captions)

    @torch.inference_mode()
    def change_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._captions = self._products.of(captions)

    begin_shot = change_captions

    @torch.inference_mode()
    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState.encode_context``; arguments as there."""
        shown: Captions = self._captions[captions[0]]
        if captions.count(captions[0]) < len(captions):
            shown = CaptionRuns(self._captions, captions)
        runner, times = self._runner, self._runner.shared.times(plan.levels[0])
        runner.place(plan)
        runner.run(
            latents, times, runner.inputs(plan), shown, keep_flow=False, abandoned=self.abandoned
        )

    @torch.inference_mode()
    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState.begin_chunk``; arguments as there."""
        before, self._x = self._x, noise[0].clone()
        if plan.carried:
            self._x[:, : plan.carried] = before[:, before.shape[1] - plan.carried :]
        self._x0 = torch.empty_like(self._x)
        self._inputs = self._runner.inputs(plan)
        self._caption, self._noise = caption, noise

    @torch.inference_mode()
    def denoise(self, step: int) -> Tensor:
        """See ``FilmState``."""
        assert self._inputs is not None, "a pass before begin_chunk"
        levels, caption = self._inputs.plan.levels[step], self._captions[self._caption]
        runner, times = self._runner, self._runner.shared.times(levels)
        runner.place(self._inputs.plan)
        flow = runner.run(
            self._x, times, self._inputs, caption, keep_flow=True, abandoned=self.abandoned
        )
        assert flow is not None
        runner.advance(levels, self._x, self._x0, flow, self._noise)
        return self._x0

    @torch.inference_mode()
    def commit(self) -> None:
        """See ``FilmState``."""
        assert self._inputs is not None, "a pass before begin_chunk"
        clean = self._inputs.plan.clean
        inputs = self._inputs if clean is None else self._runner.inputs(clean)
        x0, times = self._x0[:, : len(inputs.plan.writes)], self._runner.shared.tables[COMMIT]
        self._runner.place(inputs.plan)
        self._runner.run(
            x0, times, inputs, self._captions[self._caption], keep_flow=False,
            abandoned=self.abandoned,
        )  # fmt: skip

    @torch.inference_mode()
    def chunk_flow(self, time: float, x: Tensor) -> Tensor:
        """Run a pass over the chunk begun, at any time; for parity checks.

        Args:
            time: timestep in [0, 1000].
            x: ``[1, F, C, h, w]``.

        Returns:
            The predicted flow, like ``x``.
        """
        assert self._inputs is not None, "a pass before begin_chunk"
        times, caption = self._runner.student.time_table(time), self._captions[self._caption]
        self._runner.place(self._inputs.plan)
        flow = self._runner.run(x, times, self._inputs, caption, keep_flow=True)
        assert flow is not None
        return flow

    @torch.inference_mode()
    def context_flow(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> Tensor:
        """Run the whole context pass, head included; for parity checks.

        Args:
            plan: as for ``encode_context``.
            captions: likewise.
            latents: likewise.

        Returns:
            The predicted flow, like ``latents``.
        """
        runs = CaptionRuns(self._captions, captions)
        times = self._runner.shared.times(plan.levels[0])
        self._runner.place(plan)
        flow = self._runner.run(latents, times, self._runner.inputs(plan), runs, keep_flow=True)
        assert flow is not None
        return flow

    @torch.inference_mode()
    def keep(self, slots: Sequence[int] | None = None) -> Callable[[], None]:
        """See ``FilmState``."""
        return self.cache.keep(slots)

    def poison(self) -> None:
        """See ``FilmState``."""
        self.cache.poison()

    def close(self) -> None:
        """Drop the caches."""
        self._captions, self._inputs = [], None
        self._products.clear()
        self._noise = self._x = self._x0 = torch.empty(0, device="cpu")
        self._runner.close()
