"""What passes need of a caption is computed once, ahead if possible, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.cross_attention import CaptionProducts
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

LENGTHS = (8, 6, 3, 5)


def captions(*numbers: int, keys: bool = True) -> CaptionSet:
    """Some of four captions, by number."""
    rows = PhiloxNoise(4).draw(0, 0, 0, (len(LENGTHS), 8, 32))
    for row, length in zip(rows, LENGTHS, strict=True):
        row[length:] = 0
    return CaptionSet(
        embeddings=rows[list(numbers)],
        lengths=tuple(LENGTHS[number] for number in numbers),
        keys=tuple(f"caption {number}" for number in numbers) if keys else None,
    )


class Counted:
    """Gives each caption's first number, and counts them."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, text: Tensor, length: int) -> float:
        self.lengths.append(length)
        return float(text[0, 0])


def test_a_caption_is_computed_once_and_kept_while_it_is_used() -> None:
    compute = Counted()
    products = CaptionProducts(compute, kept=2)
    first = products.of(captions(0, 1))
    assert products.of(captions(1, 0)) == first[::-1]
    assert compute.lengths == [8, 6]
    products.of(captions(0, 2))  # 1 was used the longest ago
    assert compute.lengths == [8, 6, 3]
    products.of(captions(0, 2))
    assert compute.lengths == [8, 6, 3]
    products.of(captions(1))
    assert compute.lengths == [8, 6, 3, 6]


def test_more_captions_than_are_kept_are_all_given() -> None:
    compute = Counted()
    products = CaptionProducts(compute, kept=1)
    wanted = [float(text[0, 0]) for text in captions(0, 1, 2, 0).embeddings]
    assert products.of(captions(0, 1, 2, 0)) == wanted
    assert compute.lengths == [8, 6, 3]


def test_captions_without_keys_and_forgotten_ones_are_computed_again() -> None:
    compute = Counted()
    products = CaptionProducts(compute, kept=4)
    for _ in range(2):
        products.of(captions(0, 1, keys=False))
    assert compute.lengths == [8, 6] * 2
    products.of(captions(2))
    products.clear()
    products.of(captions(2))
    assert compute.lengths == [8, 6] * 2 + [3, 3]


def test_every_caption_has_a_key_or_none_has() -> None:
    with pytest.raises(ConfigError, match="keys: got 1, wanted 2"):
        CaptionSet(embeddings=torch.zeros(2, 8, 32), lengths=(1, 1), keys=("one",)).checked()


def film(config: StreamConfig, backend: StudentBackend, *, keys: bool) -> Tensor:
    """Three shots whose contexts have the captions of the shots before, and a changed prompt."""
    state, made = backend.new_film(), []
    state.poison()
    pipeline, noise = Pipeline(config, state), PhiloxNoise(11)
    past = config.cache.context_frames
    for shot, texts in enumerate(([0], [0, 1], [0, 1, 2])):
        context = PhiloxNoise(5).draw(shot, 0, 0, (1, past, *pipeline.latent_shape[2:]))
        flags = [min(frame, max(0, shot - 1)) for frame in range(past)]
        if keys:
            state.prepare_captions(captions(texts[-1]))
        pipeline.begin_shot(ShotInputs(shot, context, flags, captions(*texts, keys=keys), shot + 1))
        for chunk in range(3):
            made.append(pipeline.run_chunk(chunk, noise).float().to("cpu", copy=True))
            pipeline.commit()
            if shot == 1 and chunk == 1:
                pipeline.change_captions(captions(0, 3, keys=keys))
    pipeline.close()
    return torch.cat(made, 1)


def by_calling(function: Callable[[], None]) -> Callable[[], None]:
    """Stand in for a graph: replay by calling again, after a run on the buffers as they are."""
    with torch.inference_mode():
        function()
    return function


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("eager", "reference"),
        ("eager", "cpu"),
        ("cuda_graph", "reference"),
        ("cuda_graph", "torch"),
    ],
)
def test_films_are_the_same_to_the_bit(
    name: str, kernels: str, policies: dict[str, StreamConfig],
    requested: Callable[..., BackendRequest],
) -> None:  # fmt: skip
    config = policies["window"]
    request = requested(config, kernels)
    backend: StudentBackend = EagerBackend(request.student(), config)
    if name == "cuda_graph":
        backend = CudaGraphBackend(request.student(), config, lambda: by_calling)
    assert torch.equal(film(config, backend, keys=True), film(config, backend, keys=False))


@pytest.mark.gpu
def test_recorded_films_are_the_same_to_the_bit(
    policies: dict[str, StreamConfig], requested: Callable[..., BackendRequest]
) -> None:
    config = policies["window"]
    request = requested(config, "triton", device=torch.device("cuda"), dtype=torch.bfloat16)
    backend = CudaGraphBackend(request.student(), config)
    assert torch.equal(film(config, backend, keys=True), film(config, backend, keys=False))
