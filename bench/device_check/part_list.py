"""The parts of the check, in the order of what they tell.

A call may end early, so the first three minutes give a build and the frames per second that
everything else is about, each beside its own correctness check.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from .part import ROOT, Part
from .process import PYTHON

GLUON_TESTS = "tests/kernels/test_triton_hopper.py"
TEST_LIMIT_S = 60
"""For one test: less than any part with tests, so that it is the test that is ended and named."""

_BENCHES_APART = (
    "bench_dual_attention", "bench_linear", "bench_fp8_linear", "bench_triton_hopper",
    "bench_chunk_decoder", "bench_wave_linear",
)  # fmt: skip
_STUDENT = ("--workload", "student-1.3b")
_ONCE = ("--quick", "--repeats", "1")
_NONE: Mapping[str, str] = MappingProxyType({})


def parts() -> list[Part]:
    """Return all parts; the numbers are limits in seconds, about twice what each should take."""
    return [
        Part(
            name="build", command=[PYTHON, "bench/device_check/build.py"], limit_s=100, vital=True
        ),
        _film("first-exact", "exact", _ONCE, 80),
        _film("first-fp8-tiny", "fp8-tiny", _ONCE, 60),
        _bench("first-baseline", (*_STUDENT, *_ONCE, "--baseline"), 80),
        _bench("first-cudnn", (*_STUDENT, *_ONCE, "--kernels", "triton+cudnn"), 45),
        # Its warps wait for one another, for ever if there is a mistake: not before the others.
        _bench("first-gluon", (*_STUDENT, *_ONCE, "--kernels", "triton+gluon"), 45),
        _tests("tests-loop", gpu_tests(), 90),
        _tests("tests-kernels", ["tests/kernels", "--ignore", GLUON_TESTS], 110),
        _tests("tests-gluon", [GLUON_TESTS], 100),
        _micro("bench-attention", ["bench/bench_dual_attention.py"], 60),
        _micro("bench-products", ["bench/bench_linear.py", "bench/bench_fp8_linear.py"], 60),
        _micro("bench-gluon", ["bench/bench_triton_hopper.py"], 90),
        # Programs wait for one another here too.
        _micro("bench-waves", ["bench/bench_wave_linear.py"], 60),
        _bench("student-waves", (*_STUDENT, *_ONCE, "--kernels", "triton+waves"), 45),
        _micro("bench-decoders", ["bench/bench_chunk_decoder.py"], 60),
        # By name, and past the caption's keys and the context: passes of a shot's fuller chunks.
        _counters("counters-attention", "attention|fmha|flash", skip=1500, count=6),
        _counters("counters-products", "gemm|nvjet|cutlass|xmma", skip=400, count=12),
        _film("film-exact", "exact", ("--baseline", "--roofline", "--repeats", "1"), 160),
        _film("film-exact-gluon", "exact", (*_ONCE, "--kernels", "triton+gluon"), 80),
        _film("film-exact-cudnn", "exact", (*_ONCE, "--kernels", "triton+cudnn"), 80),
        _film("film-exact-measured", "exact", _ONCE, 90, {"SHOTSTREAM_CONVOLUTIONS": "measured"}),
        _film("film-fp8-tiny", "fp8-tiny", ("--roofline", "--repeats", "1"), 140),
        _film("film-fast", "fast", _ONCE, 80),
        _film("film-tiny", "tiny", _ONCE, 80),
        _film("film-fp8", "fp8", _ONCE, 80),
        _film("film-fp8-attention", "fp8-attention", _ONCE, 80),
        _film("film-fp8-all-gluon", "fp8-all", (*_ONCE, "--kernels", "triton+gluon"), 80),
        _film("film-fp8-fused-gluon", "fp8-fused", (*_ONCE, "--kernels", "triton+gluon"), 80),
        _film("film-fp8-keys", "fp8-keys", _ONCE, 80),
        _film("film-two-step", "two-step", _ONCE, 80),
        _bench("layout-0-21", ("--workload", "film-480p-0-21", *_ONCE), 60),
        _bench("layout-0-21-tiny", ("--workload", "film-480p-0-21", *_ONCE, "--profile", "tiny"),
               60),
        _bench("student-0-21", ("--workload", "student-1.3b-0-21", *_ONCE, "--baseline"), 60),
        _bench("student-exact", (*_STUDENT, "--baseline", "--roofline", "--repeats", "2"), 120),
        _bench("student-fp8", (*_STUDENT, "--profile", "fp8", "--quick", "--roofline"), 60),
        _bench("student-eager", (*_STUDENT, *_ONCE, "--backend", "eager"), 60),
        _micro("bench-rest", _other_benches(), 120),
        Part(
            name="sanitizer",
            # Without torch's memory pool, so that every tensor has an end that can be overrun.
            command=["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer",
                     "--error-exitcode", "9", PYTHON, "-m", "pytest", "-v", "-x", "-m", "gpu",
                     "-k", "adaln or append or renoise or noise or norm or pack or silu",
                     "tests/kernels"],
            limit_s=200,
            needs="compute-sanitizer",
        ),
    ]  # fmt: skip


def gpu_tests() -> list[str]:
    """Return the test files outside ``tests/kernels`` with anything for a GPU.

    Named one by one: a machine with a GPU need not have what the other tests import.
    """
    marks = ("mark.gpu", "mark.tensorrt")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(path.relative_to(ROOT))
        for path in files
        if "kernels" not in path.parts and any(mark in path.read_text("utf-8") for mark in marks)
    ]


def _other_benches() -> list[str]:
    files = sorted((ROOT / "bench").glob("bench_*.py"))
    return [f"bench/{path.name}" for path in files if path.stem not in _BENCHES_APART]


def _tests(name: str, where: list[str], limit_s: float) -> Part:
    """The tests that need a GPU, side by side where that is possible: they mostly compile."""
    workers = ["-n", "6"] if importlib.util.find_spec("xdist") else []
    command = [
        PYTHON, "-m", "pytest", "-m", "gpu or tensorrt", "-v", "--maxfail", "20",
        # In a thread, for a signal is not handled while a kernel is waited for.
        "--timeout", str(TEST_LIMIT_S), "--timeout-method", "thread",
    ]  # fmt: skip
    return Part(name=name, command=[*command, *workers, *where], limit_s=limit_s)


def _micro(name: str, where: list[str], limit_s: float) -> Part:
    command = [
        PYTHON, "-m", "pytest", "-v", "--device", "cuda", "--workload", "kernels-1536", "--dtype",
        "bfloat16", "--roofline", "--records", "{records}",
    ]  # fmt: skip
    return Part(name=name, command=[*command, *where], limit_s=limit_s)


def _bench(
    name: str, arguments: tuple[str, ...], limit_s: float, variables: Mapping[str, str] = _NONE
) -> Part:
    command = [PYTHON, "-m", "shotstream_rt.bench", "--device", "cuda", "--dtype", "bfloat16",
               "--out", "{records}"]  # fmt: skip
    if variables:
        command = ["env", *(f"{key}={value}" for key, value in variables.items()), *command]
    return Part(name=name, command=[*command, *arguments], limit_s=limit_s)


def _film(
    name: str, profile: str, arguments: tuple[str, ...], limit_s: float,
    variables: Mapping[str, str] = _NONE,
) -> Part:  # fmt: skip
    workload = ("--workload", "film-480p", "--profile", profile)
    return _bench(name, (*workload, *arguments), limit_s, variables)


def _counters(name: str, kernels: str, *, skip: int, count: int) -> Part:
    command = [
        "ncu", "--profile-from-start", "off", "--clock-control", "none",
        "--kernel-name", f"regex:{kernels}", "--launch-skip", str(skip),
        "--launch-count", str(count), "--section", "SpeedOfLight", "--section", "Occupancy",
        "--section", "LaunchStats", "--section", "ComputeWorkloadAnalysis",
        PYTHON, "-m", "shotstream_rt.bench", "profile", "--workload", "student-1.3b", "--device",
        "cuda", "--dtype", "bfloat16", "--backend", "eager",
    ]  # fmt: skip
    return Part(name=name, command=command, limit_s=90, needs="ncu")
