"""Every form of the fp8 linear layers against a sum written out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from shotstream_rt.kernels.reference.fp8_rows import Fp8Rows, quantise_rows

if TYPE_CHECKING:
    from .conftest import Twin

Draw = Callable[..., Tensor]


def make_layers(inputs: int, outputs: list[int], dtype: torch.dtype) -> list[nn.Linear]:
    torch.manual_seed(3)
    layers = [nn.Linear(inputs, size) for size in outputs]
    for layer in layers:
        nn.init.normal_(layer.bias)
    return [layer.to(dtype).requires_grad_(False) for layer in layers]


def rounded(weight: Tensor) -> Tensor:
    """Each output channel on its own e4m3 grid, so a large one does not coarsen the others."""
    step = weight.double().abs().amax(1, keepdim=True) / 448
    return (weight.double() / step).float().to(torch.float8_e4m3fn).double() * step


def apply_there(
    twin: Twin, layers: list[nn.Linear], x: Tensor | Fp8Rows, *, gelu: bool = False
) -> Tensor | Fp8Rows:
    apply = twin.load("fp8_linear").fuse_linear([x.to(twin.device) for x in layers], gelu)
    if isinstance(x, Fp8Rows):
        return apply(Fp8Rows(*(part.to(twin.device) for part in x)))
    return apply(x.to(twin.device))


@pytest.mark.parametrize("outputs", [[32], [16, 48, 16]], ids=["one", "three"])
def test_is_the_sum_of_dequantised_products(
    twin: Twin, dtype: torch.dtype, normal: Draw, outputs: list[int]
) -> None:
    layers = make_layers(64, outputs, dtype)
    rows = quantise_rows(normal(2, 19, 64, dtype=dtype))
    weight = rounded(torch.cat([layer.weight for layer in layers]))
    wanted = rows.dequantise().double() @ weight.T + torch.cat([x.bias for x in layers]).double()
    got = apply_there(twin, layers, rows).cpu()
    assert got.shape == (2, 19, sum(outputs))
    assert got.dtype == dtype
    # A GPU's tensor cores keep fewer bits of partial sums.
    exact = 1e-3 if twin.device.type == "cuda" else 2e-6
    limit = exact if dtype == torch.float32 else 4e-3
    assert float((got.double() - wanted).norm() / wanted.norm()) < limit


def test_plain_tensors_are_quantised_first(twin: Twin, normal: Draw) -> None:
    layers, x = make_layers(256, [64], torch.float32), normal(1, 50, 256)
    got, wanted = apply_there(twin, layers, x).cpu(), layers[0](x)
    # Two factors with a relative error of about 2.6 % each; truncation doubles one of them.
    assert 0.01 < float((got - wanted).norm() / wanted.norm()) < 0.08


def test_gelu_gives_rows(twin: Twin, dtype: torch.dtype, normal: Draw) -> None:
    layers = make_layers(64, [96], dtype)
    rows = quantise_rows(normal(1, 19, 64, dtype=dtype))
    got = apply_there(twin, layers, rows, gelu=True)
    assert isinstance(got, Fp8Rows)
    y = rows.dequantise().double() @ rounded(layers[0].weight).T + layers[0].bias.double()
    wanted = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
    dequantised = got.values.cpu().double() * got.scale.cpu().double()
    assert float((dequantised - wanted).norm() / wanted.norm()) < 0.09


def test_later_changes_of_the_layer_do_not_show(twin: Twin, normal: Draw) -> None:
    layers, rows = make_layers(32, [16], torch.float32), quantise_rows(normal(3, 32))
    layers = [layer.to(twin.device) for layer in layers]
    rows = Fp8Rows(*(part.to(twin.device) for part in rows))
    apply = twin.load("fp8_linear").fuse_linear(layers)
    before = apply(rows)
    layers[0].weight.zero_()
    assert torch.equal(apply(rows), before)


@pytest.mark.parametrize("inputs,outputs", [(24, 16), (32, 20)])
def test_widths_that_the_library_cannot_take_are_named(
    triton_device: torch.device, inputs: int, outputs: int
) -> None:
    from shotstream_rt.kernels.gpu.fp8_linear import fuse_linear

    layers = make_layers(inputs, [outputs], torch.float32)
    with pytest.raises(ValueError, match=f"{inputs} inputs and {outputs} outputs"):
        fuse_linear([layer.to(triton_device) for layer in layers])
