"""What engine backends share: weights by name, parity at open, reasons."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import registry
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.engine_backend import EngineBackend
from shotstream_rt.backends.engine_gate import pass_distances
from shotstream_rt.backends.engine_passes import PassRun, Tensors
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import BackendUnavailableError, WeightsError
from shotstream_rt.export.manifest import ExportedPass
from shotstream_rt.model.student import Student

CPU = torch.device("cpu")


@pytest.fixture(params=registry.ENGINE_LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if (reason := registry.availability(CPU)[name]) is not None:
        pytest.skip(reason)
    return name


@pytest.fixture
def asked(
    requested: Callable[..., BackendRequest], policies: dict[str, StreamConfig],
    engines: Callable[..., Path],
) -> BackendRequest:  # fmt: skip
    config = policies["window"]
    return requested(config, "reference", engines=engines(config))


def test_every_pass_is_near_eager(library: str, asked: BackendRequest) -> None:
    backend = EngineBackend(asked, library, registry.engine_library(library).load, gate=False)
    found = pass_distances(backend, asked)
    assert [one.name for one in found] == [
        "captions", "context", "denoise_0", "denoise_1", "denoise_2", "commit",
        "denoise_0, next chunk",
    ]  # fmt: skip
    assert max(one.worst for one in found) <= 1e-5


@pytest.mark.parametrize("wrong", ["captions", "context", "denoise_1", "commit"])
@pytest.mark.parametrize("number", [1.01, float("nan")])
def test_a_pass_that_computes_something_else_is_refused_at_open(
    wrong: str, number: float, asked: BackendRequest
) -> None:
    library = next(n for n in registry.ENGINE_LIBRARIES if not registry.availability(CPU)[n])
    load = registry.engine_library(library).load

    def broken(
        graph: bytes, entry: ExportedPass, weights: Tensors, threads: int
    ) -> Callable[[], PassRun]:
        made = load(graph, entry, weights, threads)
        if entry.name != wrong:
            return made

        def run(inputs: Tensors, outputs: Tensors) -> None:
            made()(inputs, outputs)
            outputs["v_1"].mul_(number)

        return lambda: run

    with pytest.raises(BackendUnavailableError, match=rf"{wrong} are .* away .* at most 1e-04"):
        EngineBackend(asked, library, broken)


def test_a_student_of_one_layer_and_one_step(engines: Callable[..., Path]) -> None:
    """Its clean pass attends to nothing, and its only step is the last one."""
    config = StreamConfig(
        model=ModelConfig(
            dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=8, text_len=6, latent_height=4,
            latent_width=4, cache_indicator=True,
        ),
        cache=CacheConfig(context_frames=2, key_rotation="on_read"),
        shot=ShotConfig(chunk_frames=1, shot_frames=3),
        schedule=ScheduleConfig(denoising_steps=(1000,)),
    )  # fmt: skip
    folder = engines(config)
    torch.manual_seed(0)
    student = Student(config.model).requires_grad_(False)
    asked = BackendRequest(
        config=config, device=CPU, dtype=torch.float32, weights=student.state_dict, engines=folder
    )
    library = next(n for n in registry.ENGINE_LIBRARIES if not registry.availability(CPU)[n])
    backend = EngineBackend(asked, library, registry.engine_library(library).load, gate=False)
    assert max(found.worst for found in pass_distances(backend, asked)) <= 1e-5


def test_weights_of_another_shape_or_name(library: str, asked: BackendRequest) -> None:
    state = dict(asked.weights())
    name = "blocks.1.ffn.0.bias"
    for changed, message in (
        ({**state, name: torch.zeros(3)}, rf"{name} .*wanted \(96,\)"),
        ({k: v for k, v in state.items() if k != name}, f"1 missing: {name}"),
    ):
        with pytest.raises(WeightsError, match=message):
            registry.resolve(library, replace(asked, weights=lambda given=changed: given))


def test_films_side_by_side(
    library: str, asked: BackendRequest, play: Callable[[StreamConfig, StudentBackend], Tensor]
) -> None:
    backend = registry.resolve(library, asked)
    alone, bystander = play(asked.config, backend), backend.new_film()
    bystander.poison()
    assert torch.equal(play(asked.config, backend), alone)


def test_reasons(asked: BackendRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    here: Callable[..., Any] = importlib.util.find_spec
    for name in registry.ENGINE_LIBRARIES:
        for limit in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(limit, raising=False)  # OpenVINO is refused under them
        with pytest.raises(BackendUnavailableError, match="needs exported passes"):
            registry.resolve(name, replace(asked, engines=None))
        assert "not on cuda" in str(registry.availability(torch.device("cuda"))[name])
        monkeypatch.setattr(
            importlib.util, "find_spec",
            lambda wanted, name=name: None if wanted == name else here(wanted),
        )  # fmt: skip
        with pytest.raises(
            BackendUnavailableError, match=rf"pip install 'shotstream_rt\[{name}\]'"
        ):
            registry.resolve(name, asked)
        monkeypatch.undo()


def test_auto_takes_no_engines(asked: BackendRequest) -> None:
    assert registry.resolve("auto", asked).info.name == "eager"
