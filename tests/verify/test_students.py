"""The checks of the family's students, on small cases written here as the public ones are.

The numbers of these cases are this package's own, with the reference kernels; that they are the
originals' own is what the golden vectors say. Here it is tested that each student's options are
understood and that a wrong number or a pass that reads something else fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream_rt import verify
from shotstream_rt.backends import registry
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.registry import BackendEntry
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import ModelConfig
from shotstream_rt.model.student import Student
from shotstream_rt.verify import students
from shotstream_rt.verify.check import CaseReport
from shotstream_rt.verify.golden import GoldenCase
from shotstream_rt.verify.golden_plan import differing_passes

SIZES = {
    "dim": 24, "ffn_dim": 32, "num_heads": 2, "num_layers": 2, "text_dim": 8, "text_len": 6,
    "freq_dim": 16, "in_dim": 16, "out_dim": 16,
}  # fmt: skip
OPTIONS = {
    "denoising_step_list": [1000, 750, 500], "warp_denoising_step": True, "num_frame_per_block": 2,
    "independent_first_frame": False, "context_noise": 0,
    "model_kwargs": {"timestep_shift": 5.0, "local_attn_size": 7, "sink_size": 1},
}  # fmt: skip


def options(**changes: Any) -> dict[str, Any]:
    return {**OPTIONS, **changes}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("self_forcing", {"options": options(), "latent_frames": 12}),
    "first_frame": (
        "self_forcing",
        {"options": options(independent_first_frame=True), "latent_frames": 11},
    ),
    "extend": ("self_forcing", {"options": options(), "latent_frames": 12, "given": 4}),
    "switch": (
        "longlive1",
        {
            "options": options(global_sink=False), "latent_frames": 12, "prompts": [0, 1],
            "switch_frame_indices": [7],
        },
    ),
    "rolling": (
        "rolling_forcing",
        {
            "options": options(num_frame_per_block=3, model_kwargs={"timestep_shift": 5.0}),
            "latent_frames": 15,
        },
    ),
    "cut": (
        "infinity_rope",
        {
            "options": options(), "latent_frames": 14, "prompts": [0, 1, 2],
            "scene_boundaries": [2, 4], "cut_boundaries": [4],
        },
    ),
    "given_cut": (
        "infinity_rope",
        {
            "options": options(), "latent_frames": 12, "given": 4, "prompts": [0, 1],
            "scene_boundaries": [2], "cut_boundaries": [2],
        },
    ),
    "two_steps": (
        "causal_forcing",
        {
            "options": options(
                denoising_step_list=[1000, 500], denoising_step_list_first_chunk=[1000, 750, 500]
            ),
            "latent_frames": 8,
        },
    ),
}  # fmt: skip


def case_of(name: str, folder: Path) -> GoldenCase:
    """A case without the numbers that were computed."""
    student, variant = VARIANTS[name]
    torch.manual_seed(7)
    frames = variant["latent_frames"]
    steps = len(variant["options"]["denoising_step_list"])
    length = variant["options"]["num_frame_per_block"]
    odd = variant["options"]["independent_first_frame"]
    size = (16, 4, 6)
    tensors = {
        "prompt_embeds": torch.randn(3, 6, 8),
        f"{name}.noise.init": torch.randn(1, frames, *size),
        f"{name}.noise.steps": torch.randn((steps - 1) * frames, length, *size),
    }
    if odd or "denoising_step_list_first_chunk" in variant["options"]:
        tensors[f"{name}.noise.first_steps"] = torch.randn(2, 1 if odd else length, *size)
    if "given" in variant:
        tensors[f"{name}.initial_latent"] = torch.randn(1, variant["given"], *size)
    bf16 = {"latents_rel_l2": 0.02, "calls": {}}
    meta = {
        "student": student, "config": SIZES, "weights": ["weights_tiny"], "latent_hw": [4, 6],
        "prompt_lengths": [6, 6, 6],
        "variants": {
            name: {**variant, "measured": {"bf16_vs_fp32": bf16}, "recorded_calls": [], "plan": []}
        },
    }  # fmt: skip
    return GoldenCase(f"h_{name}", folder, meta, tensors)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], GoldenCase]:
    """Completes a case with what the reference kernels compute."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("students")
    torch.manual_seed(3)
    network = Student(ModelConfig(**SIZES, latent_height=4, latent_width=6)).requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    save_file(network.state_dict(), folder / "weights_tiny.safetensors")

    def complete(name: str) -> GoldenCase:
        case = case_of(name, folder)
        config = students._stream_config(case, case.meta["variants"][name])
        asked = verify.VerifyOptions(kernels="reference")
        film = students._WatchedFilm(case.backend(config, asked).new_film(), config)
        given = case.tensors.get(f"{name}.initial_latent")
        pipeline = students.Pipeline(config, film)
        latents = students._play(case, name, case.meta["variants"][name], pipeline, given)
        case.tensors[f"{name}.latents"] = latents
        case.meta["variants"][name]["plan"] = json.loads(json.dumps(film.passes))
        return case

    return complete


