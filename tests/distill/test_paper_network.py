"""The training network: golden teacher, equal forms, and where gradients go."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_distill.common.sequence import Captions
from shotstream_distill.common.step_rng import StepRng
from shotstream_distill.paper.network import TrainNet
from shotstream_distill.paper.quirks import Quirks
from shotstream_distill.paper.rollout import RolloutPlan, roll_out
from shotstream_distill.paper.sampler import guided_flow, sample_states, teacher_flow
from shotstream_distill.paper.shot_batch import Conditioning
from shotstream_rt.config import ModelConfig, ScheduleConfig
from shotstream_rt.plan.schedule import Schedule
from shotstream_rt.verify.golden import GoldenCase

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TINY = ModelConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=10, text_len=12,
    latent_height=4, latent_width=6,
)  # fmt: skip
FRONT, CHUNK, FRAMES = 6, 3, 9


def tiny_net(
    seed: int = 0, dtype: torch.dtype = torch.float64, *, cache_indicator: bool = False
) -> TrainNet:
    torch.manual_seed(seed)
    net = TrainNet(dataclasses.replace(TINY, cache_indicator=cache_indicator)).to(dtype)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def tiny_conditioning(batch: int = 2, dtype: torch.dtype = torch.float64) -> Conditioning:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([[3, 5, 4], [1, 12, 0]])[:batch]
    embeddings = torch.randn(batch, 3, 12, 10, generator=generator, dtype=dtype)
    for row in range(batch):
        for shot in range(3):
            embeddings[row, shot, lengths[row, shot] :] = 0
    return Conditioning(
        context=torch.randn(batch, FRONT, 16, 4, 6, generator=generator, dtype=dtype),
        captions=Captions(embeddings=embeddings, lengths=lengths, text_len=12),
        caption_index=torch.tensor([[0, 0, 0, 1, 1, 1, 2], [1, 1, 0, 0, 2, 2, 0]])[:batch],
        flags=torch.tensor([[0, 0, 0, 1, 1, 1, 2], [1, 1, 2, 2, 3, 3, 4]])[:batch],
    )


def rel(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def golden() -> tuple[GoldenCase, TrainNet]:
    case = GoldenCase.read(GOLDEN / "g_teacher.safetensors")
    reference = case.student(torch.float32)
    net = TrainNet(reference.config)
    net.load_state_dict(reference.state_dict())
    return case, net


def golden_conditioning(case: GoldenCase, rows: str, embeddings: Tensor) -> Conditioning:
    flags = case["flags"].long().view(1, -1)
    front = case["condition_latents"].shape[1]
    lengths = (embeddings.abs().sum(-1) > 0).sum(-1)
    captions = Captions(
        embeddings=embeddings[None], lengths=lengths[None], text_len=embeddings.shape[1]
    )
    flags = flags[:, : front + 1]
    index = flags if rows == "multi" else torch.zeros_like(flags)
    return Conditioning(
        context=case["condition_latents"], captions=captions, caption_index=index, flags=flags
    )


def test_the_teacher_computes_what_the_original_computes() -> None:
    case, net = golden()
    time = torch.tensor([float(case.meta["timestep"])])
    front = case["condition_latents"].shape[1]
    told = golden_conditioning(case, "multi", case["prompt_embeds"])
    null = golden_conditioning(case, "null", case["null_embeds"])
    single = golden_conditioning(case, "single", case["prompt_embeds"][-1:])
    with torch.no_grad():
        for name, conditioning in (("multi", told), ("null", null), ("single", single)):
            flow = teacher_flow(net, conditioning, case["x"], time)
            assert rel(flow, case[f"{name}.flow"][:, front:]) < 1e-4, name
        states = sample_states(
            net, told, null, case["x"], steps=5, shift=8.0,
            guidance=float(case.meta["guidance"]),
        )  # fmt: skip
        for step, state in enumerate(states):
            assert rel(state, case[f"sample5.step{step}"]) < 1e-4, step


def test_no_guidance_is_the_unconditional_side() -> None:
    net, told = tiny_net(), tiny_conditioning()
    x, times = torch.randn(2, 3, 16, 4, 6).double(), torch.tensor([700.0, 300.0])
    plain = told.replaced(told.target_caption())
    free = guided_flow(net, told, plain, x, times, guidance=0)
    both = guided_flow(net, told, plain, x, times, guidance=1)
    assert torch.equal(free, teacher_flow(net, plain, x, times))
    assert rel(both, teacher_flow(net, told, x, times)) < 1e-5


def test_guidance_may_lead_away_from_a_shot_without_context() -> None:
    told = tiny_conditioning()
    free = dataclasses.replace(told.target_caption(), lengths=torch.zeros(2, 1, dtype=torch.long))
    kept, lost = told.unguided(free, "text"), told.unguided(free, "text_and_context")
    for plain in (kept, lost):
        assert plain.captions is free
        assert not plain.caption_index.any()
    assert torch.equal(kept.context, told.context)
    assert torch.equal(kept.flags, told.flags)
    assert not lost.context.any()
    assert lost.flags.tolist() == [[0] * FRONT + [1]] * 2


def block_mask() -> Tensor:
    group = torch.tensor([0] * FRONT + [1 + f // CHUNK for f in range(FRAMES)])
    return group[None] <= group[:, None]


def masked_flow(net: TrainNet, told: Conditioning, x: Tensor, times: Tensor) -> Tensor:
    """The runtime's own masked form: one pass, dense mask, padding unfolded."""
    frames = told.whole(x, times, (FRONT, *[CHUNK] * (FRAMES // CHUNK)))
    return net.forward_train(
        frames.latents, times, told.captions.embeddings, frames.caption_index,
        frames.positions, frames.flags, block_mask(), context=FRONT,
    )  # fmt: skip


@pytest.mark.parametrize("cache_indicator", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_groups_equal_the_mask_and_so_do_their_gradients(
    recompute: bool, cache_indicator: bool
) -> None:
    net, told = tiny_net(cache_indicator=cache_indicator), tiny_conditioning()
    net.recompute = recompute
    x = torch.randn(2, FRAMES, 16, 4, 6, dtype=torch.float64, requires_grad=True)
    times = torch.cat((torch.zeros(2, FRONT), torch.rand(2, FRAMES) * 1000), 1)
    wanted = masked_flow(net, told, x, times)
    flow, _ = net(told.whole(x, times, (FRONT, *[CHUNK] * 3)))
    assert rel(flow, wanted.float()) < 1e-6
    weight = torch.randn_like(wanted)
    (wanted * weight).sum().backward()
    theirs = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    assert x.grad is not None
    their_input = x.grad.clone()
    net.zero_grad()
    x.grad = None
    (flow.double() * weight).sum().backward()
    assert x.grad is not None
    assert rel(x.grad, their_input) < 1e-5
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert rel(parameter.grad, theirs[name]) < 1e-4, name


def cached_shot(net: TrainNet, told: Conditioning, x: Tensor, time: float) -> Tensor:
    """One pass per chunk over caches of clean passes, everything attached."""
    _, past = net(told.context_pass(), flow=False)
    flows = []
    for first in range(0, FRAMES, CHUNK):
        own = x[:, first : first + CHUNK]
        flow, kept = net(told.chunk(own, time, first, told.target_caption()), past, keep=True)
        flows.append(flow)
        past = [
            (torch.cat((k, a), 1), torch.cat((v, b), 1))
            for (k, v), (a, b) in zip(past, kept, strict=True)
        ]
    return torch.cat(flows, 1)


def test_the_cached_rollout_equals_the_masked_form_with_gradients() -> None:
    net, told = tiny_net(), tiny_conditioning()
    x = torch.randn(2, FRAMES, 16, 4, 6, dtype=torch.float64)
    times = torch.cat((torch.zeros(2, FRONT), torch.full((2, FRAMES), 640.0)), 1)
    wanted = masked_flow(net, told, x, times)[:, FRONT:]
    flow = cached_shot(net, told, x, 640.0)
    assert rel(flow, wanted.float()) < 1e-6
    weight = torch.randn_like(wanted)
    (wanted * weight).sum().backward()
    theirs = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    (flow.double() * weight).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert rel(parameter.grad, theirs[name]) < 1e-4, name


def plan(quirks: Quirks) -> RolloutPlan:
    schedule = Schedule.from_config(ScheduleConfig(shift=3.0))
    return RolloutPlan(schedule=schedule, frames=FRAMES, chunk_frames=CHUNK, quirks=quirks)


def gradient_of_last_chunk(net: TrainNet, quirks: Quirks) -> tuple[Tensor, dict[str, Tensor]]:
    net.zero_grad()
    told = tiny_conditioning(dtype=torch.float32)
    shot = roll_out(net, told, plan(quirks), StepRng(0, "r", 0), exit_step=1, gradients=True)
    shot[:, -CHUNK:].square().sum().backward()
    return shot, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def test_detached_caches_stop_gradients_and_attached_ones_let_them_through() -> None:
    net = tiny_net(dtype=torch.float32)
    clean, stopped = gradient_of_last_chunk(net, Quirks())
    same, through = gradient_of_last_chunk(net, Quirks(attached_caches=True))
    assert torch.equal(clean, same)
    name = "blocks.0.self_attn.k.weight"
    assert rel(through[name], stopped[name]) > 1e-3

    # The stopped gradient is that of one pass over a past that is data.
    net.zero_grad()
    told, rng = tiny_conditioning(dtype=torch.float32), StepRng(0, "r", 0)
    shot = roll_out(net, told, plan(Quirks()), rng, exit_step=1).detach()
    rng = StepRng(0, "r", 0)
    noise = [rng.normal(2, CHUNK, 16, 4, 6) for _ in range(2 * FRAMES // CHUNK)]
    schedule, captions = plan(Quirks()).schedule, told.target_caption()
    with torch.no_grad():
        _, past = net(told.context_pass(), flow=False)
        for first in (0, CHUNK):
            _, own = net(told.chunk(shot[:, first : first + CHUNK], 0.0, first, captions), past,
                         flow=False)  # fmt: skip
            past = [(torch.cat((k, a), 1), torch.cat((v, b), 1))
                    for (k, v), (a, b) in zip(past, own, strict=True)]  # fmt: skip
        flow, _ = net(told.chunk(noise[4], schedule.timesteps[0], 6, captions), past)
        x = noise[4] - schedule.sigmas[0] * flow
        x = (1 - schedule.sigmas[1]) * x + schedule.sigmas[1] * noise[5]
    flow, _ = net(told.chunk(x, schedule.timesteps[1], 6, captions), past)
    answer = x - schedule.sigmas[1] * flow
    assert rel(answer, clean[:, 6:].detach()) < 1e-6
    answer.square().sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None and name in stopped:
            assert rel(stopped[name], parameter.grad) < 1e-4, name


def test_refresh_noise_is_a_switch() -> None:
    net, told = tiny_net(dtype=torch.float32), tiny_conditioning(dtype=torch.float32)
    clean = roll_out(net, told, plan(Quirks()), StepRng(0, "r", 0))
    again = roll_out(net, told, plan(Quirks()), StepRng(0, "r", 0))
    noisy = roll_out(net, told, plan(Quirks(refresh_noise=True)), StepRng(0, "r", 0))
    assert torch.equal(clean, again)
    assert not torch.equal(clean[:, CHUNK:], noisy[:, CHUNK:])
