"""The policy that CONTRIBUTING.md writes out is played, on backends that know nothing of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.kernels.sets.cpu_set import cpu_kernels
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.plan.pass_plan import PLAIN, PassPlan, RotaryPosition, ranges_of
from shotstream_rt.plan.policy import RolloutPolicy, policy_of
from shotstream_rt.shot_inputs import ShotInputs

MODEL = ModelConfig(
    dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_dim=8, text_len=4, latent_height=4,
    latent_width=4,
)  # fmt: skip
CONFIG = StreamConfig(
    model=MODEL,
    cache=CacheConfig(context_frames=0, window_frames=16),
    shot=ShotConfig(chunk_frames=2, shot_frames=8, multi_caption=False),
    schedule=ScheduleConfig(denoising_steps=(1000, 500)),
)
CAPTION = CaptionSet(embeddings=torch.ones(1, 4, 8), lengths=(4,))


def written_policy() -> RolloutPolicy:
    """The class in the document, made for ``CONFIG``."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
    (section,) = re.findall(r"## Add a rollout policy\n(.*?)\n## ", text, re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(code.splitlines()) <= 45
    names: dict[str, Any] = {
        "PLAIN": PLAIN, "PassPlan": PassPlan, "RotaryPosition": RotaryPosition,
        "ranges_of": ranges_of, "ConfigError": ConfigError,
    }  # fmt: skip
    exec(code, names)
    made: RolloutPolicy = names["FirstAndLast"](CONFIG)
    return made


def bound(kernels: KernelSet) -> BoundStudent:
    torch.manual_seed(3)
    student = Student(MODEL).requires_grad_(False)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return BoundStudent.from_student(student, kernels)


def play(backend: EagerBackend | CudaGraphBackend, policy: RolloutPolicy, chunks: int) -> list[Any]:
    film = backend.new_film()
    film.poison()
    pipeline, made = Pipeline(CONFIG, film, policy), []
    pipeline.begin_shot(ShotInputs(0, torch.zeros(1, 0, 16, 4, 4), [], CAPTION, 0))
    for chunk in range(chunks):
        made.append(pipeline.run_chunk(chunk, PhiloxNoise(1)).clone())
        pipeline.commit()
    return made


def test_the_written_policy_plays_alike_on_every_backend() -> None:
    policy = written_policy()
    wanted = play(EagerBackend(bound(REFERENCE), CONFIG, policy), policy, 6)
    stand_in = CudaGraphBackend(bound(REFERENCE), CONFIG, lambda: lambda call: call, policy)
    for backend in (
        EagerBackend(bound(cpu_kernels(torch.float32, MODEL.head_dim)), CONFIG, policy),
        stand_in,
    ):
        for got, one in zip(play(backend, policy, 6), wanted, strict=True):
            assert float((got - one).norm() / one.norm()) < 1e-5
    assert backend.info.cache_bytes == 6 * MODEL.tokens_per_frame * MODEL.dim * 4 * 2 * 2


def test_it_reads_what_it_says() -> None:
    """Alike the policy that reads everything until there is something that it does not read."""
    policy = written_policy()
    whole = policy_of(CONFIG)
    student = bound(REFERENCE)
    own = play(EagerBackend(student, CONFIG, policy), policy, 4)
    all_read = play(EagerBackend(student, CONFIG, whole), whole, 4)
    alike = [float((a - b).norm() / b.norm()) < 1e-5 for a, b in zip(own, all_read, strict=True)]
    assert alike == [True, True, True, False]
