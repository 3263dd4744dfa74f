"""Kernel sets by name: what is refused, what is replaced, and that none is swapped in silence."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import re
from collections.abc import Callable

import pytest
import torch

from shotstream_rt.backends import kernel_registry, proven_attention
from shotstream_rt.backends.kernel_registry import LOSSY_PARTS, PARTS, SETS, Target
from shotstream_rt.backends.proven_attention import ChipProof, ProvenSet
from shotstream_rt.errors import BackendUnavailableError, ConfigError
from shotstream_rt.kernels.sets import kernel_set
from shotstream_rt.kernels.sets.arena_layout import ScaledPart
from shotstream_rt.kernels.sets.fp8_attention_set import with_fp8_attention, with_fp8_keys
from shotstream_rt.kernels.sets.kernel_set import KernelSet
from shotstream_rt.kernels.sets.library_attention import cudnn_attention, library_unavailable_reason

HOST = Target(device=torch.device("cpu"), dtype=torch.float32, head_dim=64)
GPU = Target(device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=128)


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_a_named_set_is_the_set(name: str) -> None:
    assert kernel_registry.resolve(name, HOST).name == name


def test_auto_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="shotstream_rt.backends"):
        taken = kernel_registry.resolve("auto", HOST)
    assert f"auto resolved to {taken.name}" in caplog.text


@pytest.fixture
def on_h200(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine on which everything can run and whose GPU says that it is an H200."""
    for name in ("SETS", "PARTS"):
        entries = getattr(kernel_registry, name)
        usable = tuple(dataclasses.replace(e, unavailable_reason=lambda _: None) for e in entries)
        monkeypatch.setattr(kernel_registry, name, usable)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    return monkeypatch


def proof_of(*ranking: tuple[str, float], gpu: str = "NVIDIA H200") -> ChipProof:
    rows = (ProvenSet(kernel_set=name, denoise_fps=fps, rel_l2=0.01) for name, fps in ranking)
    return ChipProof(
        gpu=gpu, dtype="bfloat16", workload="film-480p", commit=None, ranking=tuple(rows)
    )


def prove(patch: pytest.MonkeyPatch, *proofs: ChipProof) -> None:
    patch.setattr(proven_attention, "read_proofs", lambda: proofs)


GLUON_FASTER = proof_of(("triton+gluon", 28.0), ("triton+cudnn", 26.0), ("triton", 21.0))
CUDNN_FASTER = proof_of(("triton+cudnn", 29.0), ("triton+gluon", 28.0), ("triton", 21.0))
OWN_FASTEST = proof_of(("triton", 30.0), ("triton+cudnn", 29.0))


@pytest.mark.parametrize(
    "proof,taken",
    [
        (GLUON_FASTER, "triton+gluon"),
        (CUDNN_FASTER, "triton+cudnn"),
        (OWN_FASTEST, "triton"),
    ],
)
def test_auto_takes_the_attention_proven_on_the_chip(
    on_h200: pytest.MonkeyPatch, proof: ChipProof, taken: str
) -> None:
    prove(on_h200, proof_of(("triton+flash", 99.0), ("triton", 1.0), gpu="NVIDIA H100"), proof)
    choice = kernel_registry.choose_auto(GPU)
    assert choice.name == taken
    for row in proof.ranking:
        assert f"{row.kernel_set} {row.denoise_fps:.1f}" in choice.reason


@pytest.mark.parametrize(
    "proofs,target",
    [
        ((), GPU),
        ((proof_of(("triton+gluon", 28.0), ("triton", 21.0), gpu="NVIDIA H100"),), GPU),
        ((GLUON_FASTER,), dataclasses.replace(GPU, dtype=torch.float32)),
        ((GLUON_FASTER,), dataclasses.replace(GPU, head_dim=64)),
    ],
    ids=["no record", "another chip", "another type", "other heads"],
)
def test_auto_stays_with_its_own_attention_and_says_so_without_a_proof(
    on_h200: pytest.MonkeyPatch, proofs: tuple[ChipProof, ...], target: Target
) -> None:
    prove(on_h200, *proofs)
    choice = kernel_registry.choose_auto(target)
    assert choice.name == "triton"
    assert "no attention is proven on NVIDIA H200" in choice.reason


def test_auto_passes_over_what_is_faster_and_cannot_run_here(on_h200: pytest.MonkeyPatch) -> None:
    prove(on_h200, GLUON_FASTER)
    lacking = tuple(
        dataclasses.replace(part, unavailable_reason=lambda _: "there is no Gluon here")
        if part.name == "gluon"
        else part
        for part in kernel_registry.PARTS
    )
    on_h200.setattr(kernel_registry, "PARTS", lacking)
    choice = kernel_registry.choose_auto(GPU)
    assert choice.name == "triton+cudnn"
    assert "there is no Gluon here" in choice.reason


