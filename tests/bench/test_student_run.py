from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.oracle import REFERENCE_NAME, compare_latents, reference_pipeline
from shotstream_rt.bench.oracle_precision import oracle_products
from shotstream_rt.bench.record import Correctness, read_record
from shotstream_rt.bench.report import record_table
from shotstream_rt.bench.runner import run
from shotstream_rt.bench.shot_inputs import random_inputs, run_shot
from shotstream_rt.bench.student_run import open_student, random_student
from shotstream_rt.bench.workloads import Workload
from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.kernels.sets.cpu_set import cpu_kernels
from shotstream_rt.kernels.sets.kernel_set import REFERENCE
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.profiles import find_profile

QUICK = BenchOptions(device="cpu", warmup=1, repeats=2, full_check=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_record_has_every_metric(tiny_workload: Workload, dtype: str) -> None:
    record, measured = run(tiny_workload, replace(QUICK, dtype=dtype), ["--json"])
    assert measured is not None
    assert record.status == "ok", record.message
    assert record.correctness is not None
    assert record.correctness.passed
    assert record.correctness.rel_l2 > 0
    shots, chunks, steps = 4, 5, 4  # two repeats of two shots
    counts = {metric.name: metric.n for metric in record.metrics}
    assert counts == {
        "shot_s": shots, "shot_cpu_s": shots, "denoise_fps": shots, "caption_kv_ms": shots,
        "denoise_no_commit_fps": shots,
        "context_encode_ms": shots, "context_pass_ms": shots, "worst_chunk_fps": shots,
        "chunk_ms": shots * chunks,
        **{f"chunk_ms.{n + 1}": shots for n in range(chunks)},
        "step_ms": shots * chunks * steps, "commit_ms": shots * (chunks - 1),
        **{f"step_ms.{n + 1}": shots * steps for n in range(chunks)},
        **{f"commit_ms.{n + 1}": shots for n in range(chunks - 1)},
        "peak_memory_mib": 1, "startup_s": 1,
    }  # fmt: skip
    units = {metric.name: metric.unit for metric in record.metrics}
    assert (units["chunk_ms.2"], units["denoise_fps"], units["peak_memory_mib"]) == (
        "ms", "fps", "MiB",
    )  # fmt: skip
    assert record.headline()["shot_s"] == pytest.approx(min(measured.samples["shot_s"]), abs=1e-6)
    assert record.backend["resolved"] == "eager"
    assert record.backend["dtype"] == dtype
    assert record.method["command"].endswith("shotstream_rt.bench --json")


@pytest.mark.parametrize(
    "name", ["longlive", "rolling-forcing", "infinity-rope", "causal-forcing-2step"]
)
def test_students_of_the_family_are_measured_and_checked(name: str) -> None:
    stream = STUDENTS[name].stream(
        ModelConfig(
            dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=6,
            latent_height=4, latent_width=6,
        )
    )  # fmt: skip
    stream = replace(stream, shot=replace(stream.shot, shot_frames=7 * stream.shot.chunk_frames))
    workload = Workload(
        id="tiny", version=1, kind="student", title="tiny", tolerance={},
        recipe={"stream": stream.to_dict(), "text_tokens": 4, "seed": 3, "shots": 2},
    )  # fmt: skip
    record, _ = run(workload, replace(QUICK, warmup=0, repeats=1), [])
    assert record.status == "ok", record.message
    assert record.correctness is not None and record.correctness.passed
    steps = record.metric("step_ms")
    assert steps is not None and steps.n > 2 * 7 - 1


def test_a_profile_with_fewer_steps_is_measured_on_films(tiny_workload: Workload) -> None:
    with pytest.raises(ConfigError, match="how many steps"):
        open_student(tiny_workload, replace(QUICK, profile="two-step"))


def test_shot_is_no_less_than_its_parts(tiny_workload: Workload) -> None:
    _, measured = run(tiny_workload.with_recipe(shots=1), replace(QUICK, repeats=1), [])
    assert measured is not None
    samples = measured.samples
    parts = ("context_encode_ms", "chunk_ms", "commit_ms")
    total_ms = sum(sum(samples[part]) for part in parts)
    assert samples["shot_s"][0] * 1e3 >= total_ms


def test_wrong_passes_get_no_figures(
    tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = cpu_kernels(torch.float32, 12)
    honest = kernels.attention

    def wrong(q: Any, k: Any, v: Any, scale: float, bias: Any) -> Any:
        return honest(q, k, v, scale * 1.05, bias)

    cheating = replace(kernels, attention=wrong)

    def cheat(name: str, request: BackendRequest) -> EagerBackend:
        student = BoundStudent.from_state(
            request.weights(), request.config.model, cheating, source="cheat"
        )
        return EagerBackend(student, request.config)

    monkeypatch.setattr("shotstream_rt.backends.registry.resolve", cheat)
    record, _ = run(tiny_workload, QUICK, [])
    assert record.status == "incorrect"
    assert record.metrics == ()
    assert "withheld" in record.message


def test_every_figure_has_its_ratio_to_the_baseline(tiny_workload: Workload) -> None:
    record, _ = run(tiny_workload, replace(QUICK, baseline=True), [])
    for name in ("shot_s", "denoise_fps", "chunk_ms", "chunk_ms.3", "step_ms", "commit_ms.1"):
        metric = record.metric(name)
        assert metric is not None, name
        assert metric.baseline_n == (5 * metric.n // 4 if name == "commit_ms" else metric.n)
        assert metric.ratio is not None
    shot = record.metric("shot_s")
    assert shot is not None
    assert shot.baseline_p50 is not None
    assert shot.ratio == pytest.approx(shot.baseline_p50 / shot.p50, rel=1e-2)
    caption = record.metric("caption_kv_ms")
    assert caption is not None
    assert caption.ratio is None  # the baseline makes caption keys in its context pass


def test_rate_without_the_clean_pass_stands_beside(tiny_workload: Workload) -> None:
    _, measured = run(tiny_workload.with_recipe(shots=1), replace(QUICK, repeats=1), [])
    assert measured is not None
    samples = measured.samples
    frames, shot_s = 17, samples["shot_s"][0]
    assert samples["denoise_fps"] == [frames / shot_s]
    without_s = frames / samples["denoise_no_commit_fps"][0]
    # The shot's sum has what runs around a clean pass, too.
    assert without_s <= shot_s - sum(samples["commit_ms"]) / 1e3
    assert without_s >= sum(samples["chunk_ms"]) / 1e3


def test_medians_are_saved_before_the_oracle_runs(
    tiny_workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("shotstream_rt.bench.student_run.reference_pipeline", dies)
    options = replace(QUICK, full_check=False, quick=True, baseline=True)
    with pytest.raises(RuntimeError, match="gone"):
        run(tiny_workload, options, [], out=tmp_path)
    (path,) = tmp_path.iterdir()
    record = read_record(path)
    assert (record.status, record.metrics, record.correctness) == ("not checked", (), None)
    assert record.unchecked is not None
    assert record.unchecked["denoise_fps"] > 0
    assert record.unchecked["denoise_fps.ratio"] > 0
    assert record.method["quick"] is True
    table = record_table(record)
    assert "not checked" in table and "denoise_fps" not in table


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "whole"])
def test_a_quick_check_of_a_lossy_profile_compares_two_chunks(
    tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    lossy = replace(find_profile("fp8"), kernel_parts=())
    for module in ("student_run", "options"):
        monkeypatch.setattr(f"shotstream_rt.bench.{module}.find_profile", lambda _: lossy)
    compared: list[int] = []

    def compare(measured: Sequence[Tensor], *rest: Any) -> Correctness:
        compared.append(len(measured))
        return compare_latents(measured, *rest)

    monkeypatch.setattr("shotstream_rt.bench.student_run.compare_latents", compare)
    options = BenchOptions(device="cpu", warmup=0, repeats=1, profile="fp8", quick=quick)
    record, _ = run(tiny_workload.with_recipe(shots=1), options, [])
    assert record.status == "ok", record.message
    assert compared == [2 if quick else 5]


def test_only_a_quick_check_on_a_gpu_multiplies_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = BenchOptions(device="cpu", quick=True)
    with oracle_products(quick, torch.bfloat16) as name:
        assert (name, torch.get_float32_matmul_precision()) == (REFERENCE_NAME, "highest")
    monkeypatch.setattr(BenchOptions, "torch_device", lambda _: torch.device("cuda"))
    for options, dtype, precision in (
        (quick, torch.bfloat16, "high"),
        (quick, torch.float32, "highest"),
        (BenchOptions(device="cpu"), torch.bfloat16, "highest"),
    ):
        with oracle_products(options, dtype) as name:
            assert torch.get_float32_matmul_precision() == precision
            assert ("tf32" in name) == (precision == "high")
        assert torch.get_float32_matmul_precision() == "highest"


def test_stages_stand_beside_their_floors(tiny_workload: Workload) -> None:
    record, _ = run(tiny_workload, replace(QUICK, roofline=True), [])
    assert record.roofline is not None
    stages = {stage["metric"]: stage for stage in record.roofline["stages"]}
    assert {"caption_kv_ms", "context_pass_ms", "step_ms.1", "step_ms.5", "commit_ms.4"} <= set(
        stages
    )
    assert stages["step_ms.5"]["flops"] > stages["step_ms.1"]["flops"] > 0
    for stage in stages.values():
        assert stage["percent"] == pytest.approx(
            100 * stage["floor_ms"] / stage["measured_ms"], rel=0.2, abs=0.1
        )


def test_running_out_of_memory_is_a_status(
    tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("cannot allocate the cache")

    monkeypatch.setattr("shotstream_rt.backends.registry.resolve", full)
    record, measured = run(tiny_workload, QUICK, [])
    assert (record.status, record.metrics, measured) == ("oom", (), None)
    assert record.message == "cannot allocate the cache"
    assert record.correctness is None


def test_weights_and_inputs_come_from_the_seed(tiny_config: StreamConfig) -> None:
    first, again, other = (random_student(tiny_config, seed=seed) for seed in (1, 1, 2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.patch_embedding.weight, other.patch_embedding.weight)
    before = torch.random.get_rng_state()
    random_student(tiny_config, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_inputs_are_those_of_a_film(tiny_config: StreamConfig) -> None:
    first, second, third = random_inputs(tiny_config, shots=3, text_tokens=4, seed=0)
    assert not first.context.any()
    assert (list(first.flags), first.target_flag, len(first.captions)) == ([0] * 6, 1, 1)
    assert (set(second.flags), second.target_flag, len(second.captions)) == ({0}, 1, 2)
    assert (set(third.flags), third.target_flag, len(third.captions)) == ({0, 1}, 2, 3)
    assert third.captions.lengths == (4, 4, 4)
    assert not third.captions.embeddings[:, 4:].any()


def test_oracle_notices_a_wrong_flag(tiny_config: StreamConfig) -> None:
    student = random_student(tiny_config, seed=0)
    inputs = random_inputs(tiny_config, shots=1, text_tokens=4, seed=0)[0]
    noise = PhiloxNoise(0)
    oracle = reference_pipeline(
        student.state_dict, tiny_config, device=torch.device("cpu"), dtype=torch.float32
    )
    wanted = run_shot(oracle, inputs, noise)
    bound = BoundStudent.from_student(student, REFERENCE)
    pipeline = Pipeline(tiny_config, EagerBackend(bound, tiny_config).new_film())
    right = run_shot(pipeline, inputs, noise)
    assert compare_latents(right, wanted, torch.float32).rel_l2 == 0
    wrong = run_shot(pipeline, replace(inputs, target_flag=2), noise)
    assert not compare_latents(wrong, wanted, torch.float32).passed


def test_not_a_number_never_passes() -> None:
    latents = [torch.ones(1, 1, 2, 2, 2)]
    broken = [latents[0] * torch.nan]
    verdict = compare_latents(broken, latents, torch.bfloat16)
    assert not verdict.passed
