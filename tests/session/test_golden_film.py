"""A film of the original, remade through the session: prompts in, its 8-bit frames out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream_rt import Session
from shotstream_rt.config import StreamConfig
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.wan_vae.codec import WanCodec
from shotstream_rt.plan.noise import RecordedNoise
from shotstream_rt.verify.golden import GoldenCase, VerifyOptions

GOLDEN = Path(__file__).parent.parent / "golden"


class RecordedText:
    """Caption number k is row k of the golden embeddings."""

    def __init__(self, rows: Tensor, lengths: Sequence[int]) -> None:
        self._rows, self._lengths = rows, lengths
        self.text_len, self.text_dim = rows.shape[1:]

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        index = [int(prompt) for prompt in prompts]
        return self._rows[index], [self._lengths[row] for row in index]

    def check(self, prompt: str) -> list[str]:
        return []


@pytest.fixture(scope="module")
def case() -> GoldenCase:
    return GoldenCase.read(GOLDEN / "d_rollout.safetensors")


def open_golden(case: GoldenCase) -> Session:
    config = StreamConfig(model=case.model)
    shots = range(case.meta["shots"])
    noise = RecordedNoise(
        [case[f"shot{shot}.noise_init"] for shot in shots],
        [case[f"shot{shot}.noise_steps"] for shot in shots],
        config.schedule.num_steps,
    )
    bundle = Model(
        name="golden",
        config=config,
        backend=case.backend(config, VerifyOptions()),
        codec=WanCodec.from_state(case.weights("vae")),
        text=RecordedText(case["prompt_embeds"], case.meta["prompt_lengths"]),
        device=torch.device("cpu"),
    )
    return Session(bundle, threads=1, noise=lambda _: noise)


def test_session_remakes_the_originals_frames(case: GoldenCase) -> None:
    with open_golden(case) as session:
        for shot in range(case.meta["shots"]):
            session.cut(str(shot))
        frames = np.stack([frame.pixels for frame in session.stream()])
    golden = torch.cat([case[f"shot{shot}.frames_u8"] for shot in range(case.meta["shots"])])
    difference = np.abs(frames.astype(int) - golden.permute(0, 2, 3, 1).numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
