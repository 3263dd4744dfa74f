"""The native core's float32 products: right everywhere, and oneDNN's bits where they replace it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from shotstream_rt import _native
from shotstream_rt.kernels.cpu import instructions, products
from shotstream_rt.kernels.cpu.products import PanelConvolution, PanelLinear
from shotstream_rt.kernels.reference.dual_attention import dual_attention

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]

pytestmark = pytest.mark.skipif(not _native.has_products(), reason="needs a CPU with AVX2")

IS_PLAIN = instructions.has_avx2_alone()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layer(normal: Draw, rows: int, inner: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((1, rows, inner), (columns, inner), (columns,))
    x, weight, bias = (normal(*shape, dtype=torch.float32) for shape in shapes)
    return x, weight, bias


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(180, 256, 768), (90, 1024, 256), (7, 300, 33), (1, 2100, 16)]
)
def test_a_linear_layer(
    normal: Draw, assert_close: Check, rows: int, inner: int, columns: int
) -> None:
    x, weight, bias = layer(normal, rows, inner, columns)
    got = PanelLinear(weight, bias)(x)
    wanted = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert_close("linear", got, wanted.float())
    if IS_PLAIN:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 512)
        assert torch.equal(got, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


def convolution(weight: Tensor, bias: Tensor) -> PanelConvolution:
    made = PanelConvolution(weight.shape[1], weight.shape[0], 3, padding=1)
    made.weight, made.bias = (torch.nn.Parameter(x, requires_grad=False) for x in (weight, bias))
    return made


@pytest.mark.parametrize(("queries", "keys"), [(180, 540), (90, 1620), (5, 29)])
@pytest.mark.parametrize("head_major", [True, False])
@pytest.mark.parametrize("folded", [False, True], ids=["arena", "caption"])
def test_attention(
    normal: Draw, assert_close: Check, queries: int, keys: int, head_major: bool, folded: bool
) -> None:
    q, k, v = (normal(1, rows, 4, 64, dtype=torch.float32) for rows in (queries, keys, keys))
    if head_major:
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    bias = torch.cat((torch.zeros(keys - 1), torch.tensor([4.0]))) if folded else None
    got = products._attend_by_panels(q, k, v, 0.125, bias)
    assert got.is_contiguous()
    assert_close("dual_attention", got, dual_attention(q, k, v, 0.125, bias))
    if IS_PLAIN:
        assert torch.equal(got, products._attend_by_head(q, k, v, 0.125, bias))


def test_they_are_taken_on_one_thread_where_nothing_is_wider(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    monkeypatch.setattr(products, "has_matrix_unit", lambda: False)
    monkeypatch.setattr(products, "has_fast_vectors", lambda: False)
    taken: list[bool] = []
    for name, is_core in (("multiply_keys", True), ("_attend_by_head", False)):
        run = getattr(products, name)
        monkeypatch.setattr(
            products,
            name,
            lambda *given, run=run, core=is_core: (taken.append(core), run(*given))[1],
        )

    def takes(*qkv: Tensor) -> bool:
        taken.clear()
        attend = products.attention_for.__wrapped__(qkv[0].dtype, qkv[0].shape[-1])
        attend(*qkv, 0.2, None)
        assert len(set(taken)) == 1
        return taken[0]

    q = normal(1, 6, 2, 32, dtype=torch.float32)
    square = normal(1, 32, 32, 32, dtype=torch.float32)
    for alone, threads, wanted in ((True, 1, True), (True, 2, False), (False, 1, False)):
        monkeypatch.setattr(products, "has_avx2_alone", lambda has=alone: has)
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        assert takes(q, q, q) is wanted
        assert not takes(*(x.bfloat16() for x in (q, q, q)))
        assert not takes(*(x[..., :24] for x in (q, q, q)))
        assert not takes(square, *(x.transpose(2, 3) for x in (square, square)))
        products_of_another_type = products.attention_for.__wrapped__(torch.float32, 32)
        taken.clear()
        products_of_another_type(*(x.bfloat16() for x in (q, q, q)), 0.2, None)
        assert taken == [False]


@pytest.mark.parametrize("columns", [96, 100])
def test_a_weight_is_held_once_in_the_order_that_the_thread_wants(
    monkeypatch: pytest.MonkeyPatch, normal: Draw, columns: int
) -> None:
    x, weight, bias = layer(normal, 4, 64, columns)
    wanted = torch.nn.functional.linear(x, weight, bias)
    linear = PanelLinear(weight, bias)
    most = 1.5 * weight.nbytes  # both orders fill up the last columns
    for threads in (1, 2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        torch.testing.assert_close(linear(x), wanted)
        assert linear._weight.is_mkldnn is (threads != 1)
        assert linear.nbytes <= most
        held = linear._weight
        if held.is_mkldnn:
            dense = held.to_dense()
        else:
            dense = held.view(-1, 64, 16).transpose(1, 2).reshape(-1, 64)[:columns]
        assert torch.equal(dense, weight)


@pytest.mark.parametrize(
    ("images", "inputs", "outputs", "height", "width"),
    [(3, 96, 96, 12, 20), (2, 192, 96, 5, 7), (1, 96, 192, 24, 40), (3, 16, 96, 3, 4)],
)
def test_a_convolution(
    normal: Draw, assert_close: Check, images: int, inputs: int, outputs: int, height: int,
    width: int,
) -> None:  # fmt: skip
    x = normal(images, inputs, height, width, dtype=torch.float32)
    weight = normal(outputs, inputs, 3, 3, dtype=torch.float32) / inputs**0.5
    bias = normal(outputs, dtype=torch.float32)
    got = convolution(weight, bias)(x)
    wide = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(got, wide.float(), rtol=1e-5, atol=1e-5)
    if IS_PLAIN:
        assert torch.equal(got, torch.nn.functional.conv2d(x, weight, bias, padding=1))


def test_a_frozen_convolution_is_packed_once_for_each_weight(normal: Draw) -> None:
    layer, x = PanelConvolution(16, 32, 3, padding=1), normal(2, 16, 5, 6, dtype=torch.float32)
    trained = layer(x)
    assert layer._packed is None
    layer.requires_grad_(False)
    assert layer(x.clone().requires_grad_()).requires_grad, "it has no gradient"
    assert layer._packed is None
    torch.testing.assert_close(layer(x), trained.detach())
    packed = layer._packed
    assert packed is not None
    layer(x)
    assert layer._packed is packed
    layer.weight.mul_(2)
    torch.testing.assert_close(
        layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    )
    assert layer._packed is not packed


def test_images_that_torch_convolves_itself_stay_there(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    weight, bias = normal(16, 8, 3, 3, dtype=torch.float32), torch.zeros(16)
    x = normal(2, 8, 40, 40, dtype=torch.float32)

    def takes(x: Tensor, threads: int = 1) -> bool:
        layer = convolution(weight.to(x), bias.to(x))
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        layer(x)
        return layer._packed is not None

    assert takes(x)
    assert not takes(x, threads=2)
    assert not takes(x[:1])
    assert not takes(x.to(memory_format=torch.channels_last))
    assert not takes(x.bfloat16())
    assert not takes(x.to("meta"))
    for alone in (True, False):
        monkeypatch.setattr(products, "has_avx2_alone", lambda has=alone: has)
        assert PanelConvolution.fits(8, 16) is alone
        assert not PanelConvolution.fits(8, 8)
        assert not PanelConvolution.fits(4, 16)
