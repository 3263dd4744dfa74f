"""Resolution of backends by name."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt import env
from shotstream_rt.backends import registry
from shotstream_rt.backends.base import BackendInfo, StudentBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import BackendUnavailableError, ConfigError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.student import Student

CONFIG = StreamConfig(
    model=ModelConfig(dim=12, ffn_dim=8, num_heads=2, num_layers=1, text_dim=4, text_len=4,
                      latent_height=2, latent_width=2),
    cache=CacheConfig(context_frames=1),
    shot=ShotConfig(chunk_frames=1, shot_frames=1),
)  # fmt: skip
CPU = torch.device("cpu")


def request(device: torch.device) -> BackendRequest:
    return BackendRequest(
        config=CONFIG, device=device, dtype=torch.float32, weights=Student(CONFIG.model).state_dict
    )


def test_auto_takes_one_that_can_run_and_says_which() -> None:
    backend = registry.resolve("auto", request(CPU))
    assert backend.info.name in registry.availability(CPU)
    assert registry.availability(CPU)[backend.info.name] is None


def test_a_gpu_replays_graphs_unless_layers_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
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
    told = [Model.open("nano", device="cpu", kernels=name).info for name in (None, "reference")]
    assert [info["kernel_set"] for info in told] == ["torch", "reference"]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="auto, cuda_graph, eager"):
        registry.resolve("warp", request(CPU))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_backend_that_cannot_run_gives_its_reason() -> None:
    with pytest.raises(BackendUnavailableError, match="no CUDA device"):
        registry.resolve("eager", request(torch.device("cuda")))


def test_a_backend_of_another_device_says_what_is_usable() -> None:
    with pytest.raises(BackendUnavailableError, match=r"need a CUDA device.*usable here: eager"):
        registry.resolve("cuda_graph", request(CPU))


def test_nothing_is_loaded_that_a_backend_does_not_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine backend brings weights of its own, and may know no kernel set."""
    made = object()

    class Engine:
        info = BackendInfo(
            name="engine", kernel_set="none", device="cpu", dtype="float32", cache_bytes=0,
            weight_bytes=0,
        )  # fmt: skip
        token = made

    def unread() -> dict[str, torch.Tensor]:
        raise AssertionError("the weights were read")

    entry = registry.BackendEntry("engine", lambda _: None, lambda _: Engine())  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(registry, "ENTRIES", (entry, *registry.ENTRIES))
    asked = BackendRequest(
        config=CONFIG, device=CPU, dtype=torch.float32, weights=unread, kernel_set="no such set"
    )
    assert registry.resolve("auto", asked).token is made  # type: ignore[attr-defined]


def test_a_backend_may_refuse_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: BackendRequest) -> str | None:
        return f"no engines in {request.folder}"

    def build(request: BackendRequest) -> StudentBackend:
        raise AssertionError("built all the same")

    entry = registry.BackendEntry("engine", lambda _: None, build, refuse)
    monkeypatch.setattr(registry, "ENTRIES", (entry, *registry.ENTRIES))
    assert registry.resolve("auto", request(CPU)).info.name == "eager"
    with pytest.raises(BackendUnavailableError, match="no engines in None; usable here: eager"):
        registry.resolve("engine", request(CPU))
