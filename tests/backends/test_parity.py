"""Every backend of the registry that runs here plays the same film as ``eager`` + ``reference``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import kernel_registry, registry
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import StreamConfig

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""Relative distance of a whole film's latents, by type of the passes."""

POLICIES = ("window", "on-read", "pruned", "no-context", "recache", "kept", "rolling")
"""Names of ``policies``."""


ONLY = {"cuda_graph": "cuda", "tensorrt": "cuda", "onnxruntime": "cpu", "openvino": "cpu",
        "cpu": "cpu"}  # fmt: skip
"""Backends and kernel sets that are for one kind of device; all others are for both."""


def _cases() -> list[object]:
    """Every policy and type where a backend and a kernel set run; else one case that says why."""
    cases: list[object] = []
    for place in ("cpu", "cuda"):
        device = torch.device(place)
        target = kernel_registry.Target(device=device, dtype=torch.bfloat16, head_dim=32)
        for entry, kernels in itertools.product(registry.ENTRIES, kernel_registry.SETS):
            if {ONLY.get(entry.name, place), ONLY.get(kernels.name, place)} != {place}:
                continue
            if entry.name in registry.ENGINE_LIBRARIES and kernels.name != "reference":
                continue  # they have no kernel sets
            why = entry.unavailable_reason(device) or kernels.unavailable_reason(target)
            marks = [pytest.mark.skip(reason=why)] if why else []
            if place == "cuda":
                marks.append(pytest.mark.gpu)
            elif kernels.name == "triton":
                marks.append(pytest.mark.interpret)
            choices = itertools.product(TOLERANCES, POLICIES)
            cases += [
                pytest.param(
                    entry.name, kernels.name, device, dtype, policy,
                    id=f"{entry.name}-{kernels.name}-{place}-{str(dtype)[6:]}-{policy}",
                    marks=marks,
                )
                for dtype, policy in (list(choices)[:1] if why else choices)
            ]  # fmt: skip
    return cases


@pytest.fixture(scope="module")
def wanted(
    requested: Callable[..., BackendRequest],
    play: Callable[[StreamConfig, StudentBackend], Tensor],
    policies: dict[str, StreamConfig],
) -> Callable[[str], Tensor]:
    """The oracle's film under a policy, made once."""
    made: dict[str, Tensor] = {}

    def film(policy: str) -> Tensor:
        if policy not in made:
            config = policies[policy]
            backend = registry.resolve("eager", requested(config, "reference"))
            made[policy] = play(config, backend)
        return made[policy]

    return film


@pytest.mark.parametrize("backend,kernels,device,dtype,policy", _cases())
def test_a_backend_plays_the_film_of_the_oracle(
    backend: str, kernels: str, device: torch.device, dtype: torch.dtype, policy: str,
    requested: Callable[..., BackendRequest], policies: dict[str, StreamConfig],
    play: Callable[[StreamConfig, StudentBackend], Tensor], wanted: Callable[[str], Tensor],
    engines: Callable[..., Path],
) -> None:  # fmt: skip
    config, folder = policies[policy], None
    if backend in registry.ENGINE_LIBRARIES:
        if dtype == torch.bfloat16 and policy != "window":
            pytest.skip("exports take seconds: in bfloat16 one policy stands for all")
        if policy not in ("window", "on-read", "no-context"):
            pytest.skip("no passes are exported for it")
        folder = engines(config, dtype)
    request = requested(config, kernels, dtype=dtype, device=device, engines=folder)
    (entry,) = (entry for entry in registry.ENTRIES if entry.name == backend)
    if (reason := entry.unfit_reason(request)) is not None:
        pytest.skip(reason)
    got = play(config, registry.resolve(backend, request))
    assert bool(got.isfinite().all()), "a slot that was never written was read"
    assert distance(got, wanted(policy)) <= TOLERANCES[dtype]


@pytest.mark.parametrize("policy", POLICIES)
def test_passes_that_are_recorded_play_the_film_of_the_oracle(
    policy: str, requested: Callable[..., BackendRequest], policies: dict[str, StreamConfig],
    play: Callable[[StreamConfig, StudentBackend], Tensor], wanted: Callable[[str], Tensor],
) -> None:  # fmt: skip
    """The captured backend without a GPU: a graph stands for calling the same function again."""
    config = policies[policy]
    student = requested(config, "reference").student()
    backend = CudaGraphBackend(student, config, capture=lambda: lambda function: function)
    assert distance(play(config, backend), wanted(policy)) <= TOLERANCES[torch.float32]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_film_notices_what_backends_get_wrong(
    policy: str, policies: dict[str, StreamConfig], wanted: Callable[[str], Tensor]
) -> None:
    """Its two shots, and the chunks before and after the prompt changed, differ."""
    latents = wanted(policy)
    chunks = torch.split(latents, policies[policy].shot.chunk_frames, dim=1)
    for one, other in ((0, 6), (1, 2), (4, 5)):
        assert distance(chunks[one], chunks[other]) > 0.1


def test_films_of_one_backend_do_not_disturb_each_other(
    requested: Callable[..., BackendRequest], policies: dict[str, StreamConfig],
    play: Callable[[StreamConfig, StudentBackend], Tensor],
) -> None:  # fmt: skip
    config = policies["window"]
    backend = registry.resolve("auto", requested(config, "auto"))
    alone, bystander = play(config, backend), backend.new_film()
    bystander.poison()
    assert torch.equal(play(config, backend), alone)


def distance(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())
