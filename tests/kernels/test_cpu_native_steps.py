"""The native core's norm, rotation and cache write, beside the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.cpu import native_steps as native
from shotstream_rt.kernels.reference import qk_norm, qkv_append
from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotation
from shotstream_rt.kernels.sets.cpu_set import cpu_kernels
from shotstream_rt.kernels.torch_ops import pass_ops

Draw = Callable[..., Tensor]
Append = Callable[..., Tensor]
ROWS_OF_SLOT, SLOTS = 6, 7


def appended(
    append: Append, dtype: torch.dtype, slots: list[int], heads: int, head_dim: int,
    rotate_key: bool, *, head_major: bool = True,
) -> list[Tensor]:  # fmt: skip
    """Return queries, keys and values of one call, on inputs that only the arguments decide."""
    same = torch.Generator().manual_seed(0)
    qkv = torch.randn(len(slots) * ROWS_OF_SLOT, 3 * heads * head_dim, generator=same).to(dtype)
    weights = (1 + 0.1 * torch.randn(2, heads * head_dim, generator=same)).to(dtype)
    table = rotation(rope_angles(slots, [0.1] * len(slots), (2, 3), head_dim))
    rows = SLOTS * ROWS_OF_SLOT
    if head_major:
        arena = torch.full((2, heads, rows, head_dim), torch.nan, dtype=dtype).transpose(1, 2)
    else:
        arena = torch.full((2, rows, heads, head_dim), torch.nan, dtype=dtype)
    keys, values = arena.unbind(0)
    queries = append(
        qkv, *weights, table, keys, values, slots, ROWS_OF_SLOT, 1e-6, rotate_key
    )  # fmt: skip
    return [queries, keys, values]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads,head_dim", [(1, 16), (3, 32), (2, 128)])
@pytest.mark.parametrize("slots", [[4], [5, 0, 1]], ids=["one", "wrapped"])
@pytest.mark.parametrize("rotate_key", [True, False], ids=["on-write", "on-read"])
@pytest.mark.parametrize("head_major", [True, False])
def test_is_the_reference_rounded_once(
    dtype: torch.dtype, heads: int, head_dim: int, slots: list[int], rotate_key: bool,
    head_major: bool,
) -> None:  # fmt: skip
    asked = (slots, heads, head_dim, rotate_key)
    got = appended(native.qkv_append, dtype, *asked, head_major=head_major)

    def exact(qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, keys: Tensor,
              values: Tensor, *rest: object) -> Tensor:  # fmt: skip
        wide_keys, wide_values = keys.double(), values.double()
        queries = qkv_append.qkv_append(
            qkv.double(), weight_q.double(), weight_k.double(), table, wide_keys, wide_values, *rest
        )
        keys.copy_(wide_keys), values.copy_(wide_values)
        return queries

    wanted = appended(exact, dtype, *asked)
    room = 2**-8 if dtype == torch.bfloat16 else 2**-20
    for mine, theirs in zip(got, wanted, strict=True):
        written = ~theirs.isnan()
        assert torch.equal(written, ~mine.isnan()), "another place was written"
        a, b = mine[written].double(), theirs[written].double()
        assert float((a - b).abs().max()) <= room * 6
    assert torch.equal(got[2].nan_to_num(), wanted[2].nan_to_num())


def test_narrow_heads_in_float32_keep_torchs_bits() -> None:
    asked = (torch.float32, [2, 3], 4, 64, True)
    mine_of = cpu_kernels(torch.float32, 64).qkv_append
    for mine, theirs in zip(
        appended(mine_of, *asked), appended(pass_ops.qkv_append, *asked), strict=True
    ):
        assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())


@pytest.mark.parametrize("head_dim", [12, 128], ids=["no whole lanes", "too large"])
def test_what_it_has_no_form_of_goes_to_torch(
    monkeypatch: pytest.MonkeyPatch, normal: Draw, head_dim: int
) -> None:
    if head_dim == 128:
        monkeypatch.setattr(native, "_MOST_NUMBERS", 100)
    monkeypatch.setattr(native, "_APPEND", dict.fromkeys(native._APPEND, None))
    monkeypatch.setattr(native, "rms_norm_bfloat16", None)
    asked = (torch.bfloat16, [2, 3], 2, head_dim, True)
    kernels = cpu_kernels(torch.bfloat16, head_dim)
    for mine, theirs in zip(
        appended(kernels.qkv_append, *asked), appended(pass_ops.qkv_append, *asked), strict=True
    ):
        assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())
    x = normal(1, 9, 12 if head_dim == 12 else 256).to(torch.bfloat16)
    assert kernels.rms_norm(x, x[0, 0], 1e-6).shape == x.shape


def test_fewer_tokens_than_the_slots_want_are_refused(normal: Draw) -> None:
    arena = torch.zeros(2, 12, 2, 16)
    with pytest.raises(RuntimeError):
        native.qkv_append(
            normal(7, 96), torch.ones(32), torch.ones(32), rotation(torch.zeros(7, 8)), *arena,
            [0, 1], 6, 1e-6, True,
        )  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 7, 48), (2, 5, 256), (3, 16)])
def test_the_norm_is_the_reference_rounded_once(normal: Draw, shape: tuple[int, ...]) -> None:
    x = normal(*shape).to(torch.bfloat16) * 5
    weight = normal(shape[-1]).to(torch.bfloat16)
    wanted = qk_norm.rms_norm(x.double(), weight.double(), 1e-6)
    got = native.rms_norm(x, weight, 1e-6)
    assert got.dtype == torch.bfloat16 and got.shape == x.shape
    assert bool(((got.double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-12).all())
    part = torch.cat((x, x), -1)[..., : shape[-1]]  # rows of a wider tensor
    assert torch.allclose(native.rms_norm(part, weight, 1e-6).double(), wanted, rtol=2**-6)


def test_the_set_takes_it_where_it_is_faster() -> None:
    for dtype, head_dim, appends, norms in (
        (torch.bfloat16, 64, True, True),
        (torch.bfloat16, 24, False, True),
        (torch.float32, 128, True, False),
        (torch.float32, 64, False, False),
        (torch.float64, 128, False, False),
    ):
        kernels = cpu_kernels(dtype, head_dim)
        assert (kernels.qkv_append is native.qkv_append) is appends
        assert (kernels.rms_norm is native.rms_norm) is norms


def test_zeros_and_what_is_no_number_stay() -> None:
    x = torch.zeros(3, 32, dtype=torch.bfloat16)
    x[1, 4] = torch.nan
    got = native.rms_norm(x, torch.ones(32, dtype=torch.bfloat16), 1e-6)
    assert bool(got[1].isnan().all()) and not got[[0, 2]].any()
