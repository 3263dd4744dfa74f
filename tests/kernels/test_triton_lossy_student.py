"""A student with fp8 products or pruned history: each form of it, and its distance to exact."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.kernels.gpu.fp8_support import (
    fp8_unavailable_reason,
    row_scales_unavailable_reason,
)
from shotstream_rt.kernels.sets.fp8_attention_set import (
    with_fp8_attention,
    with_fp8_keys,
    with_fp8_out,
)
from shotstream_rt.kernels.sets.fp8_set import with_fp8
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, TORCH_OPS, KernelSet, triton_kernels
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

MODEL = ModelConfig(
    dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32, text_len=8,
    latent_height=4, latent_width=4,
)  # fmt: skip
STREAM = StreamConfig(
    model=MODEL,
    cache=CacheConfig(context_frames=2),
    shot=ShotConfig(chunk_frames=3, shot_frames=12),
    schedule=ScheduleConfig(denoising_steps=(1000, 500)),
)
SHORT = dataclasses.replace(
    STREAM,
    shot=ShotConfig(chunk_frames=1, shot_frames=2),
    schedule=ScheduleConfig(denoising_steps=(1000,)),
)
"""For the interpreter, which takes its time."""

Part = Callable[[KernelSet], KernelSet]

HISTORY = HistoryPolicy(recent_frames=3, pruned_heads=((0,), (0, 1)))


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(5)
    made = Student(MODEL)
    for block in made.layers:
        torch.nn.init.normal_(block.modulation, std=0.5)
    torch.nn.init.normal_(made.head.modulation, std=0.5)
    return made.eval().requires_grad_(False)


def shoot(student: Student, kernels: KernelSet, config: StreamConfig = STREAM) -> Tensor:
    """One shot's latents ``[1, 12, 16, 4, 4]``."""
    device = student.patch_embedding.weight.device
    film = EagerBackend(BoundStudent.from_student(student, kernels), config).new_film()
    film.poison()  # slots that were never written show if they are read
    pipeline = Pipeline(config, film)
    rows = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(2))
    captions = CaptionSet(embeddings=rows, lengths=(8, 8))
    context = PhiloxNoise(9).draw(0, 0, 0, (1, 2, *pipeline.latent_shape[2:]))
    pipeline.begin_shot(ShotInputs(1, context, [0, 0], captions, 1))
    chunks = []
    for chunk in range(config.shot.chunks):
        chunks.append(pipeline.run_chunk(chunk, PhiloxNoise(1)).cpu().clone())
        pipeline.commit()
    assert device == student.patch_embedding.weight.device
    return torch.cat(chunks, 1)


def distance(got: Tensor, wanted: Tensor) -> float:
    assert bool(torch.isfinite(got).all())
    return float((got - wanted).norm() / wanted.norm())


def test_only_products_and_their_norms_are_replaced() -> None:
    made = with_fp8(TORCH_OPS)
    changed = {
        field.name
        for field in dataclasses.fields(made)
        if getattr(made, field.name) is not getattr(TORCH_OPS, field.name)
    }
    assert changed == {"name", "fuse_linear", "layer_norm", "gated_residual_norm"}
    assert made.name == "torch+fp8"


def test_a_shot_is_near_exact_but_not_equal(student: Student) -> None:
    exact = shoot(student, REFERENCE)
    assert 0.01 < distance(shoot(student, with_fp8(REFERENCE)), exact) < 0.15
    # The same numbers, whatever the rest of the set: only rounding differs.
    assert distance(shoot(student, with_fp8(TORCH_OPS)), shoot(student, with_fp8(REFERENCE))) < 0.05


def test_triton_s_form_makes_the_reference_s_shot(
    triton_device: torch.device, student: Student
) -> None:
    if (reason := row_scales_unavailable_reason(triton_device)) is not None:
        pytest.skip(reason)
    wanted = shoot(student, with_fp8(REFERENCE), SHORT)
    there = Student(MODEL)
    there.load_state_dict(student.state_dict())
    there = there.to(triton_device).eval().requires_grad_(False)
    got = shoot(there, with_fp8(triton_kernels()), SHORT)
    # The interpreter halves some numbers as it rounds to e4m3; a GPU only turns ties over.
    assert distance(got, wanted) < (0.3 if triton_device.type == "cpu" else 0.08)


