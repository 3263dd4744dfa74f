"""Kernel sets by name: what is refused, what is replaced, and that none is swapped in silence."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from shotstream_rt.backends import kernel_registry
from shotstream_rt.backends.kernel_registry import PARTS, SETS, Target
from shotstream_rt.errors import BackendUnavailableError, ConfigError
from shotstream_rt.kernels import kernel_set
from shotstream_rt.kernels.library_attention import cudnn_attention, library_unavailable_reason

HOST = Target(device=torch.device("cpu"), dtype=torch.float32, head_dim=64)
GPU = Target(device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=128)


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_a_named_set_is_the_set(name: str) -> None:
    assert kernel_registry.resolve(name, HOST).name == name


def test_auto_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="shotstream_rt.backends"):
        taken = kernel_registry.resolve("auto", HOST)
    assert f"auto resolved to {taken.name}" in caplog.text


@pytest.mark.parametrize("name", ["warp", "torch+warp", "+cudnn", "torch cudnn"])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"triton, cpu, torch.*\+cudnn, \+flash, \+fa3"):
        kernel_registry.resolve(name, HOST)


@pytest.mark.parametrize("part", ["cudnn", "flash", "fa3", "gluon"])
def test_a_part_that_cannot_run_is_an_error(part: str) -> None:
    with pytest.raises(BackendUnavailableError, match=f"{part} attention needs an NVIDIA GPU"):
        kernel_registry.resolve(f"torch+{part}", HOST)


def test_a_part_replaces_what_it_names_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = tuple(dataclasses.replace(entry, unavailable_reason=lambda _: None) for entry in PARTS)
    monkeypatch.setattr(kernel_registry, "PARTS", usable)
    made, base = kernel_registry.resolve("torch+cudnn", GPU), kernel_set.TORCH_OPS
    assert made.name == "torch+cudnn"
    assert made.attention is cudnn_attention
    assert dataclasses.replace(made, name=base.name, attention=base.attention) == base


@pytest.mark.parametrize(
    "name,dtype,head_dim,capability,message",
    [
        ("cudnn", torch.float32, 128, (9, 0), "float32"),
        ("flash", torch.bfloat16, 20, (9, 0), "multiple of 8"),
        ("flash", torch.bfloat16, 64, (7, 5), "sm_75"),
        ("fa3", torch.bfloat16, 128, (9, 0), "not installed"),
    ],
)
def test_libraries_say_what_they_need(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, head_dim: int,
    capability: tuple[int, int], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    device = torch.device("cuda")
    assert message in str(library_unavailable_reason(name, device, dtype, head_dim))
    if name == "cudnn":
        assert library_unavailable_reason(name, device, torch.bfloat16, 128) is None


@pytest.mark.parametrize(
    "dtype,head_dim,capability,message",
    [
        (torch.bfloat16, 128, (9, 0), None),
        (torch.bfloat16, 128, (10, 0), "sm_90, not sm_100"),
        (torch.float32, 128, (9, 0), "float32"),
        (torch.bfloat16, 64, (9, 0), "heads of 128, not 64"),
    ],
)
def test_gluon_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, head_dim: int,
    capability: tuple[int, int], message: str | None,
) -> None:  # fmt: skip
    pytest.importorskip("triton.experimental.gluon", reason="triton with Gluon is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    (gluon,) = (entry for entry in PARTS if entry.name == "gluon")
    target = Target(device=torch.device("cuda"), dtype=dtype, head_dim=head_dim)
    reason = gluon.unavailable_reason(target)
    assert reason is None if message is None else message in str(reason)
    if message is None:
        from shotstream_rt.kernels.dual_attention_hopper import dual_attention

        made = kernel_registry.resolve("torch+gluon", target)
        assert made.attention is dual_attention
        assert made.cross_attention is kernel_set.TORCH_OPS.cross_attention


def test_libraries_refuse_a_bias() -> None:
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(ValueError, match="bias"):
        cudnn_attention(q, q, q, 1.0, torch.zeros(2))


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_parts_attend_like_the_reference(part: kernel_registry.KernelEntry) -> None:
    reason = part.unavailable_reason(GPU)
    if reason is not None:
        pytest.skip(reason)
    kernels = kernel_registry.resolve(f"triton+{part.name}", GPU)
    torch.manual_seed(0)
    # An arena's prefix with NaN behind it, token-major.
    arena = torch.randn(2, 700, 3, 128, device="cuda", dtype=GPU.dtype)
    arena[:, 500:] = torch.nan
    k, v = arena[:, :500].unsqueeze(1)
    q = torch.randn(1, 130, 3, 128, device="cuda", dtype=GPU.dtype)
    wanted = kernel_set.REFERENCE.attention(q.double(), k.double(), v.double(), 0.1, None)
    got = kernels.attention(q, k, v, 0.1, None)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-2


def test_every_set_is_named_once() -> None:
    names = [entry.name for entry in (*SETS, *PARTS)]
    assert len(set(names)) == len(names)
    assert not any("+" in name for name in names)
