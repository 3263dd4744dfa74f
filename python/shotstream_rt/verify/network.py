"""Case C: the whole network, cached call by call, and its masked training form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..config import CacheConfig, ShotConfig, StreamConfig
from ..kernels.reference.renoise import to_x0
from ..model.student import Student
from ..plan.policy import policy_of
from ..plan.schedule import Schedule
from .check import Check, compare
from .golden import GoldenCase, VerifyOptions

_EXTRA_TIME = 260.0
"""Time of the frames that the sink-and-window form adds (README of the golden vectors)."""

_CALL = re.compile(r"chunk(\d+) t=([\d.]+)( \(input chunk\d+\.x\*([\d.]+)\))?")


def check(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare flows, clean estimates, hidden states and caches."""
    dtype = asked.dtype
    context_flags = [int(f) for f in case.meta["ctx_flags"]]
    target_flags = [int(f) for f in case.meta["tgt_flags"]]
    frames = len(target_flags)
    config = StreamConfig(
        model=case.model,
        cache=CacheConfig(context_frames=len(context_flags)),
        shot=ShotConfig(chunk_frames=frames, shot_frames=7 * frames),
    )
    film, student = case.eager_film(config, asked), case.student(dtype)
    policy, schedule = policy_of(config), Schedule.from_config(config.schedule)
    captions = len(case.meta["prompt_lengths"])
    film.begin_shot(case.captions(list(range(captions))))

    def compared(name: str, x: Tensor, flow: Tensor, time: float) -> Iterator[Check]:
        """Compare a call's flow and clean estimate.

        Args:
            name: of the call.
            x: its input, ``[1, F, C, h, w]``.
            flow: what it predicted, like ``x``.
            time: its timestep in [0, 1000].
        """
        yield compare(f"{name}.flow", flow, case[f"{name}.flow"], dtype, "network")
        x0 = to_x0(x.to(dtype), flow.cpu(), schedule.sigma_at(torch.tensor(time)))
        yield compare(f"{name}.x0", x0, case[f"{name}.x0"], dtype, "network")

    def inner(name: str, x: Tensor, time: float) -> Iterator[Check]:
        """Compare a call's embedded patches and time projection.

        Args:
            name: of the call.
            x: its input, ``[1, F, C, h, w]``.
            time: its timestep in [0, 1000].
        """
        got = student.embed_patches(x)
        yield compare(f"{name}.patch_embed", got, case[f"{name}.patch_embed"], dtype, "network")
        golden = case[f"{name}.time_projection"]
        _, rows = student.embed_times(torch.full((1, len(golden)), time))
        yield compare(f"{name}.time_projection", rows[0].flatten(1), golden, dtype, "network")

    def cached(name: str, slots: Sequence[int]) -> Iterator[Check]:
        tokens = config.model.tokens_per_frame
        kept = torch.cat([torch.arange(s * tokens, (s + 1) * tokens) for s in slots])
        for layer, arena in enumerate(film.cache.arenas):
            for part, rows in (("k", arena.k), ("v", arena.v)):
                full = f"{name}.cache{layer}.{part}"
                yield compare(full, rows[kept][None], case[full], dtype, "network")

    with torch.inference_mode():
        for match in case.named(r"text_embedding_first(\d+)"):
            got = student.embed_text(case["prompt_embeds"])[:, : int(match[1])]
            yield compare(match.string, got, case[match.string], dtype, "network")
        plan = policy.context(context_flags)
        x = case["ctx.x"]
        flow = film.context_flow(plan, context_flags, x.to(asked.device))
        yield from compared("ctx", x, flow, 0.0)
        yield from inner("ctx", x, 0.0)
        yield from cached("ctx", plan.writes)
        for chunk, time, factor in _calls(case):
            plan = policy.chunk(target_flags[0], chunk, target_flags[0])
            x = case[f"chunk{chunk}.x"] * factor
            film.begin_chunk(plan, target_flags[0], x[None])
            flow = film.chunk_flow(time, x.to(asked.device))
            name = f"chunk{chunk}.t{round(time)}"
            yield from compared(name, x, flow, time)
            if f"{name}.patch_embed" in case.tensors:
                yield from inner(name, x, time)
            if time == 0:
                yield from cached(f"chunk{chunk}", plan.writes)
        yield from _training(case, student, schedule)
        yield from _hidden(case, student, context_flags, target_flags)


def _calls(case: GoldenCase) -> Iterator[tuple[int, float, float]]:
    """(chunk, time, factor on its input) of every chunk call, in order."""
    for text in case.meta["order_of_calls"]:
        found = _CALL.match(text)
        if found:
            yield int(found[1]), float(found[2]), float(found[4] or 1)


def _training(case: GoldenCase, student: Student, schedule: Schedule) -> Iterator[Check]:
    """Compare the masked forms: chunk-causal, and with sink and window."""
    for full in ("train.plain", "train.sink3_local6"):
        if f"{full}.flow" not in case.tensors:
            continue
        x, times, flags = case["train.x"], case["train.t"], case["train.flags"].long()
        if f"{full}.x_extra" in case.tensors:
            extra = case[f"{full}.x_extra"]
            x = torch.cat([x, extra], 1)
            times = torch.cat([times, torch.full((1, extra.shape[1]), _EXTRA_TIME)], 1)
            flags = torch.cat([flags, flags[-1:].expand(extra.shape[1])])
        mask = case[f"{full}.frame_mask"].bool()
        flow = _masked(case, student, x, times, flags, mask, None)
        yield compare(f"{full}.flow", flow, case[f"{full}.flow"], student.dtype, "network")
        x0 = to_x0(x.to(student.dtype), flow, schedule.sigma_at(times)[..., None, None, None])
        yield compare(f"{full}.x0", x0, case[f"{full}.x0"], student.dtype, "network")


def _hidden(
    case: GoldenCase, student: Student, context_flags: list[int], target_flags: list[int]
) -> Iterator[Check]:
    """Compare every block's output, computed in the masked form."""
    context, target = len(context_flags), len(target_flags)
    name, time = next(
        (f"chunk{chunk}.t{round(time)}", time) for chunk, time, _ in _calls(case) if chunk == 0
    )
    x = torch.cat([case["ctx.x"], case["chunk0.x"]], 1)
    times = torch.tensor([[0.0] * context + [time] * target])
    mask = torch.ones(context + target, context + target, dtype=torch.bool)
    mask[:context, context:] = False
    hidden: list[Tensor] = []
    _masked(case, student, x, times, torch.tensor(context_flags + target_flags), mask, hidden)
    boundary = context * case.model.tokens_per_frame
    for layer, states in enumerate(hidden):
        for full, got in (
            (f"ctx.hidden{layer}", states[:, :boundary]),
            (f"{name}.hidden{layer}", states[:, boundary:]),
        ):
            yield compare(full, got, case[full], student.dtype, "network")


def _masked(
    case: GoldenCase,
    student: Student,
    x: Tensor,
    times: Tensor,
    flags: Tensor,
    mask: Tensor,
    hidden: list[Tensor] | None,
) -> Tensor:
    captions = case["prompt_embeds"][None]
    return student.forward_train(
        x, times, captions, flags[None], range(x.shape[1]), flags, mask, hidden
    )
