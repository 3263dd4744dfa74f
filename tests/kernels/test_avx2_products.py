"""The native core's float32 products: right everywhere, and oneDNN's bits where they replace it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from shotstream_rt import _native
from shotstream_rt.kernels.cpu import avx2_products, products
from shotstream_rt.kernels.reference.dual_attention import dual_attention
from shotstream_rt.model.nano.convolution import Convolution

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]

pytestmark = pytest.mark.skipif(not _native.has_products(), reason="needs a CPU with AVX2")

IS_PLAIN = avx2_products.has_avx2_alone()


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
    got = avx2_products.PanelWeight(weight, bias).multiply(x)
    wanted = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert_close("linear", got, wanted.float())
    if IS_PLAIN:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 512)
        assert torch.equal(got, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


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
    got = avx2_products.attend(q, k, v, 0.125, bias)
    assert got.is_contiguous()
    assert_close("dual_attention", got, dual_attention(q, k, v, 0.125, bias))
    if IS_PLAIN:
        assert torch.equal(got, products._attend_by_head(q, k, v, 0.125, bias))


def test_they_are_taken_on_one_thread_where_nothing_is_wider(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    q = normal(1, 6, 2, 32, dtype=torch.float32)
    for alone, threads, wanted in ((True, 1, True), (True, 2, False), (False, 1, False)):
        monkeypatch.setattr(avx2_products, "has_avx2_alone", lambda has=alone: has)
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        assert avx2_products.fits_heads(q, q, q) is wanted
        assert not avx2_products.fits_heads(*(x.bfloat16() for x in (q, q, q)))
        assert not avx2_products.fits_heads(*(x[..., :24] for x in (q, q, q)))
        assert not avx2_products.fits_heads(q, *(x.transpose(2, 3) for x in (q, q)))


@pytest.mark.parametrize("columns", [96, 100])
def test_a_weight_is_held_once_in_the_order_that_the_thread_wants(
    monkeypatch: pytest.MonkeyPatch, normal: Draw, columns: int
) -> None:
    x, weight, bias = layer(normal, 4, 64, columns)
    wanted = torch.nn.functional.linear(x, weight, bias)
    monkeypatch.setattr(avx2_products, "has_avx2_alone", lambda: True)
    linear = products.PackedLinear(weight, bias)
    most = 1.5 * weight.nbytes  # both orders fill up the last columns
    for threads in (1, 2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        torch.testing.assert_close(linear(x), wanted)
        assert isinstance(linear._weight, avx2_products.PanelWeight) is (threads == 1)
        assert linear.nbytes <= most
        held = linear._weight
        dense = held.unpacked() if threads == 1 else held.to_dense()  # type: ignore[union-attr]
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
    got = avx2_products.PanelKernel(weight, bias).convolve(x)
    wide = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(got, wide.float(), rtol=1e-5, atol=1e-5)
    if IS_PLAIN:
        assert torch.equal(got, torch.nn.functional.conv2d(x, weight, bias, padding=1))


def test_a_frozen_convolution_is_packed_once_for_each_weight(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    monkeypatch.setattr(avx2_products, "has_avx2_alone", lambda: True)
    layer, x = Convolution(16, 32), normal(2, 16, 5, 6, dtype=torch.float32)
    trained = layer(x)
    assert layer._kernel is None
    layer.requires_grad_(False)
    torch.testing.assert_close(layer(x), trained.detach())
    kernel = layer._kernel
    assert kernel is not None
    layer(x)
    assert layer._kernel is kernel
    layer.weight.mul_(2)
    torch.testing.assert_close(
        layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    )
    assert layer._kernel is not kernel


def test_images_that_torch_convolves_itself_stay_there(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    monkeypatch.setattr(avx2_products, "has_avx2_alone", lambda: True)
    weight = normal(16, 8, 3, 3, dtype=torch.float32)
    x = normal(2, 8, 40, 40, dtype=torch.float32)
    assert avx2_products.fits_images(x, weight)
    assert not avx2_products.fits_images(x[:1], weight)
    assert not avx2_products.fits_images(x.to(memory_format=torch.channels_last), weight)
    assert not avx2_products.fits_images(x, weight[:8])
    assert not avx2_products.fits_images(x.bfloat16(), weight.bfloat16())
    assert not avx2_products.fits_images(x.to("meta"), weight)
