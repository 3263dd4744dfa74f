"""What the products of the CPU choose by its instructions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt import _native
from shotstream_rt.kernels.cpu import instructions, native_steps, products
from shotstream_rt.kernels.reference.dual_attention import dual_attention
from shotstream_rt.kernels.torch_ops import pass_ops

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Attend in the form that is chosen by what the CPU, as a test has it, multiplies fast."""
    return products.attention_for.__wrapped__(q.dtype, q.shape[-1])(q, k, v, scale, bias)


@pytest.mark.parametrize("matrix_unit", [False, True])
@pytest.mark.parametrize("folded", [False, True], ids=["arena", "caption"])
@pytest.mark.parametrize("width", [32, 128])
def test_attention_is_right_with_and_without_a_matrix_unit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, normal: Draw, assert_close: Check,
    matrix_unit: bool, folded: bool, width: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(products, "has_matrix_unit", lambda: matrix_unit)
    monkeypatch.setattr(products, "has_fast_vectors", lambda: False)
    q, k, v = (normal(1, rows, 3, width, dtype=dtype) for rows in (20, 77, 77))
    bias = torch.cat((torch.zeros(76), torch.tensor([4.0]))) if folded else None
    got = attend(q, k, v, width**-0.5, bias)
    wide = (x.float() for x in (q, k, v))
    assert_close("dual_attention", got, dual_attention(*wide, width**-0.5, bias))


def test_narrow_heads_in_float32_have_one_form(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    q, k, v = (normal(1, rows, 3, 64, dtype=torch.float32) for rows in (20, 77, 77))
    forms = []
    for matrix_unit in (False, True):
        monkeypatch.setattr(products, "has_matrix_unit", lambda has=matrix_unit: has)
        forms.append(attend(q, k, v, 0.125))
    assert torch.equal(*forms)


def test_bfloat16_is_not_fast_where_onednn_has_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "can_pack", lambda _: False)
    assert not instructions.has_matrix_unit.__wrapped__()
    assert not instructions.has_fast_vectors.__wrapped__()


@pytest.mark.parametrize(
    ("limit", "vectors", "matrix_unit"),
    [
        ("", True, True), ("all", True, True), ("AVX512_CORE_AMX", True, True),
        ("AVX512_CORE_BF16", True, False), ("avx512_core_vnni", False, False),
        ("AVX512_CORE", False, False),
    ],
)  # fmt: skip
def test_bfloat16_is_not_fast_where_onednn_is_kept_from_it(
    monkeypatch: pytest.MonkeyPatch, limit: str, vectors: bool, matrix_unit: bool
) -> None:
    monkeypatch.setattr(instructions, "can_pack", lambda _: True)
    monkeypatch.setattr(instructions, "has_fast_bfloat16_products", lambda: True)
    monkeypatch.setattr(instructions, "_has", lambda _: True)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2" if limit else "")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert instructions.has_fast_vectors.__wrapped__() is vectors
    assert instructions.has_matrix_unit.__wrapped__() is matrix_unit


@pytest.mark.skipif(not _native.has_bfloat16_products(), reason="needs AVX-512's bfloat16")
@pytest.mark.parametrize("folded", [False, True], ids=["arena", "caption"])
@pytest.mark.parametrize(("queries", "keys", "width"), [(20, 77, 64), (7, 16, 32), (1, 1, 128)])
def test_native_attention_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, normal: Draw, assert_close: Check, queries: int, keys: int,
    width: int, folded: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(products, "has_matrix_unit", lambda: False)
    monkeypatch.setattr(products, "has_fast_vectors", lambda: True)
    q, k, v = (normal(1, rows, 3, width, dtype=torch.bfloat16) for rows in (queries, keys, keys))
    # As an arena has them: head by head.
    k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    bias = torch.cat((torch.zeros(keys - 1), torch.tensor([4.0]))) if folded else None
    wanted = dual_attention(q.float(), k.float(), v.float(), width**-0.5, bias)
    monkeypatch.setattr(pass_ops, "dual_attention", None)
    got = attend(q, k, v, width**-0.5, bias)
    assert torch.equal(got, native_steps.dual_attention(q, k, v, width**-0.5, bias))
    assert_close("dual_attention", got, wanted)


@pytest.mark.skipif(not _native.has_bfloat16_products(), reason="needs AVX-512's bfloat16")
def test_a_host_s_default_device_does_not_matter(normal: Draw) -> None:
    q = normal(1, 6, 2, 64, dtype=torch.bfloat16)
    wanted = native_steps.dual_attention(q, q, q, 0.125)
    with torch.device("meta"):  # a tensor that is made there has no memory to be written to
        assert torch.equal(native_steps.dual_attention(q, q, q, 0.125), wanted)
        assert instructions.can_pack.__wrapped__(torch.float32)


def test_native_attention_leaves_to_torch_what_it_does_not_take(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    monkeypatch.setattr(products, "has_matrix_unit", lambda: False)
    monkeypatch.setattr(products, "has_fast_vectors", lambda: True)
    taken: list[str] = []
    monkeypatch.setattr(native_steps, "attend_bfloat16", lambda *_: taken.append("core"))
    torchs = pass_ops.dual_attention
    monkeypatch.setattr(
        pass_ops, "dual_attention", lambda *given: (taken.append("torch"), torchs(*given))[1]
    )

    def fits(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
        taken.clear()
        native_steps.dual_attention(q, k, v, 0.125, bias)
        return taken == ["core"]

    q = normal(1, 6, 2, 64, dtype=torch.bfloat16)
    square = normal(1, 64, 64, 64, dtype=torch.bfloat16)
    assert fits(q, q, q, None)
    assert fits(q, q, q, torch.zeros(6))
    assert not fits(q, q, q, torch.zeros(2, 6, 6))
    assert not fits(q, q, q, torch.zeros(6, dtype=torch.float64))
    assert not fits(*(x.float() for x in (q, q, q)), None)
    assert not fits(square, *(x.transpose(2, 3) for x in (square, square)), None)
    assert not fits(*(x.expand(2, -1, -1, -1) for x in (q, q, q)), None)
    form = products.attention_for.__wrapped__
    assert form(torch.bfloat16, 64) is native_steps.dual_attention
    assert form(torch.bfloat16, 48) is not native_steps.dual_attention
    assert form(torch.float32, 64) is not native_steps.dual_attention


def test_halves_have_the_bits_of_the_whole_where_that_is_promised(
    dtype: torch.dtype, normal: Draw
) -> None:
    if not instructions.divides_exactly(dtype):
        pytest.skip(f"{dtype} is not promised on this CPU")
    x = normal(1, 180, 256, dtype=dtype)
    for outputs, gelu in ((768, False), (1024, True), (64, False)):
        drawn = torch.nn.Linear(256, outputs).to(dtype).requires_grad_(False)
        drawn.weight.copy_(normal(outputs, 256, dtype=dtype) / 16)
        drawn.bias.copy_(normal(outputs, dtype=dtype))
        layer = products.fuse_linear([drawn], gelu)
        assert isinstance(layer, products.PackedLinear)
        parts = [layer(half) for half in x.tensor_split(2, 1)]
        assert torch.equal(torch.cat(parts, 1), layer(x))
    q, k, v = (normal(1, rows, 4, 64, dtype=dtype) for rows in (180, 540, 540))
    parts = [attend(half, k, v, 0.125) for half in q.tensor_split(2, 1)]
    assert torch.equal(torch.cat(parts, 1), attend(q, k, v, 0.125))
