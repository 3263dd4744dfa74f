"""The cached chunk loop against the masked full pass, and the kernel sets against each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.passes import EagerFilm
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.kernels.sets.cpu_set import cpu_kernels
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, TORCH_OPS, KernelSet
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.plan.policy import PassPlan, policy_of
from shotstream_rt.shot_inputs import ShotInputs

MODEL = ModelConfig(
    dim=48, ffn_dim=80, num_heads=2, num_layers=2, text_dim=20, text_len=12, latent_height=4,
    latent_width=6,
)  # fmt: skip
CPU_SET = cpu_kernels(torch.float32, MODEL.head_dim)
KERNEL_SETS = pytest.mark.parametrize(
    "kernels", [REFERENCE, TORCH_OPS, CPU_SET], ids=lambda k: k.name
)


def make_student(model: ModelConfig = MODEL) -> Student:
    torch.manual_seed(3)
    student = Student(model)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return student.requires_grad_(False)


def new_film(config: StreamConfig, kernels: KernelSet) -> EagerFilm:
    student = BoundStudent.from_student(make_student(config.model), kernels)
    return EagerBackend(student, config).new_film()


def captions(count: int, seed: int = 0) -> CaptionSet:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, MODEL.text_len, MODEL.text_dim, generator=generator)
    lengths = tuple(3 + index for index in range(count))
    for row, length in zip(embeddings, lengths, strict=True):
        row[length:] = 0
    return CaptionSet(embeddings=embeddings, lengths=lengths)


def shoot(
    config: StreamConfig,
    kernels: KernelSet,
    *,
    seed: int = 1,
    flags: tuple[int, ...] | None = None,
    caption_seed: int = 0,
    chunks: int | None = None,
) -> Tensor:
    """Latents of one shot whose context holds two earlier shots."""
    state = new_film(config, kernels)
    state.poison()
    pipeline = Pipeline(config, state)
    frames = config.cache.context_frames
    context = PhiloxNoise(9).draw(0, 0, 0, (1, frames, *pipeline.latent_shape[2:]))
    flags = flags or tuple(int(2 * i >= frames) for i in range(frames))
    rows = len(set(flags)) + 1 if config.shot.multi_caption else 1
    pipeline.begin_shot(ShotInputs(2, context, flags, captions(rows, caption_seed), 2))
    noise = PhiloxNoise(seed)
    parts = []
    for chunk in range(chunks or config.shot.chunks):
        parts.append(pipeline.run_chunk(chunk, noise).clone())
        pipeline.commit()
    return torch.cat(parts, 1)


def small(**cache: object) -> StreamConfig:
    return StreamConfig(
        model=MODEL,
        cache=CacheConfig(**{"context_frames": 4, **cache}),  # type: ignore[arg-type]
        shot=ShotConfig(chunk_frames=2, shot_frames=8),
    )


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("cache_indicator", [False, True])
@KERNEL_SETS
def test_cached_passes_equal_the_masked_pass(kernels: KernelSet, cache_indicator: bool) -> None:
    model = dataclasses.replace(MODEL, cache_indicator=cache_indicator)
    config = dataclasses.replace(small(), model=model)
    student, state, policy = make_student(model), new_film(config, kernels), policy_of(config)
    state.poison()
    torch.manual_seed(0)
    context, target = torch.randn(1, 4, 16, 4, 6), torch.randn(1, 8, 16, 4, 6)
    flags, texts = [0, 0, 1, 1], captions(3)
    state.begin_shot(texts)
    state.encode_context(policy.context(flags), flags, context)
    cached = []
    for chunk, part in enumerate(torch.split(target, 2, dim=1)):
        state.begin_chunk(policy.chunk(2, chunk, 2), 2, part[None])
        cached.append(state.chunk_flow(321.5, part))
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:4, :4] = True
    for frame in range(8):
        mask[4 + frame, : 4 + 2 * (frame // 2 + 1)] = True
    rows = torch.tensor([flags + [2] * 8])
    full = student.forward_train(
        torch.cat([context, target], 1),
        torch.tensor([[0.0] * 4 + [321.5] * 8]),
        texts.embeddings[None],
        rows,
        range(12),
        rows[0],
        mask,
        context=4,
    )
    assert error(torch.cat(cached, 1), full[:, 4:]) < 1e-5


@pytest.mark.parametrize(
    "cache",
    [
        {},
        {"sink_frames": 2, "window_frames": 6},
        {"window_frames": 5},
        {"key_rotation": "on_read"},
        {"key_rotation": "on_read", "window_frames": 4},
        {"key_rotation": "on_read", "window_frames": 6, "sink_frames": 1},
    ],
    ids=str,
)
def test_kernel_sets_agree(cache: dict[str, object]) -> None:
    config = small(**cache)
    oracle = shoot(config, REFERENCE)
    assert error(shoot(config, CPU_SET), oracle) < 1e-5
    assert error(shoot(config, TORCH_OPS), oracle) < 1e-5


def test_rotate_on_read_changes_nothing_without_a_window() -> None:
    model, shot = MODEL, ShotConfig(chunk_frames=2, shot_frames=8)
    written, read = (
        StreamConfig(
            model=model, shot=shot, cache=CacheConfig(context_frames=6, key_rotation=rotation)
        )
        for rotation in ("on_write", "on_read")
    )
    assert error(shoot(read, REFERENCE), shoot(written, REFERENCE)) < 1e-5


@KERNEL_SETS
def test_a_chunk_does_not_depend_on_later_noise_or_chunks(kernels: KernelSet) -> None:
    config = small()
    whole, part = shoot(config, kernels), shoot(config, kernels, chunks=2)
    assert torch.equal(whole[:, :4], part)


def test_seed_flags_and_captions_matter() -> None:
    config = small()
    base = shoot(config, REFERENCE)
    assert error(shoot(config, REFERENCE, seed=2), base) > 0.1
    assert error(shoot(config, REFERENCE, flags=(0, 1, 1, 1)), base) > 1e-4
    assert error(shoot(config, REFERENCE, caption_seed=5), base) > 1e-4


def test_a_shot_may_run_on_beyond_its_trained_length() -> None:
    longer = shoot(small(), CPU_SET, chunks=7)
    assert longer.shape[1] == 14
    assert longer.isfinite().all()


@pytest.mark.parametrize("lengths", [(1, 12, 5), (12, 12, 12)], ids=str)
def test_folded_padding_is_exact(lengths: tuple[int, ...]) -> None:
    config = small()
    texts = captions(3)
    for row, length in zip(texts.embeddings, lengths, strict=True):
        row[length:] = 0
    folded = CaptionSet(embeddings=texts.embeddings, lengths=lengths)
    unfolded = CaptionSet(embeddings=texts.embeddings, lengths=(12, 12, 12))
    flows = []
    for texts in (folded, unfolded):
        state = new_film(config, REFERENCE)
        state.begin_shot(texts)
        torch.manual_seed(0)
        flags = [0, 0, 1, 1]
        plan = policy_of(config).context(flags)
        flows.append(state.context_flow(plan, flags, torch.randn(1, 4, 16, 4, 6)))
    assert error(flows[0], flows[1]) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_info_counts_bytes(dtype: torch.dtype) -> None:
    config = small()
    student = BoundStudent.from_student(make_student().to(dtype), REFERENCE)
    info = EagerBackend(student, config).info
    tokens = config.arena_frames * MODEL.tokens_per_frame
    assert info.cache_bytes == 2 * MODEL.num_layers * tokens * MODEL.dim * dtype.itemsize
    assert info.dtype == str(dtype).removeprefix("torch.")


def test_wrong_context_and_captions_are_refused() -> None:
    config = small()
    pipeline = Pipeline(config, new_film(config, REFERENCE))
    good = torch.zeros(1, 4, 16, 4, 6)
    with pytest.raises(ConfigError, match="context"):
        pipeline.begin_shot(ShotInputs(0, good[:, :3], [0] * 3, captions(1), 1))
    with pytest.raises(ConfigError, match="captions"):
        pipeline.begin_shot(ShotInputs(1, good, [0, 0, 1, 1], captions(2), 2))
    pipeline.begin_shot(ShotInputs(1, good, [0, 0, 1, 1], captions(3), 2))
    with pytest.raises(ConfigError, match="got 1, wanted 3"):
        pipeline.change_captions(captions(1))


def test_context_noise_changes_later_chunks_only() -> None:
    plain = shoot(small(), REFERENCE)
    config = StreamConfig(
        model=MODEL,
        cache=CacheConfig(context_frames=4),
        shot=ShotConfig(chunk_frames=2, shot_frames=8),
        schedule=ScheduleConfig(context_noise=100),
    )
    noisy = shoot(config, REFERENCE)
    assert torch.equal(noisy[:, :2], plain[:, :2])
    assert not torch.equal(noisy[:, 2:], plain[:, 2:])


def test_carried_renoise_links_a_chunk_to_the_frame_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(small(), schedule=ScheduleConfig(carry_renoise=True))
    state = new_film(config, REFERENCE)
    pipeline, noise, used = Pipeline(config, state), PhiloxNoise(3), []
    begin_chunk = state.begin_chunk

    def note(plan: PassPlan, caption: int, noise: Tensor) -> None:
        used.append(noise.clone())
        begin_chunk(plan, caption, noise)

    monkeypatch.setattr(state, "begin_chunk", note)
    pipeline.begin_shot(
        ShotInputs(0, torch.zeros(1, 4, *pipeline.latent_shape[2:]), [0] * 4, captions(1), 1)
    )
    for chunk in range(3):
        pipeline.run_chunk(chunk, noise)
        pipeline.commit()
        for step, entry in enumerate(used[-1]):
            addressed = noise.draw(0, chunk, step, pipeline.latent_shape)
            assert torch.equal(entry[:, 1:], addressed[:, 1:])
            if step == 0 or chunk == 0:
                assert torch.equal(entry, addressed)
            else:
                assert torch.equal(entry[:, :1], used[chunk - 1][step][:, -1:])
                assert not torch.equal(entry[:, :1], addressed[:, :1])


def test_carried_renoise_takes_two_frames_a_chunk() -> None:
    with pytest.raises(ConfigError, match="carry_renoise"):
        StreamConfig(shot=ShotConfig(chunk_frames=1), schedule=ScheduleConfig(carry_renoise=True))