@pytest.mark.parametrize("quantise", [with_fp8_keys, with_fp8_attention])
class TestArenaIn8Bits:
    """The same student with keys, or keys and values, in 8 bits; unused slots hold NaN."""

    def test_only_the_arena_and_its_kernels_are_replaced(self, quantise: Part) -> None:
        made = quantise(TORCH_OPS)
        changed = {
            field.name
            for field in dataclasses.fields(made)
            if getattr(made, field.name) is not getattr(TORCH_OPS, field.name)
        }
        assert changed == {"name", "arena", "qkv_append", "attention"}

    def test_a_shot_is_near_exact_but_not_equal(self, student: Student, quantise: Part) -> None:
        exact = shoot(student, REFERENCE)
        made = shoot(student, quantise(REFERENCE))
        assert 1e-4 < distance(made, exact) < 0.1
        assert distance(shoot(student, quantise(with_fp8(TORCH_OPS))), exact) < 0.2
        # The same numbers, whatever the rest of the set: only rounding differs.
        assert distance(shoot(student, quantise(TORCH_OPS)), made) < 0.05

    def test_a_ring_that_wraps(self, student: Student, quantise: Part) -> None:
        cache = CacheConfig(context_frames=2, window_frames=6, sink_frames=1)
        shot = ShotConfig(chunk_frames=1, shot_frames=12)
        config = dataclasses.replace(STREAM, cache=cache, shot=shot)
        wanted = shoot(student, REFERENCE, config)
        assert 1e-4 < distance(shoot(student, quantise(REFERENCE), config), wanted) < 0.1

    def test_triton_s_form_makes_the_reference_s_shot(
        self, triton_device: torch.device, student: Student, quantise: Part
    ) -> None:
        if (reason := fp8_unavailable_reason(triton_device)) is not None:
            pytest.skip(reason)
        wanted = shoot(student, quantise(REFERENCE), SHORT)
        there = Student(MODEL)
        there.load_state_dict(student.state_dict())
        there = there.to(triton_device).eval().requires_grad_(False)
        got = shoot(there, quantise(triton_kernels()), SHORT)
        # The interpreter halves some numbers as it rounds to e4m3; a GPU only turns ties over.
        assert distance(got, wanted) < (0.1 if triton_device.type == "cpu" else 0.03)


class TestResultIn8Bits:
    """The same with 8-bit products, and attention's result in 8 bits in front of them."""

    @staticmethod
    def fused(kernels: KernelSet) -> KernelSet:
        return with_fp8_out(with_fp8_attention(with_fp8(kernels)))

    def test_only_the_attention_and_what_it_leaves_are_replaced(self) -> None:
        before = with_fp8_attention(with_fp8(TORCH_OPS))
        made = with_fp8_out(before)
        changed = {
            field.name
            for field in dataclasses.fields(made)
            if getattr(made, field.name) is not getattr(before, field.name)
        }
        assert changed == {"name", "arena", "attention"}
        assert made.name == "torch+fp8+fp8-attention+fp8-out"
        with pytest.raises(AssertionError, match="values in 8 bits"):
            with_fp8_out(with_fp8_keys(with_fp8(TORCH_OPS)))

    def test_a_shot_is_as_near_exact_as_one_whose_result_is_quantised_by_rows(
        self, student: Student
    ) -> None:
        exact = shoot(student, REFERENCE)
        by_rows = shoot(student, with_fp8_attention(with_fp8(REFERENCE)))
        made = shoot(student, self.fused(REFERENCE))
        assert 0.01 < distance(made, exact) < 1.3 * distance(by_rows, exact)
        assert distance(made, by_rows) > 1e-3

    def test_triton_s_form_makes_the_reference_s_shot(
        self, triton_device: torch.device, student: Student
    ) -> None:
        if (reason := row_scales_unavailable_reason(triton_device)) is not None:
            pytest.skip(reason)
        wanted = shoot(student, self.fused(REFERENCE), SHORT)
        there = Student(MODEL)
        there.load_state_dict(student.state_dict())
        there = there.to(triton_device).eval().requires_grad_(False)
        got = shoot(there, self.fused(triton_kernels()), SHORT)
        # The interpreter halves some numbers as it rounds to e4m3; a GPU only turns ties over.
        assert distance(got, wanted) < (0.4 if triton_device.type == "cpu" else 0.1)


