"""The attention written for sm_90, by launch: what overlap, split and 8 bits are worth."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, gluon_unavailable_reason

LAUNCHES = {
    "bf16": {},
    "bf16-whole": {},
    "bf16-ping-pong": {"ping_pong": True},
    "bf16-three-stages": {"stages": 3},
    "qk8": {"qk8": True},
    "qk8-ping-pong": {"qk8": True, "ping_pong": True},
    "fp8": {"qk8": True, "pv8": True},
    "fp8-whole": {"qk8": True, "pv8": True},
    "fp8-ping-pong": {"qk8": True, "pv8": True, "ping_pong": True},
    "fp8-three-stages": {"qk8": True, "pv8": True, "stages": 3},
}
"""Fields of a ``HopperLaunch``; ``whole`` cuts no keys."""

TOLERANCE = {"bf16": 1e-2, "qk8": 1e-2, "fp8": 4e-2}


@pytest.mark.parametrize(
    "launch,frames",
    [*((name, 27) for name in LAUNCHES), ("bf16", 9), ("qk8", 9), ("fp8", 9)],
    ids=lambda part: f"{part}-frames" if isinstance(part, int) else str(part),
)
def bench_hopper_attention(case: KernelCase, launch: str, frames: int) -> None:
    """Attend with one launch.

    Args:
        case: see ``KernelCase``.
        launch: key of ``LAUNCHES``.
        frames: latent frames whose keys are read.
    """
    shapes = case.shapes
    reason = gluon_unavailable_reason(case.device, case.dtype, shapes.head_dim)
    if reason is None and frames > shapes.cached_frames:
        reason = f"the workload's cache holds {shapes.cached_frames} frames"
    if reason is not None:
        pytest.skip(reason)
    from shotstream_rt.kernels.gpu.hopper_launch import TILE, HopperLaunch, launch_attention
    from shotstream_rt.kernels.gpu.key_split import KeySplit

    precision = launch.partition("-")[0]
    keys, scale = frames * shapes.frame_tokens, shapes.head_dim**-0.5
    tiles = -(-shapes.tokens // TILE) * shapes.heads
    split = KeySplit(tiles=tiles, whole=tiles, splits=1) if launch.endswith("whole") else None
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    k, v = case.arena().prefix(keys)
    k_scales, v_scales = formats.head_scales(k), formats.head_scales(v)
    given, values, wide_k, wide_v = k, v, k.float(), v.float()
    if precision != "bf16":
        given = formats.quantise(k, k_scales)
        wide_k = given.float() * k_scales[:, None]
    if precision == "fp8":
        values = formats.quantise(v, v_scales)
        wide_v = values.float() * v_scales[:, None]
        given, values = formats.arena_of(given[0], values[0])
    wide_q = q.float() if precision == "bf16" else formats.rounded_queries(q)
    chosen = HopperLaunch(**LAUNCHES[launch])
    case.measure(
        lambda: launch_attention(chosen, q, given, values, keys, scale, k_scales, v_scales, split),
        torch.cat(
            [
                REFERENCE.attention(*(x[:, :, [h]] for x in (wide_q, wide_k, wide_v)), scale, None)
                for h in range(shapes.heads)
            ],
            2,
        ),
        bytes_moved=2 * q.nbytes + given.nbytes + values.nbytes,
        flops=4 * q.numel() * keys,
        tolerance=TOLERANCE[precision],
    )
