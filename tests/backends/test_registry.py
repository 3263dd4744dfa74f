"""Resolution of backends by name."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt import env
from shotstream_rt.backends import registry
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import BackendUnavailableError, ConfigError
from shotstream_rt.model.student import Student

CONFIG = StreamConfig(
    model=ModelConfig(dim=12, ffn_dim=8, num_heads=2, num_layers=1, text_dim=4, text_len=4,
                      latent_height=2, latent_width=2),
    cache=CacheConfig(context_frames=1),
    shot=ShotConfig(chunk_frames=1, shot_frames=1),
)  # fmt: skip
CPU = torch.device("cpu")


def test_auto_takes_one_that_can_run_and_says_which() -> None:
    backend = registry.resolve("auto", Student(CONFIG.model), CONFIG, CPU)
    assert backend.info.name in registry.availability(CPU)
    assert registry.availability(CPU)[backend.info.name] is None


def test_a_gpu_replays_graphs_unless_layers_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reasons = registry.availability(torch.device("cuda"))
    assert next(name for name, reason in reasons.items() if reason is None) == "cuda_graph"
    monkeypatch.setenv(env.NVTX, "detail")
    reasons = registry.availability(torch.device("cuda"))
    assert "detail" in str(reasons["cuda_graph"])
    assert reasons["eager"] is None


def test_the_variable_names_the_kernels_where_no_argument_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(env.KERNEL_SET, "torch")
    student = Student(CONFIG.model)
    assert registry.resolve("auto", student, CONFIG, CPU).info.kernel_set == "torch"
    chosen = registry.resolve("auto", student, CONFIG, CPU, kernels="reference")
    assert chosen.info.kernel_set == "reference"


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="auto, cuda_graph, eager"):
        registry.resolve("warp", Student(CONFIG.model), CONFIG, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_backend_that_cannot_run_gives_its_reason() -> None:
    with pytest.raises(BackendUnavailableError, match="no CUDA device"):
        registry.resolve("eager", Student(CONFIG.model), CONFIG, torch.device("cuda"))


def test_a_backend_of_another_device_says_what_is_usable() -> None:
    with pytest.raises(BackendUnavailableError, match=r"need a CUDA device.*usable here: eager"):
        registry.resolve("cuda_graph", Student(CONFIG.model), CONFIG, CPU)
