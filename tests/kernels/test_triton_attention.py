"""Launches of the Triton attention that small shapes do not reach by the table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels import tuning
from shotstream_rt.kernels.reference.dual_attention import dual_attention as reference
from shotstream_rt.kernels.tuning import AttentionLaunch

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]
POINTERS = AttentionLaunch(block_q=32, block_k=32, num_warps=4, num_stages=2)
DESCRIPTORS = AttentionLaunch(block_q=32, block_k=32, num_warps=4, num_stages=2, tma=True)


@pytest.fixture(params=[POINTERS, DESCRIPTORS], ids=["pointers", "descriptors"])
def attention(
    request: pytest.FixtureRequest, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Tensor]:
    """The kernel with a launch of the test's choice, for tensors on the host."""
    if triton_device.type == "cuda" and request.param.tma:
        major, _ = torch.cuda.get_device_capability()
        if major < 9:
            pytest.skip(f"sm_{major}x has no tensor descriptors in hardware")
    from shotstream_rt.kernels.gpu import dual_attention as module

    monkeypatch.setattr(module, "attention_launch", lambda *_: request.param)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        given = [x.to(triton_device) for x in (q, k, v)]
        there = bias if bias is None else bias.to(triton_device)
        return module.dual_attention(*given, q.shape[-1] ** -0.5, there).cpu()

    return run


@pytest.mark.parametrize(
    "queries,keys,heads,width",
    [(1, 1, 1, 16), (33, 95, 2, 32), (64, 64, 1, 64), (31, 33, 3, 128)],
    ids=["one", "tails", "whole", "heads"],
)
def test_blocks_and_tails(
    attention: Callable[..., Tensor], dtype: torch.dtype, normal: Draw, assert_close: Check,
    queries: int, keys: int, heads: int, width: int,
) -> None:  # fmt: skip
    q, k, v = (normal(1, n, heads, width, dtype=dtype) for n in (queries, keys, keys))
    wanted = reference(q.double(), k.double(), v.double(), width**-0.5)
    assert_close("dual_attention", attention(q, k, v), wanted)


@pytest.mark.parametrize("keys", [5, 64, 70])
def test_every_key_has_its_bias(
    attention: Callable[..., Tensor], normal: Draw, assert_close: Check, keys: int
) -> None:
    q, k, v, bias = normal(1, 40, 2, 16), normal(1, keys, 2, 16), normal(1, keys, 2, 16), None
    bias = normal(keys) * 3
    bias[1:4] = -torch.inf
    wanted = reference(q.double(), k.double(), v.double(), 0.25, bias.double())
    assert_close("dual_attention", attention(q, k, v, bias), wanted)


def test_a_whole_block_of_hidden_keys_leaves_no_nan(
    attention: Callable[..., Tensor], normal: Draw, assert_close: Check
) -> None:
    q, k, v = (normal(1, n, 1, 16) for n in (3, 70, 70))
    bias = torch.zeros(70)
    bias[:40] = -torch.inf
    wanted = reference(q.double(), k[:, 40:].double(), v[:, 40:].double(), 0.25)
    assert_close("dual_attention", attention(q, k, v, bias), wanted)


@pytest.mark.parametrize("visible", [1, 33, 520], ids=str)
def test_keys_behind_the_last_visible_one_are_not_loaded(
    triton_device: torch.device, normal: Draw, assert_close: Check, visible: int
) -> None:
    from shotstream_rt.kernels.gpu.dual_attention import dual_attention

    rows, keys = 2, 530
    q, k, v = (normal(rows, n, 1, 16) for n in (5, keys, keys))
    bias = normal(rows, keys)
    bias[0, visible:] = -torch.inf
    wanted = [
        reference(q[[row]].double(), k[[row], :end].double(), v[[row], :end].double(), 0.25,
                  bias[row, :end].double())
        for row, end in enumerate((visible, keys))
    ]  # fmt: skip
    k[0, visible:] = v[0, visible:] = torch.nan
    given = [x.to(triton_device) for x in (q, k, v)]
    got = dual_attention(*given, 0.25, bias[:, None, None].to(triton_device))
    assert_close("dual_attention", got, torch.cat(wanted))


@pytest.mark.parametrize("biased", [False, True])
def test_batch_entries_are_apart(
    attention: Callable[..., Tensor], normal: Draw, assert_close: Check, biased: bool
) -> None:
    q, k, v = (normal(3, n, 2, 16) for n in (5, 40, 40))
    bias = normal(3, 1, 1, 40) if biased else None
    wide = None if bias is None else bias.double()
    wanted = reference(q.double(), k.double(), v.double(), 0.25, wide)
    assert_close("dual_attention", attention(q, k, v, bias), wanted)


def test_large_logits_do_not_overflow(
    attention: Callable[..., Tensor], normal: Draw, assert_close: Check
) -> None:
    q, k, v = normal(1, 4, 1, 16) * 100, normal(1, 70, 1, 16) * 100, normal(1, 70, 1, 16)
    got = attention(q, k, v)
    wanted = reference(q.double(), k.double(), v.double(), 0.25)
    assert bool(torch.isfinite(got).all())
    assert float((got - wanted).norm() / wanted.norm()) < 5e-3


@pytest.mark.parametrize(
    "scale,bias,match",
    [(0.0, None, "scale"), (-1.0, None, "scale"), (1.0, torch.zeros(1, 1, 3, 3), "bias")],
)
def test_what_the_kernel_cannot_do_is_refused(
    triton_device: torch.device, scale: float, bias: Tensor | None, match: str
) -> None:
    from shotstream_rt.kernels.gpu.dual_attention import dual_attention

    x = torch.zeros(1, 3, 1, 16, device=triton_device)
    with pytest.raises(ValueError, match=match):
        dual_attention(x, x, x, scale, bias)


def test_unknown_chips_take_the_row_below() -> None:
    for capability, nearest in ((75, 80), (87, 86), (103, 100), (121, 120)):
        for head_dim in (16, 64, 128):
            row = tuning.attention_launch(capability, head_dim, 40000)
            assert row == tuning.attention_launch(nearest, head_dim, 40000)


def test_captions_take_the_short_launch_and_the_arena_the_long() -> None:
    for capability in tuning.ARCHITECTURES:
        short = tuning.attention_launch(capability, 128, 512)
        long = tuning.attention_launch(capability, 128, 42120)
        assert short != long
        assert short.block_q * short.block_k < long.block_q * long.block_k


def test_float32_takes_tiles_that_fit_anywhere() -> None:
    for capability in tuning.ARCHITECTURES:
        launch = tuning.attention_launch(capability, 128, 42120, 4)
        assert 4 * 128 * (launch.block_q + 2 * launch.num_stages * launch.block_k) < 99 * 1024


def test_what_was_sent_to_a_device_is_not_sent_again() -> None:
    device = torch.device("cpu")
    with torch.inference_mode():
        first = tuning.on_device([3, 1], torch.int32, device)
    assert tuning.on_device([3, 1], torch.int32, device) is first
    assert not first.is_inference()
    assert first.tolist() == [3, 1]
    assert tuning.on_device(first, torch.int32, device) is first
    assert float(tuning.on_device(0.25, torch.float64, device)) == 0.25
