from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.oracle import compare_latents, reference_pipeline, student_of
from shotstream_rt.bench.runner import run
from shotstream_rt.bench.shot_inputs import random_inputs, run_shot
from shotstream_rt.bench.student_run import random_student
from shotstream_rt.bench.workloads import Workload
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import BackendUnavailableError
from shotstream_rt.kernels.kernel_set import REFERENCE, cpu_kernels
from shotstream_rt.noise import PhiloxNoise
from shotstream_rt.pipeline import Pipeline

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
    honest = cpu_kernels().attention

    def wrong(q: Any, k: Any, v: Any, scale: float, bias: Any) -> Any:
        return honest(q, k, v, scale * 1.05, bias)

    cheating = replace(cpu_kernels(), attention=wrong)
    monkeypatch.setattr(
        "shotstream_rt.backends.registry.resolve",
        lambda name, student, config, device, **_: EagerBackend(student, config, cheating),
    )
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
    wanted = run_shot(reference_pipeline(student, tiny_config), inputs, noise)
    pipeline = Pipeline(tiny_config, EagerBackend(student, tiny_config, REFERENCE))
    right = run_shot(pipeline, inputs, noise)
    assert compare_latents(right, wanted, torch.float32).rel_l2 == 0
    wrong = run_shot(pipeline, replace(inputs, target_flag=2), noise)
    assert not compare_latents(wrong, wanted, torch.float32).passed


def test_not_a_number_never_passes() -> None:
    latents = [torch.ones(1, 1, 2, 2, 2)]
    broken = [latents[0] * torch.nan]
    verdict = compare_latents(broken, latents, torch.bfloat16)
    assert not verdict.passed


def test_backend_without_weights_cannot_be_checked(tiny_config: StreamConfig) -> None:
    backend = EagerBackend(random_student(tiny_config, seed=0), tiny_config, REFERENCE)
    assert student_of(backend) is backend.student
    opaque: Any = SimpleNamespace(info=backend.info)
    with pytest.raises(BackendUnavailableError, match="use eager"):
        student_of(opaque)
