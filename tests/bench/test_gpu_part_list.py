"""The parts of the GPU check: what is in the list, in which order, and how it is called."""

from __future__ import annotations

from device_check import gpu
from device_check.part_list import TEST_LIMIT_S, gpu_tests, parts

from shotstream_rt.bench.measure_options import measure_parser
from shotstream_rt.bench.profile_run import profile_parser
from shotstream_rt.bench.workloads import bundled_workloads
from shotstream_rt.profiles import PROFILES

from .gpu_parts import ROOT


def test_figures_come_before_everything_else() -> None:
    names = [part.name for part in parts()]
    assert names[:6] == [
        "build", "first-exact", "first-fp8-tiny", "first-baseline", "first-cudnn", "first-gluon",
    ]  # fmt: skip
    order = ["tests-loop", "tests-kernels", "bench-attention", "bench-products", "bench-gluon",
             "bench-decoders", "counters-attention", "film-exact", "film-fp8-tiny", "film-fast",
             "film-tiny", "layout-0-21", "sanitizer"]  # fmt: skip
    assert sorted(order, key=names.index) == order
    assert names[-1] == "sanitizer"
    assert len(set(names)) == len(names)
    assert [part.name for part in parts() if part.vital] == ["build"]


def test_the_first_figures_fit_a_short_call() -> None:
    """What has to be there after a call of 330 s, at half of each limit."""
    first = {part.name: part.limit_s for part in parts()[:6]}
    assert sum(first.values()) / 2 < 330 - gpu.ANSWER_S
    assert sum(first[name] for name in ("build", "first-exact", "first-fp8-tiny")) / 2 <= 180


def test_every_profile_is_measured_as_a_film() -> None:
    measured = {
        part.command[part.command.index("--profile") + 1]
        for part in parts()
        if "film-480p" in part.command
    }
    assert measured == set(PROFILES)


def test_every_bench_file_is_run_once() -> None:
    run = [word for part in parts() for word in part.command if word.startswith("bench/bench_")]
    assert sorted(run) == sorted(f"bench/{path.name}" for path in ROOT.glob("bench/bench_*.py"))


def test_gpu_tests_are_found_by_their_marks() -> None:
    found = gpu_tests()
    assert "tests/backends/test_cuda_graph.py" in found
    assert not [name for name in found if name.startswith("tests/kernels")]
    assert all((ROOT / name).is_file() for name in found)


def test_commands_are_called_as_they_can_be() -> None:
    for part in parts():
        command = list(part.command)
        if "profile" in command:
            asked = profile_parser().parse_args(command[command.index("profile") + 1 :])
            assert asked.workload in bundled_workloads()
            assert "--kernel-name" in command
        elif "shotstream_rt.bench" in command:
            asked = measure_parser().parse_args(command[command.index("shotstream_rt.bench") + 1 :])
            assert asked.workload in bundled_workloads()
            assert asked.profile in PROFILES
            assert asked.out == "{records}"
        elif "--timeout" in command:
            assert "-v" in command
            assert command[command.index("--timeout-method") + 1] == "thread"
            assert part.limit_s > TEST_LIMIT_S
