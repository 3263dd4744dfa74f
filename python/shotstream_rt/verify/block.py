"""Case B: one transformer block in its three modes, with and without shot flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..kernels.reference.rope_shot import SHOT_PHASE_RAD, rope_angles, rotation
from ..kernels.sets.kernel_set import REFERENCE
from ..model.blocks import Block, BoundBlock, modulate
from .check import Check, compare
from .golden import GoldenCase, VerifyOptions


def check(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare outputs and cache entries of every mode."""
    dtype = asked.dtype
    block = _block(case, dtype)
    runner = _Runner(case, block.bind(REFERENCE), dtype)
    text = case["text_context"].to(dtype)
    k, v = runner.bound.caption_kv(text)
    yield compare("cross_k", k, case["cross_k"], dtype, "network")
    yield compare("cross_v", v, case["cross_v"], dtype, "network")
    for tag in ("flags", "noflags"):
        for name, got in runner.run(k, v, tag == "flags"):
            full = f"{name[0]}.{tag}.{name[1]}"
            yield compare(full, got, case[full], dtype, "network")


def _block(case: GoldenCase, dtype: torch.dtype) -> Block:
    found = re.search(r"prefix (blocks\.\d+\.)", case.meta["what"])
    prefix = found.group(1) if found else "blocks.0."
    state = {k.removeprefix(prefix): v for k, v in case.weights().items() if k.startswith(prefix)}
    block = Block(case.model)
    block.load_state_dict(state)
    return block.to(dtype).eval().requires_grad_(False)


class _Runner:
    """Runs a block on the case's inputs."""

    def __init__(self, case: GoldenCase, bound: BoundBlock, dtype: torch.dtype) -> None:
        self.case, self.bound, self.kernels, self.dtype = case, bound, REFERENCE, dtype
        self.model = case.model
        self.scale = self.model.head_dim**-0.5

    def run(self, k: Tensor, v: Tensor, flags: bool) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """Yield ((mode, tensor), value) of the context, target and training passes.

        Args:
            k: caption keys, ``[captions, tokens, N, D]``.
            v: like ``k``.
            flags: whether shot flags add their phase.
        """
        case, meta, dtype = self.case, self.case.meta, self.dtype
        context_flags = [int(f) for f in meta["ctx_flags"]]
        target_flags = [int(f) for f in meta["tgt_flags"]]
        context, target = len(context_flags), len(target_flags)
        kept: dict[str, tuple[Tensor, Tensor]] = {}

        def store(name: str, keys: Tensor, values: Tensor) -> None:
            """Keep a pass's keys and values.

            Args:
                name: of the pass.
                keys: ``[1, T, N, D]``.
                values: like ``keys``.
            """
            kept[name] = keys, values

        def over_context(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            """Attend among the context frames.

            Args:
                q: rotated queries, ``[1, T, N, D]``.
                keys: the pass's own, ``[1, T, N, D]``.
                values: like ``keys``.
            """
            store("ctx", keys, values)
            return self.kernels.attention(q, keys, values, self.scale, None)

        y = self._block("ctx", range(context), context_flags, flags, over_context, k, v)
        yield ("ctx", "y"), y
        yield ("ctx", "k"), kept["ctx"][0]
        yield ("ctx", "v"), kept["ctx"][1]

        local = [case[f"tgt.local_{part}_before"].to(dtype) for part in ("k", "v")]
        start = local[0].shape[1] // self.model.tokens_per_frame

        def over_all(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            """Attend to context, local cache and the pass's own keys.

            Args:
                q: rotated queries, ``[1, T, N, D]``.
                keys: the pass's own, ``[1, T, N, D]``.
                values: like ``keys``.
            """
            store("tgt", keys, values)
            keys = torch.cat([kept["ctx"][0], local[0], keys], 1)
            values = torch.cat([kept["ctx"][1], local[1], values], 1)
            return self.kernels.attention(q, keys, values, self.scale, None)

        positions = range(context + start, context + start + target)
        yield ("tgt", "y"), self._block("tgt", positions, target_flags, flags, over_all, k, v)
        yield ("tgt", "new_k"), kept["tgt"][0]
        yield ("tgt", "new_v"), kept["tgt"][1]

        tokens = self.model.tokens_per_frame
        hidden = torch.zeros((context + target) * tokens, (context + target) * tokens)
        hidden[: context * tokens, context * tokens :] = -torch.inf

        def masked(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            """Attend with the training mask: context frames see the context alone.

            Args:
                q: rotated queries, ``[1, T, N, D]``.
                keys: the pass's own, ``[1, T, N, D]``.
                values: like ``keys``.
            """
            return self.kernels.attention(q, keys, values, self.scale, hidden)

        both = range(context + target)
        yield (
            ("train", "y"),
            self._block("train", both, context_flags + target_flags, flags, masked, k, v),
        )

    def _block(
        self,
        name: str,
        positions: range,
        frame_flags: list[int],
        flags: bool,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        k: Tensor,
        v: Tensor,
    ) -> Tensor:
        """One pass over ``NAME.x`` (training: context and target inputs in a row)."""
        parts = ("ctx", "tgt") if name == "train" else (name,)
        x = torch.cat([self.case[f"{part}.x"] for part in parts], 1).to(self.dtype)
        e = torch.cat([self.case[f"{part}.e"] for part in parts], 1).to(self.dtype)
        phases = [flag * SHOT_PHASE_RAD if flags else 0.0 for flag in frame_flags]
        table = rotation(rope_angles(positions, phases, self.model.grid, self.model.head_dim))
        rows = frame_flags if flags else [0] * len(frame_flags)

        bound, m = self.bound, modulate(e, self.bound.modulation)
        q, keys, values = bound.split(bound.project(x, m), table)
        x, q = bound.leave_self(x, attend(q, keys, values).flatten(2), m)
        per_frame = q.unflatten(1, (len(rows), -1))[0]
        attended = self.kernels.attention(per_frame, k[rows], v[rows], self.scale, None)
        return bound.leave_cross(x, attended.flatten(0, 1)[None].flatten(2), m)
