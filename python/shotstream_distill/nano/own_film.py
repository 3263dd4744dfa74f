"""Films with a student on training batches: remembered frames, few steps, history of its own.

Used by the trainings that start from a model which can draw: the few-step distillation and the
reward stage. Keys and values of context and history are computed once per film.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from shotstream_rt.config import ModelConfig
from shotstream_rt.plan.schedule import Schedule

from ..common.sequence import Captions, KeysValues, Parameters, Sequence
from ..world.bank import CONTEXT_FRAMES, Batch
from .fast_student import FastStudent
from .losses import expand
from .recipe import NANO_SCHEDULE
from .state import CaptionEmbedder


def split_sequence(sequence: Sequence) -> tuple[Sequence, Sequence]:
    """Split a sequence into its shared frames and its noisy ones."""
    cut = sequence.shared
    fields = ("latents", "times", "caption_index", "positions", "flags")
    front = {name: getattr(sequence, name)[:, :cut] for name in fields}
    back = {name: getattr(sequence, name)[:, cut:] for name in fields}
    return (
        dataclasses.replace(sequence, **front, groups=0),
        dataclasses.replace(sequence, **back, context=0),
    )


def shared_frames(sequence: Sequence, begin: int, end: int) -> Sequence:
    """Return some of a sequence's shared frames, as shared frames that all see each other.

    Args:
        sequence: whose frames they are.
        begin: the first frame.
        end: the frame behind the last.
    """
    fields = ("latents", "times", "caption_index", "positions", "flags")
    part = {name: getattr(sequence, name)[:, begin:end] for name in fields}
    return dataclasses.replace(sequence, **part, shared=end - begin, shared_groups=(), visible=())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Walker:
    """One network on one batch with its shared frames remembered."""

    model: FastStudent
    parameters: Parameters
    captions: Captions
    noisy: Sequence
    memory: list[KeysValues]

    def flow(self, x: Tensor, level: float | Tensor) -> Tensor:
        """Predict the flow at ``x [B, frames, C, h, w]``; one level, or ``[B, frames]``."""
        times = level if isinstance(level, Tensor) else torch.full(x.shape[:2], level)
        sequence = dataclasses.replace(self.noisy, latents=x, times=times)
        return self.model(self.parameters, sequence, self.captions, self.memory)[0]

    def clean(self, x: Tensor, level: float | Tensor) -> Tensor:
        """Predict the clean latents behind ``x``."""
        sigma = expand(level) if isinstance(level, Tensor) else level
        return x - sigma * self.flow(x, level)

    def with_captions(self, captions: Captions) -> Walker:
        """Return the same with captions embedded again, which gradients may go through."""
        return dataclasses.replace(self, captions=captions)


class Filming:
    """A network's form and levels; weights are given to each call.

    Attributes:
        model: the forward pass.
        levels: the student's noise levels, and 0.
    """

    def __init__(self, config: ModelConfig, *, shot_phase: bool = True) -> None:
        self.model = FastStudent(config, shot_phase=shot_phase)
        self.levels = [*Schedule.from_config(NANO_SCHEDULE).sigmas, 0.0]
        self._text = CaptionEmbedder()

    def captions(self, p: Parameters, batch: Batch, *, text: bool = True) -> Captions:
        """Embed a batch's captions, or none of them.

        Args:
            p: parameters by state-dict name.
            batch: whose captions.
            text: false drops all of them.
        """
        return self._text(p, batch, torch.full((len(batch.tokens),), text))

    def walker(self, p: Parameters, batch: Batch, shared: Tensor, *, text: bool = True) -> Walker:
        """Remember ``shared [B, frames, C, h, w]`` and stand before the noisy groups.

        Args:
            p: parameters by state-dict name.
            batch: captions, positions and flags.
            shared: context and history ``[B, frames, C, h, w]``.
            text: false drops the captions.
        """
        captions = self.captions(p, batch, text=text)
        whole = batch.sequence(batch.target, torch.zeros(batch.target.shape[:2]), shared)
        front, back = split_sequence(whole)
        memory = self.model.remember(p, front, captions)
        return Walker(model=self.model, parameters=p, captions=captions, noisy=back, memory=memory)

    def answer(self, walker: Walker, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Take the student's steps from noise; returns the end, and the state at each level."""
        states = []
        for level, below in pairwise(self.levels):
            states.append(x)
            clean = walker.clean(x, level)
            x = (1 - below) * clean + below * torch.randn_like(x)
        return clean, states

    def film_history(self, p: Parameters, batch: Batch) -> Tensor:
        """Film the history with the student, so that it carries the student's own errors.

        Returns:
            ``batch.shared`` with all frames behind the context made anew.
        """
        shared, group_frames = batch.shared, batch.group_frames
        chunks = (shared.shape[1] - CONTEXT_FRAMES) // group_frames
        if chunks <= 0:
            return shared
        captions = self.captions(p, batch)
        whole, _ = split_sequence(batch.sequence(batch.target, torch.zeros(batch.target.shape[:2])))
        memory = self.model.remember(p, shared_frames(whole, 0, CONTEXT_FRAMES), captions)
        made = [shared[:, :CONTEXT_FRAMES]]
        for chunk in range(chunks):
            begin = CONTEXT_FRAMES + chunk * group_frames
            place = dataclasses.replace(
                shared_frames(whole, begin, begin + group_frames), shared=0, context=0, groups=1
            )
            walker = Walker(
                model=self.model, parameters=p, captions=captions, noisy=place, memory=memory
            )
            made.append(self.answer(walker, torch.randn(place.latents.shape))[0])
            if chunk + 1 < chunks:
                clean = dataclasses.replace(place, latents=made[-1])
                memory = self.model.remember(p, clean, captions, memory)
        return torch.cat(made, 1)