def failed(report: CaseReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_students_options_are_understood(
    name: str, made: Callable[[str], GoldenCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    def captured(request: BackendRequest) -> CudaGraphBackend:
        """A graph stands for calling the same function again."""
        return CudaGraphBackend(request.student(), request.config, lambda: lambda call: call)

    entry = BackendEntry("stand-in", lambda device: None, captured)
    monkeypatch.setattr(registry, "ENTRIES", (*registry.ENTRIES, entry))
    case = made(name)
    for backend, kernels in (("eager", "cpu"), ("stand-in", "reference")):
        report = verify.run(case, verify.VerifyOptions(backend=backend, kernels=kernels))
        assert {f"{name}.latents", f"{name}.plan"} <= {check.name for check in report.checks}
        assert failed(report) == []


@pytest.mark.parametrize("name", ["switch", "rolling", "given_cut", "two_steps"])
def test_every_recorded_call_is_compared(name: str, made: Callable[[str], GoldenCase]) -> None:
    case = made(name)
    variant = case.meta["variants"][name]
    runners: list[students._Recorder] = []
    config = students._stream_config(case, variant)
    backend = case.backend(config, verify.VerifyOptions(kernels="reference"))
    assert isinstance(backend, EagerBackend)

    def recorder(*given: Any) -> students._Recorder:
        runners.append(students._Recorder(*given))
        return runners[0]

    pipeline = students.Pipeline(config, backend.new_film(recorder))
    students._play(case, name, variant, pipeline, case.tensors.get(f"{name}.initial_latent"))
    # A call of the original that nobody reads: no pass does the same.
    variant["plan"].insert(0, {**variant["plan"][0], "kind": "clean", "needed": False})
    calls = range(1, len(runners[0].made) + 1)
    for call, parts in zip(calls, runners[0].made, strict=True):
        for part, tensor in zip(("flow", "x0"), parts, strict=True):
            case.tensors[f"{name}.call{call}.{part}"] = tensor.clone()
    variant["recorded_calls"] = [{"call": call} for call in (0, *calls)]
    distances = {str(call): {"flow": 0.01, "x0": 0.01} for call in calls}
    variant["measured"]["bf16_vs_fp32"]["calls"] = distances
    report = verify.run(case, verify.VerifyOptions())
    compared = {check.name for check in report.checks if ".call" in check.name}
    assert compared == {f"{name}.call{call}.{part}" for call in calls for part in ("flow", "x0")}
    assert failed(report) == []
    case.tensors[f"{name}.call{calls[-1]}.flow"].mul_(1.01)
    assert failed(verify.run(case, verify.VerifyOptions())) == [f"{name}.call{calls[-1]}.flow"]


@pytest.mark.parametrize("name", ["window", "switch", "rolling", "cut"])
def test_what_differs_is_named(name: str, made: Callable[[str], GoldenCase]) -> None:
    case = made(name)
    last = case.tensors[f"{name}.latents"][:, -1:]
    last.mul_(1.01)
    assert failed(verify.run(case, verify.VerifyOptions())) == [f"{name}.latents"]
    last.div_(1.01)
    plan = case.meta["variants"][name]["plan"]
    plan[-1]["key_positions"][0] += 1
    assert failed(verify.run(case, verify.VerifyOptions())) == [f"{name}.plan"]
    plan[-1]["key_positions"][0] -= 1
    del plan[-1]
    assert failed(verify.run(case, verify.VerifyOptions())) == [f"{name}.plan"]


def test_a_quirk_is_not_compared(made: Callable[[str], GoldenCase]) -> None:
    case = made("window")
    case.meta["variants"]["window"]["quirk"] = "nobody can have meant this"
    assert verify.run(case, verify.VerifyOptions()).checks == []


def test_a_recache_over_frames_of_a_sink_that_is_kept() -> None:
    """The original is over frame 2 too, but reads the key that the sink has of it."""
    golden = {
        "kind": "recache", "frames": [2, 3, 4, 5, 6, 7, 8], "sink_rewritten": False,
        "query_positions": [2, 3, 4, 5, 6, 7, 8], "key_frames": [0, 1, 2, 5, 6, 7, 8],
        "key_positions": [0, 1, 2, 5, 6, 7, 8],
    }  # fmt: skip
    own = {**golden, "frames": [5, 6, 7, 8], "query_positions": [5, 6, 7, 8]}
    assert differing_passes([own], [golden]) == 0
    assert differing_passes([{**own, "frames": [4, 5, 6, 7]}], [golden]) == 1
    assert differing_passes([own], [{**golden, "sink_rewritten": True}]) == 1
    # Where the sink is made anew, or there is none, all frames are read as they are computed now.
    first = {**golden, "key_frames": [2, 3, 4, 5, 6, 7, 8], "key_positions": [*range(2, 9)]}
    assert differing_passes([first], [{**first, "sink_rewritten": True}]) == 0
    assert differing_passes([first], [first]) == 0


def test_a_pass_over_other_frames_differs() -> None:
    window = {
        "kind": "window", "frames": [0, 1], "query_positions": [0, 1], "key_frames": [0, 1],
        "key_positions": [0, 1], "times": [1000.0, 1000.0],
    }  # fmt: skip
    longer = {**window, "frames": [0, 1, 2], "key_frames": [0, 1, 2], "times": [1000.0] * 3}
    assert differing_passes([window], [longer]) == 1
    assert differing_passes([window], [{**window, "times": [1000.0, 900.0]}]) == 1
    assert differing_passes([window], [window]) == 0
