"""What ``bench profile`` tells of a run: stages, memory, and oneDNN's own calls."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from shotstream_rt.bench import ceilings, profile_run
from shotstream_rt.bench.__main__ import main
from shotstream_rt.bench.ceilings import Ceilings
from shotstream_rt.bench.memory_table import memory_table
from shotstream_rt.bench.onednn_log import add_up, onednn_calls, onednn_lines
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.profile_subject import open_subject
from shotstream_rt.bench.stage_summary import StageClock, StageSummary, total_stages
from shotstream_rt.bench.work import Stage
from shotstream_rt.bench.workloads import Workload

CEILINGS = Ceilings(copy_gbps=1.0, gemm_tflops={"float32": 0.001}, gemm_shape={})


def stage(metric: str, mflop: float) -> Stage:
    """A stage that needs one millisecond per megaflop at ``CEILINGS``."""
    return Stage(name=metric, metric=metric, flops=1e6 * mflop, nbytes=0.0)


def test_a_stage_is_added_up_over_its_places_in_the_shot() -> None:
    device = {
        "step_ms": [10.0, 20.0, 30.0], "step_ms.1": [10.0], "step_ms.2": [20.0, 30.0],
        "vae_decode_ms": [4.0, 4.0, 4.0], "vae_decode_ms.1": [4.0], "vae_decode_ms.2": [4.0],
        "vae_decode_ms.3": [4.0],
        "vae_encode_ms": [1.0],
    }  # fmt: skip
    host = {**device, "step_ms": [1.0, 1.0, 1.0]}
    stages = [stage("step_ms.1", 5), stage("step_ms.2", 10), stage("vae_decode_ms.1", 1),
              stage("vae_decode_ms.2", 3)]  # fmt: skip
    found = {
        total.stage: total
        for total in total_stages(device, host, stages, CEILINGS, "float32", wall_ms=100.0)
    }
    assert list(found) == ["step", "decode", "encode of a frame"]
    step = found["step"]
    assert (step.n, step.host_ms, step.device_ms, step.share) == (3, 3.0, 60.0, 0.6)
    assert step.floor_ms == pytest.approx(5 + 10 + 10)
    assert step.percent == pytest.approx(100 * 25 / 60)
    assert found["decode"].floor_ms == pytest.approx(1 + 3 + 3)  # the third as the second
    assert found["encode of a frame"].floor_ms is None


def test_host_and_gpu_times_stand_apart_where_there_is_a_gpu() -> None:
    device, host = {"step_ms": [10.0], "step_ms.1": [10.0]}, {"step_ms": [0.5]}
    totals = total_stages(device, host, [stage("step_ms.1", 5)], CEILINGS, "float32", wall_ms=20.0)
    tables = {
        kind: StageSummary(
            workload="w", device=kind, dtype="float32", shots=1, frames=9, wall_s=0.02,
            ceilings=CEILINGS, stages=totals,
        ).lines()
        for kind in ("cpu", "cuda")
    }  # fmt: skip
    assert tables["cuda"][-2].split()[:6] == ["stage", "n", "host", "ms", "GPU", "ms"]
    assert tables["cuda"][-1].split() == ["step", "1", "0.5", "10.0", "50.0", "5.00", "50.0"]
    assert tables["cpu"][2].endswith("0.005 s, so at most 1800.0 frames per second")
    assert tables["cpu"][-2].split()[:4] == ["stage", "n", "wall", "ms"]
    assert tables["cpu"][-1].split() == ["step", "1", "10.0", "50.0", "5.00", "50.0"]


def test_the_clock_notes_host_time_beside_the_device() -> None:
    clock = StageClock(torch.device("cpu"))
    with clock.time_ms("a_ms", "a_ms.1"):
        pass
    assert clock.samples().keys() == clock.host_samples().keys() == {"a_ms", "a_ms.1"}
    clock.clear()
    assert clock.samples() == clock.host_samples() == {}


def test_summary_and_memory_of_a_student(
    tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile_run, "find_workload", lambda _: tiny_workload)
    monkeypatch.setattr(ceilings, "_BUDGET_S", 0.001)
    words = ["profile", "--device", "cpu", "--threads", "1", "--shots", "2", "--summary"]
    assert main([*words, "--memory", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["workload"], told["shots"]) == ("tiny", 2)
    stages = {row["stage"]: row for row in told["summary"]["stages"]}
    counts = {name: row["n"] for name, row in stages.items()}
    # Two shots of five chunks and four steps; a shot's last chunk has no clean pass.
    assert counts == {"caption keys": 2, "context pass": 2, "step": 40, "clean pass": 8}
    for row in stages.values():
        assert 0 < row["share"] < 1
        assert row["percent"] > 0
    assert sum(row["device_ms"] for row in stages.values()) <= 1e3 * told["summary"]["wall_s"]
    parts = {part["name"]: part["bytes"] for part in told["memory"]["parts"]}
    assert parts["student weights"] > 0
    assert told["memory"]["resident_bytes"] > 1 << 20

    assert main([*words, "--memory"]) == 0
    table = capsys.readouterr().out
    assert "% of floor" in table and "wall ms" in table
    assert "arenas, local ring" in table and "resident memory" in table


def test_memory_counts_the_tensors_that_are_there(tiny_workload: Workload) -> None:
    with open_subject(tiny_workload, BenchOptions(device="cpu", threads=1)) as subject:
        arenas = subject.info.cache_bytes
        parts = {part.name: part.nbytes for part in subject.memory().parts}
        assert parts["arenas, context slots"] + parts["arenas, local ring"] == arenas
        frames, context = subject.config.arena_frames, subject.config.cache.context_frames
        assert parts["arenas, context slots"] * frames == arenas * context
        table = memory_table(subject.config, subject.info, model=None, film_bytes=0, queue_chunks=2)
        assert table.allocated is None
        assert "graphs and static buffers" not in {part.name for part in table.parts}


@pytest.mark.slow
def test_summary_and_memory_of_a_film(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ceilings, "_BUDGET_S", 0.001)
    words = ["profile", "--device", "cpu", "--threads", "1", "--summary", "--memory", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    stages = {row["stage"]: row for row in told["summary"]["stages"]}
    assert stages["step"]["n"] == 28
    assert stages["decode"]["n"] == 7
    assert 0 < stages["decode"]["percent"] <= 150
    parts = {part["name"]: part["bytes"] for part in told["memory"]["parts"]}
    assert parts["frames that may wait to be read"] == 2 * 12 * 96 * 160 * 3
    assert parts["decoder and encoder weights"] > parts["text encoder weights"] > 0


VERBOSE = """\
onednn_verbose,v1,info,oneDNN v3.7.1 (commit 8d)
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx2,undef,src:f32,,,,4x8:8x16,0.25
onednn_verbose,v1,primitive,create:cache_miss,cpu,matmul,brg_matmul:avx2,undef,src:f32,,,,4x8,9.0
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx2,undef,src:f32,,,,4x8:8x16,0.5
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,,,4x8,1.5
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,,,4x8,cut off
"""


def test_calls_of_onednn_are_added_up_by_kind() -> None:
    totals = add_up(VERBOSE.splitlines())
    assert [(row.kind, row.kernel, row.shape, row.n, row.ms) for row in totals] == [
        ("reorder", "jit:uni", "4x8", 1, 1.5),
        ("matmul", "brg_matmul:avx2", "4x8:8x16", 2, 0.75),
    ]
    lines = onednn_lines(totals)
    assert lines[0].startswith("oneDNN: 3 calls, 2.2 ms")
    assert lines[2].split()[:3] == ["1.50", "66.7", "1"]
    assert "nothing" in onednn_lines([])[0]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_onednn_is_heard_and_other_output_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with onednn_calls() as calls:
        sys.stdout.write("meanwhile\n")
        torch.nn.functional.conv2d(torch.ones(3, 96, 24, 40), torch.ones(96, 96, 3, 3))
    sys.stdout.write("after\n")
    assert [row.kind for row in calls].count("convolution") == 1
    assert capfd.readouterr().out.split() == ["meanwhile", "after"]


@pytest.mark.parametrize(
    "words", [["--onednn", "--device", "cuda"], ["--shots", "0"], ["--workload", "kernels-256"]]
)
def test_mistakes_exit_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *words]) == 2
    assert "error:" in capsys.readouterr().err