def test_the_set_that_auto_builds_has_the_proven_name(
    on_h200: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    prove(on_h200, CUDNN_FASTER)
    with caplog.at_level(logging.INFO, logger="shotstream_rt.backends"):
        made = kernel_registry.resolve("auto", GPU)
    assert made.name == "triton+cudnn"
    assert made.attention is cudnn_attention
    assert "auto resolved to triton+cudnn" in caplog.text
    assert "triton+gluon 28.0" in caplog.text


@pytest.mark.parametrize("name", ["warp", "torch+warp", "+cudnn", "torch cudnn"])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"triton, cpu, torch.*\+cudnn, \+flash, \+fa3"):
        kernel_registry.resolve(name, HOST)


@pytest.mark.parametrize("part", ["cudnn", "flash", "fa3", "gluon"])
def test_a_part_that_cannot_run_is_an_error(part: str) -> None:
    with pytest.raises(BackendUnavailableError, match=f"{part} attention needs an NVIDIA GPU"):
        kernel_registry.resolve(f"torch+{part}", HOST)


def test_products_in_whole_waves_go_with_any_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    with pytest.raises(BackendUnavailableError, match="NVIDIA GPU"):
        kernel_registry.resolve("torch+waves", HOST)
    usable = tuple(dataclasses.replace(entry, unavailable_reason=lambda _: None) for entry in PARTS)
    monkeypatch.setattr(kernel_registry, "PARTS", usable)
    made, base = kernel_registry.resolve("torch+cudnn+waves", GPU), kernel_set.TORCH_OPS
    assert made.name == "torch+cudnn+waves"
    assert made.attention is cudnn_attention
    changed = {"name": base.name, "attention": base.attention, "fuse_linear": base.fuse_linear}
    assert dataclasses.replace(made, **changed) == base


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
        from shotstream_rt.kernels.gpu.dual_attention_hopper import dual_attention

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


@pytest.mark.parametrize(
    "name,parts",
    [
        ("triton+waves", ("fp8",)),
        ("triton+gluon+waves", ("fp8", "fp8-attention")),
        ("triton+cudnn", ("fp8-keys",)),
        ("triton+flash", ("fp8-attention",)),
    ],
)
def test_a_part_that_a_profile_leaves_nothing_to_do_is_refused(
    name: str, parts: tuple[str, ...]
) -> None:
    part = name.rpartition("+")[2]
    with pytest.raises(ConfigError, match=rf"got '{re.escape(name)}'.*in 8 bits.*\+{part}"):
        kernel_registry.resolve(name, GPU, parts)


def test_every_set_is_named_once() -> None:
    names = [entry.name for entry in (*SETS, *PARTS)]
    assert len(set(names)) == len(names)
    assert not any("+" in name for name in names)


@pytest.mark.parametrize("part", [entry.name for entry in LOSSY_PARTS])
def test_a_gpu_without_e4m3_is_refused(on_h200: pytest.MonkeyPatch, part: str) -> None:
    on_h200.setattr("shotstream_rt.kernels.gpu.fp8_support.capability_of", lambda _: 86)
    on_h200.setattr(torch, "empty", lambda *_, **__: None)
    # A result in 8 bits is one of an attention in 8 bits.
    parts = ("fp8-attention", part) if part == "fp8-out" else (part,)
    with pytest.raises(BackendUnavailableError, match="sm_86 has no e4m3 numbers"):
        kernel_registry.resolve("triton", GPU, parts)
    on_h200.setattr("shotstream_rt.kernels.gpu.fp8_support.capability_of", lambda _: 89)
    assert kernel_registry.resolve("triton", GPU, parts).name == "+".join(("triton", *parts))


@pytest.mark.parametrize(
    "name,form",
    [("triton", "dual_attention_fp8"), ("triton+gluon", "dual_attention_fp8_hopper")],
)
@pytest.mark.parametrize(
    "part,attend",
    [(with_fp8_keys, "dual_attention_qk8"), (with_fp8_attention, "dual_attention_fp8")],
)
def test_an_arena_in_8_bits_is_attended_to_as_the_set_attends(
    monkeypatch: pytest.MonkeyPatch, name: str, form: str,
    part: Callable[[KernelSet], KernelSet], attend: str,
) -> None:  # fmt: skip
    kernels = part(dataclasses.replace(kernel_set.REFERENCE, name=name))
    called: list[str] = []
    module = importlib.import_module(f"shotstream_rt.kernels.gpu.{form}")
    monkeypatch.setattr(module, attend, lambda *_: called.append(form))
    x = ScaledPart(torch.zeros(1), torch.zeros(1))
    kernels.attention(torch.zeros(1), x, x, 1.0, None)
    assert called == [form]
