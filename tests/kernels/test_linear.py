from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from shotstream_rt.kernels.sets.kernel_set import KernelSet

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


def layers(normal: Draw, width: int, outputs: list[int], dtype: torch.dtype) -> list[nn.Linear]:
    made = [nn.Linear(width, size) for size in outputs]
    for layer in made:
        layer.weight.data = normal(*layer.weight.shape) / width**0.5
        layer.bias.data = normal(*layer.bias.shape)
    return [layer.to(dtype).requires_grad_(False) for layer in made]


def naive_linear(x: Tensor, fused: list[nn.Linear]) -> Tensor:
    x = x.double()
    return torch.cat([x @ f.weight.double().T + f.bias.double() for f in fused], -1)


def naive_gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    "tokens,width,outputs", [(1, 8, [8]), (7, 33, [5, 9, 1]), (130, 64, [64, 64, 64])],
    ids=["one", "odd", "qkv"],
)  # fmt: skip
def test_layers_are_concatenated(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check,
    tokens: int, width: int, outputs: list[int],
) -> None:  # fmt: skip
    fused = layers(normal, width, outputs, dtype)
    x = normal(1, tokens, width, dtype=dtype)
    assert_close("linear", kernels.fuse_linear(fused, False)(x), naive_linear(x, fused))


def test_gelu_follows_the_product(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    fused = layers(normal, 33, [65], dtype)
    x = normal(1, 9, 33, dtype=dtype)
    got = kernels.fuse_linear(fused, True)(x)
    assert_close("linear", got, naive_gelu(naive_linear(x, fused)))


def test_rows_of_any_number_share_the_packed_weight(
    kernels: KernelSet, normal: Draw, assert_close: Check
) -> None:
    fused = layers(normal, 32, [48], torch.float32)
    apply = kernels.fuse_linear(fused, False)
    for tokens in (1, 3, 511, 600):
        x = normal(1, tokens, 32)
        assert_close("linear", apply(x), naive_linear(x, fused))


@pytest.mark.gpu
def test_the_epilogue_is_the_same_gelu(
    dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    from shotstream_rt.kernels.gpu.linear import fuse_linear

    fused = layers(normal, 64, [48, 80], dtype)
    x = normal(2, 37, 64, dtype=dtype)
    wanted = naive_gelu(naive_linear(x, fused))
    moved = [layer.cuda() for layer in fused]
    assert_close("linear", fuse_linear(moved, True)(x.cuda()), wanted)
