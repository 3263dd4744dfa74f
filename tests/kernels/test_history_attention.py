"""Every form of attention by spans against a masked softmax written out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference.history_attention import attend_by_spans

if TYPE_CHECKING:
    from shotstream_rt.kernels.sets.kernel_set import KernelSet

    from .conftest import Twin

Draw = Callable[..., Tensor]
SCALE = 0.3
SPANS = {
    "one": [[(0, 90)]] * 3,
    "different": [[(0, 90)], [(0, 20), (55, 90)], [(70, 90)]],
    "many": [[(3, 4), (10, 33), (64, 90)], [(0, 90)], [(0, 1), (89, 90)]],
    "blocks": [[(0, 64)], [(0, 32), (64, 80)], [(16, 48), (58, 90)]],
}
"""Of 90 keys: longer than a block, ends inside of blocks and on them."""


def masked_softmax(q: Tensor, k: Tensor, v: Tensor, spans: list[list[tuple[int, int]]]) -> Tensor:
    out = torch.empty(q.shape, dtype=torch.float64)
    for head, own in enumerate(spans):
        shown = [key for begin, end in own for key in range(begin, end)]
        logits = q[:, :, head].double() @ k[:, shown, head].double().transpose(1, 2) * SCALE
        out[:, :, head] = logits.softmax(-1) @ v[:, shown, head].double()
    return out


def limit(dtype: torch.dtype) -> float:
    return 2e-6 if dtype == torch.float32 else 1e-2


@pytest.mark.parametrize("width", [16, 24])
@pytest.mark.parametrize("name", list(SPANS))
def test_a_head_reads_its_spans(
    twin: Twin, dtype: torch.dtype, normal: Draw, name: str, width: int
) -> None:
    q = normal(1, 37, 3, width, dtype=dtype)
    k, v = normal(2, 1, 90, 3, width, dtype=dtype).unbind(0)
    wanted = masked_softmax(q, k, v, SPANS[name])
    there = (tensor.to(twin.device) for tensor in (q, k, v))
    got = twin.load("history_attention").history_attention(*there, SCALE, SPANS[name]).cpu()
    assert got.dtype == dtype
    assert float((got.double() - wanted).norm() / wanted.norm()) < limit(dtype)


def test_nothing_behind_the_prefix_is_read(twin: Twin, normal: Draw) -> None:
    q, k, v = normal(3, 2, 40, 2, 16).unbind(0)
    spans = [[(0, 7), (20, 31)], [(20, 40)]]
    wanted = masked_softmax(q, k, v, spans)
    arena = torch.full((2, 2, 64, 2, 16), torch.nan)
    arena[0, :, :40], arena[1, :, :40] = k, v
    # In the prefix, but for neither head.
    arena[:, :, 7:20] = 1e4
    keys, values = arena.to(twin.device)[:, :, :40].unbind(0)
    got = twin.load("history_attention").history_attention(
        q.to(twin.device), keys, values, SCALE, spans
    )
    assert float((got.cpu().double() - wanted).norm() / wanted.norm()) < limit(q.dtype)


def test_a_dense_attention_serves_groups_of_heads(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw
) -> None:
    q, k, v = normal(3, 1, 90, 3, 16, dtype=dtype).unbind(0)
    run = partial(attend_by_spans, kernels.attention)
    got = run(q[:, :37], k, v, SCALE, SPANS["different"])
    wanted = masked_softmax(q[:, :37], k, v, SPANS["different"])
    assert float((got.double() - wanted).norm() / wanted.norm()) < limit(dtype)


@pytest.mark.parametrize("name", list(SPANS))
def test_descriptors_give_the_same(
    triton_device: torch.device, dtype: torch.dtype, normal: Draw, name: str
) -> None:
    from shotstream_rt.kernels.gpu import history_attention as compiled
    from shotstream_rt.kernels.tuning import AttentionLaunch

    if triton_device.type == "cuda" and torch.cuda.get_device_capability(triton_device) < (9, 0):
        pytest.skip("no tensor descriptors in hardware below sm_90")
    q, k, v = (x.to(triton_device) for x in normal(3, 1, 90, 3, 16, dtype=dtype).unbind(0))
    launch = AttentionLaunch(block_q=64, block_k=32, num_warps=4, num_stages=2, tma=True)
    got = compiled._launch(q[:, :37], k, v, SCALE / math.log(2), SPANS[name], launch).cpu()
    wanted = masked_softmax(q[:, :37].cpu(), k.cpu(), v.cpu(), SPANS[name])
    assert float((got.double() - wanted).norm() / wanted.norm()) < limit(dtype)


@pytest.mark.parametrize(
    "spans,message",
    [
        ([[(0, 5)]], "wanted one per head, 2"),
        ([[(0, 5)], []], "spans of head 1"),
        ([[(0, 5)], [(0, 11)]], "within 10 keys"),
    ],
)
def test_spans_that_do_not_fit_are_named(
    triton_device: torch.device, spans: list[list[tuple[int, int]]], message: str
) -> None:
    from shotstream_rt.kernels.gpu.history_attention import history_attention

    x = torch.zeros(1, 10, 2, 16, device=triton_device)
    with pytest.raises(ValueError, match=message):
        history_attention(x, x, x, SCALE, spans)
