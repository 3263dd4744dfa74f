"""Run the same launches through Triton and through a bundle, on the driver that only remembers.

Writes one JSON object per launch: what each asked of the driver, and whether both had the same
machine code. Run by ``test_aot_driver.py``, with the stub first on the library path.
"""

from __future__ import annotations

import ctypes
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver as TritonDriver

from shotstream_rt.errors import DeviceError
from shotstream_rt.kernels.aot.driver import CudaDriver, Launch, TensorMapRequest
from shotstream_rt.kernels.aot.launcher import BundleLauncher
from shotstream_rt.kernels.aot.packing import ParameterLayout
from shotstream_rt.kernels.gpu import (
    dual_attention,
    dual_attention_hopper,
    hopper_launch,
    qk_norm,
    renoise,
)
from shotstream_rt.kernels.launch import use_launcher

CAPABILITY = 90
STUB = ctypes.CDLL("libcuda.so.1")


class HostTriton(TritonDriver):
    """Triton's own driver, told that host tensors lie on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0
        self.get_device_capability = lambda device: divmod(CAPABILITY, 10)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", CAPABILITY, 32)


class Recorder:
    """Keeps launches instead of running them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def launch(self, *call: Any) -> None:
        self.calls.append(call)


def seen() -> dict[str, Any]:
    values, shape, limit = (ctypes.c_ubyte * 8192)(), (ctypes.c_uint * 8)(), ctypes.c_int()
    count = STUB.stub_seen(values, shape, ctypes.byref(limit))
    return {"parameters": bytes(values[:count]).hex(), "shape": list(shape), "limit": limit.value}


def calls() -> list[tuple[Any, ...]]:
    """Launches of the product's shapes, made by the kernels' own wrappers."""
    recorder = Recorder()
    use_launcher(recorder)
    qkv = torch.empty(4680, 3 * 1536, dtype=torch.bfloat16)
    qk_norm.rms_norm(qkv[:, 1536:3072], torch.empty(1536, dtype=torch.bfloat16), 1e-6)
    latents = torch.empty(1, 3, 16, 60, 104, dtype=torch.bfloat16)
    sigmas = torch.empty(5, dtype=torch.float64)
    renoise.advance(latents, latents.clone(), latents.clone(), sigmas, 2)
    arena = torch.empty(1, 42120, 12, 128, dtype=torch.bfloat16)
    with mock.patch.object(dual_attention, "capability_of", return_value=CAPABILITY):
        dual_attention.dual_attention(arena[:, :4680], arena, arena, 128**-0.5)
    with mock.patch.object(hopper_launch, "_multiprocessors", return_value=132):
        dual_attention_hopper.dual_attention(arena[:, :4680], arena, arena, 128**-0.5)
    use_launcher(None)
    return recorder.calls


def main(folder: Path) -> None:
    triton.runtime.driver.set_active(HostTriton())
    driver = CudaDriver()
    driver.capability = lambda device: CAPABILITY  # type: ignore[method-assign]
    bundle = BundleLauncher(folder, driver)
    stream = SimpleNamespace(cuda_stream=0)
    with (
        mock.patch("torch.cuda.current_stream", return_value=stream),
        mock.patch("torch.cuda.device", return_value=nullcontext()),
    ):
        for kernel, grid, arguments, named in calls():
            symbol = kernel.fn.__name__
            entry = next(
                e
                for e in bundle.bundle.manifest.kernels
                if (e.symbol, e.capability) == (symbol, CAPABILITY)
            )
            sizes = ParameterLayout.of(entry.arguments).sizes
            expected = (ctypes.c_int * len(sizes))(*sizes)
            STUB.stub_expect(len(sizes), expected)
            compiled = kernel[grid](*arguments, **named)
            theirs = seen()
            STUB.stub_expect(len(sizes), expected)
            bundle.launch(kernel, grid, arguments, named)
            report = {
                "kernel": symbol,
                "triton": theirs,
                "bundle": seen(),
                "shared_bytes": entry.shared_bytes,
                "same_code": compiled.asm["cubin"] == (folder / entry.file).read_bytes(),
            }
            sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.write(json.dumps(plain_calls(driver)) + "\n")


def plain_calls(driver: CudaDriver) -> dict[str, Any]:
    """Calls of the driver that none of the launches makes."""
    STUB.stub_expect(0, (ctypes.c_int * 1)(0))
    host = torch.device("cpu")
    every = Launch((4, 1, 1), 64, 0, cluster=2, cooperative=True, overlapped=True)
    driver.launch(driver.load(b"\x7fELF", "kernel", 0, host), every, 0, host)
    attributes = seen()["shape"][7]
    request = TensorMapRequest(64, (8, 16), (16, 1), True, 9, 2, 3, (8, 16))
    told = driver.tensor_map(request).hex()
    try:
        driver.load(b"none", "kernel", 0, host)
    except DeviceError as error:
        return {"attributes": attributes, "map": told, "refused": str(error)}
    raise AssertionError("the driver took what is no machine code")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
