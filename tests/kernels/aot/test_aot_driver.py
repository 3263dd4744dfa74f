"""The driver's calls: against Triton's own launcher without a GPU, and on one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("runs compiled kernels; the plain run does it", allow_module_level=True)

from shotstream_rt.kernels.aot.build import build
from shotstream_rt.kernels.gpu import dual_attention, frame_pack, qk_norm, renoise
from shotstream_rt.kernels.launch import open_bundle, use_launcher
from shotstream_rt.kernels.tuning import ARCHITECTURES

HERE = Path(__file__).parent
COMPILER = shutil.which("gcc")


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``libcuda.so.1`` that only remembers."""
    if COMPILER is None:
        pytest.skip("no C compiler for the stub of the driver")
    folder = tmp_path_factory.mktemp("driver")
    command = [COMPILER, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", HERE / "stub_driver.c"]
    subprocess.run([*command, "-ldl"], check=True)
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real driver is at hand")
def test_a_bundle_asks_of_the_driver_what_triton_asks(built: Path, stub: Path) -> None:
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(stub),
        "TRITON_LIBCUDA_PATH": str(stub),
        # The bundle is built without source lines.
        "TRITON_DISABLE_LINE_INFO": "1",
    }
    done = subprocess.run(
        [sys.executable, HERE / "compare_launchers.py", built],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *reports, plain = [json.loads(line) for line in done.stdout.splitlines()]
    # Cluster of 2, spread; both flags; ids as in stub_driver.c.
    assert plain["attributes"] == (4 * 16 + 2) + (5 * 16 + 1) + (6 * 16 + 1) + (2 * 16 + 1)
    # The third word holds what lies beyond the tensor (1: NaN), promotion and swizzle.
    assert bytes.fromhex(plain["map"])[16:24] == bytes([1, 0, 2, 0, 3, 0, 0, 0])
    assert plain["refused"] == (
        "CUDA could not load kernel: CUDA_ERROR_OF_THE_STUB: the stub says no (code 200)"
    )
    assert [report["kernel"] for report in reports] == [
        "_rms_norm_kernel", "_advance_kernel", "_attention_tma_kernel", "attention_kernel",
        "_merge_splits_kernel",
    ]  # fmt: skip
    for report in reports:
        assert report["same_code"], report["kernel"]
        assert report["bundle"]["parameters"] == report["triton"]["parameters"]
        assert report["bundle"]["shape"] == report["triton"]["shape"]
        needed = report["shared_bytes"] if report["shared_bytes"] > 48 * 1024 else 0
        assert report["bundle"]["limit"] == needed <= report["triton"]["limit"]


def seeded(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator).to(dtype).cuda()


def results() -> list[Any]:
    """Kernels through their wrappers, at the shapes they are built for."""
    qkv = seeded(4680, 3 * 1536)
    latents = [seeded(1, 3, 16, 60, 104) for _ in range(3)]
    sigmas = torch.linspace(1, 0, 5, dtype=torch.float64).cuda()
    heads = seeded(1, 42120, 12, 128)
    caption = seeded(1, 511, 12, 128)
    bias = seeded(511, dtype=torch.float32)
    return [
        qk_norm.rms_norm(qkv[:, 1536:3072], seeded(1536), 1e-6),
        *renoise.advance(*latents, sigmas, 1),
        frame_pack.frame_pack(seeded(12, 3, 480, 832, dtype=torch.float32)),
        dual_attention.dual_attention(heads[:, :4680], heads, heads.flip(1), 128**-0.5),
        dual_attention.dual_attention(heads[:, :4680], caption, caption, 128**-0.5, bias),
    ]


@pytest.mark.gpu
def test_a_bundle_gives_what_triton_gives(tmp_path: Path) -> None:
    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor not in ARCHITECTURES:
        pytest.skip(f"kernels are not built for sm_{major}{minor}")
    names = ("rms_norm", "advance", "frame_pack", "dual_attention", "cross_attention")
    folder = tmp_path / "bundle"
    assert build(folder, [(name, 10 * major + minor) for name in names], jobs=1) is not None
    compiled = results()
    try:
        open_bundle(folder)
        loaded = results()
        # The second pass replays what the first has loaded.
        again = results()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        static = seeded(4680, 1536)
        weight = seeded(1536)
        with torch.cuda.graph(graph):
            captured = qk_norm.rms_norm(static, weight, 1e-6)
        graph.replay()
        torch.cuda.synchronize()
        direct = qk_norm.rms_norm(static, weight, 1e-6)
    finally:
        use_launcher(None)
    for wanted, first, second in zip(compiled, loaded, again, strict=True):
        assert torch.equal(first, wanted)
        assert torch.equal(second, wanted)
    assert torch.equal(captured, direct)
