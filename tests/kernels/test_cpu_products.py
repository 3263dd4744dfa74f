"""What the products of the CPU choose by its instructions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.cpu import products
from shotstream_rt.kernels.reference.dual_attention import dual_attention

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


@pytest.mark.parametrize("matrix_unit", [False, True])
@pytest.mark.parametrize("folded", [False, True], ids=["arena", "caption"])
@pytest.mark.parametrize("width", [32, 128])
def test_attention_is_right_with_and_without_a_matrix_unit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, normal: Draw, assert_close: Check,
    matrix_unit: bool, folded: bool, width: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(products, "has_matrix_unit", lambda: matrix_unit)
    q, k, v = (normal(1, rows, 3, width, dtype=dtype) for rows in (20, 77, 77))
    bias = torch.cat((torch.zeros(76), torch.tensor([4.0]))) if folded else None
    got = products.dual_attention(q, k, v, width**-0.5, bias)
    wide = (x.float() for x in (q, k, v))
    assert_close("dual_attention", got, dual_attention(*wide, width**-0.5, bias))


def test_narrow_heads_in_float32_have_one_form(
    monkeypatch: pytest.MonkeyPatch, normal: Draw
) -> None:
    q, k, v = (normal(1, rows, 3, 64, dtype=torch.float32) for rows in (20, 77, 77))
    forms = []
    for matrix_unit in (False, True):
        monkeypatch.setattr(products, "has_matrix_unit", lambda has=matrix_unit: has)
        forms.append(products.dual_attention(q, k, v, 0.125))
    assert torch.equal(*forms)


def test_bfloat16_is_not_fast_where_onednn_has_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "can_pack", lambda _: False)
    assert not products.has_matrix_unit.__wrapped__()