def test_an_arena_in_8_bits_is_as_small_as_it_says(student: Student) -> None:
    held = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, kernels in (
            ("exact", REFERENCE),
            ("keys", with_fp8_keys(REFERENCE)),
            ("both", with_fp8_attention(REFERENCE)),
        ):
            bound = BoundStudent.from_student(copy.deepcopy(student).to(dtype), kernels)
            backend = EagerBackend(bound, STREAM)
            film = backend.new_film()
            stored = [x for arena in film.cache.arenas for x in (arena.k, arena.v)]
            held[dtype, name] = sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
                                     for x in stored}.values())  # fmt: skip
            assert backend.info.cache_bytes == film.cache.nbytes == held[dtype, name]
    for dtype, share in ((torch.float32, 1 / 4), (torch.bfloat16, 1 / 2)):
        assert held[dtype, "keys"] == held[dtype, "exact"] * (1 + share) / 2
        tokens = STREAM.arena_frames * MODEL.tokens_per_frame
        rows = -(-tokens // 16) * 16  # whole groups of sixteen
        assert held[dtype, "both"] == held[dtype, "exact"] * share * rows / tokens


def test_a_cpu_imitates_and_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp8_unavailable_reason(torch.device("cpu")) is None
    monkeypatch.setattr("shotstream_rt.kernels.gpu.fp8_support.capability_of", lambda _: 86)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    reason = fp8_unavailable_reason(torch.device("cuda"))
    assert reason is not None
    assert "sm_86" in reason


def test_a_torch_without_row_scales_is_refused(
    triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Student(MODEL).to(triton_device).requires_grad_(False)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("per-tensor only\nsomewhere")

    row_scales_unavailable_reason.cache_clear()
    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    with pytest.raises(RuntimeError, match=r"by rows on .*: per-tensor only; on a CPU"):
        shoot(student, with_fp8(triton_kernels()), SHORT)
    row_scales_unavailable_reason.cache_clear()


class TestPrunedHistory:
    """The same student with a history policy in its configuration."""

    def test_nothing_changes_until_something_is_hidden(self, student: Student) -> None:
        exact = shoot(student, REFERENCE)
        pruned = shoot(student, REFERENCE, dataclasses.replace(STREAM, history=HISTORY))
        assert torch.equal(pruned[:, :6], exact[:, :6])
        assert 1e-4 < distance(pruned[:, 6:], exact[:, 6:]) < 0.5

    def test_no_pruned_head_is_exact(self, student: Student) -> None:
        none = HistoryPolicy(recent_frames=0, pruned_heads=((), ()))
        made = shoot(student, REFERENCE, dataclasses.replace(STREAM, history=none))
        assert torch.equal(made, shoot(student, REFERENCE))

    def test_sets_agree(self, student: Student) -> None:
        config = dataclasses.replace(STREAM, history=HISTORY)
        wanted = shoot(student, REFERENCE, config)
        assert distance(shoot(student, TORCH_OPS, config), wanted) < 1e-5

    def test_a_ring_that_wraps_is_pruned_by_age(self, student: Student) -> None:
        cache = CacheConfig(context_frames=2, window_frames=6, sink_frames=1)
        shot = ShotConfig(chunk_frames=1, shot_frames=12)
        config = dataclasses.replace(STREAM, cache=cache, shot=shot, history=HISTORY)
        whole = dataclasses.replace(config, history=None)
        wanted = shoot(student, TORCH_OPS, config)
        assert distance(shoot(student, REFERENCE, config), wanted) < 1e-5
        assert distance(shoot(student, REFERENCE, whole), wanted) > 1e-4

    def test_triton_s_form_agrees(self, triton_device: torch.device, student: Student) -> None:
        nearest = HistoryPolicy(recent_frames=0, pruned_heads=((0,), (0, 1)))
        config = dataclasses.replace(SHORT, history=nearest)
        there = Student(MODEL)
        there.load_state_dict(student.state_dict())
        there = there.to(triton_device).eval().requires_grad_(False)
        wanted = shoot(student, REFERENCE, config)
        assert distance(shoot(there, triton_kernels(), config), wanted) < 1e-5
        assert distance(wanted, shoot(student, REFERENCE, SHORT)) > 1e-4
