"""Launches from a bundle: which machine code, which parameters, and what is refused."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("runs compiled kernels; the plain run does it", allow_module_level=True)

from shotstream_rt.errors import (
    BackendUnavailableError,
    KernelUnavailableError,
    ManifestError,
)
from shotstream_rt.kernels import launch
from shotstream_rt.kernels.aot import launcher as launching
from shotstream_rt.kernels.aot.bundle import Bundle
from shotstream_rt.kernels.aot.driver import Launch, TensorMapRequest
from shotstream_rt.kernels.aot.launcher import BundleLauncher
from shotstream_rt.kernels.aot.manifest import BundleManifest, KernelEntry
from shotstream_rt.kernels.aot.packing import ParameterLayout
from shotstream_rt.kernels.aot.signature import Argument
from shotstream_rt.kernels.gpu import dual_attention, noise, qk_norm, renoise

WIDTH = 1536
WEIGHT = torch.ones(WIDTH, dtype=torch.bfloat16)


class FakeDriver:
    """Keeps what it is asked for; reads parameters as the real driver would."""

    def __init__(self, capability: int = 90) -> None:
        self.sm = capability
        self.loaded: list[tuple[bytes, str, int]] = []
        self.maps: list[TensorMapRequest] = []
        self.launches: list[tuple[Any, Launch, int]] = []
        self.sizes: Sequence[int] = ()
        self.parameters: list[bytes] = []

    def capability(self, device: torch.device) -> int:
        return self.sm

    def load(self, cubin: bytes, symbol: str, shared_bytes: int, device: torch.device) -> str:
        self.loaded.append((cubin, symbol, shared_bytes))
        return symbol

    def tensor_map(self, request: TensorMapRequest) -> bytes:
        self.maps.append(request)
        return bytes([len(self.maps)]) * 128

    def launch(self, function: Any, shape: Launch, parameters: int, device: torch.device) -> None:
        pointers = (ctypes.c_void_p * len(self.sizes)).from_address(parameters)
        self.parameters = [
            ctypes.string_at(pointer, size)
            for pointer, size in zip(pointers, self.sizes, strict=True)
            if pointer is not None
        ]
        self.launches.append((function, shape, parameters))


def rows(count: int = 6, width: int = WIDTH) -> torch.Tensor:
    return torch.zeros(count, width, dtype=torch.bfloat16)


def opened(folder: Path, name: str = "rms_norm", capability: int = 90) -> FakeDriver:
    driver = FakeDriver(capability)
    entries = BundleManifest.read(folder).kernels
    entry = next(e for e in entries if (e.name, e.capability) == (name, min(capability, 90)))
    driver.sizes = ParameterLayout.of(entry.arguments).sizes
    launch.use_launcher(BundleLauncher(folder, driver))
    return driver


def test_a_wrapper_runs_from_the_bundle(built: Path) -> None:
    driver = opened(built)
    x = torch.zeros(6, 3 * WIDTH, dtype=torch.bfloat16)[:, WIDTH : 2 * WIDTH]
    out = qk_norm.rms_norm(x, WEIGHT, 1e-6)
    (cubin, symbol, shared), (_, shape, _) = driver.loaded[0], driver.launches[0]
    entry = next(e for e in BundleManifest.read(built).kernels if e.name == "rms_norm")
    assert symbol == entry.symbol == "_rms_norm_kernel"
    assert shared == shape.shared_bytes
    assert cubin[:4] == b"\x7fELF"
    assert (shape.grid, shape.threads, shape.cluster) == ((6, 1, 1), 256, 1)
    assert not shape.cooperative
    assert not shape.overlapped
    pointers = [int.from_bytes(value, "little") for value in driver.parameters[:3]]
    assert pointers == [x.data_ptr(), WEIGHT.data_ptr(), out.data_ptr()]
    assert struct.unpack("<if", b"".join(driver.parameters[3:5])) == (
        3 * WIDTH, struct.unpack("<f", struct.pack("<f", 1e-6))[0],
    )  # fmt: skip
    assert driver.parameters[5:] == [bytes(8)] * 2


def test_machine_code_is_loaded_once(built: Path) -> None:
    driver = opened(built)
    for _ in range(3):
        qk_norm.rms_norm(rows(), WEIGHT, 1e-6)
    assert (len(driver.loaded), len(driver.launches)) == (1, 3)


def test_each_architecture_gets_its_own(built: Path) -> None:
    codes = []
    for capability in (80, 90):
        driver = opened(built, capability=capability)
        qk_norm.rms_norm(rows(), WEIGHT, 1e-6)
        codes.append(driver.loaded[0][0])
    assert codes[0] != codes[1]


def test_an_empty_grid_launches_nothing(built: Path) -> None:
    driver = opened(built)
    qk_norm.rms_norm(rows(0), WEIGHT, 1e-6)
    assert driver.launches == []


def test_descriptors_are_passed_as_maps(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = opened(built, "dual_attention")
    monkeypatch.setattr(dual_attention, "capability_of", lambda tensor: 90)
    arena = torch.empty(1, 2048, 12, 128, dtype=torch.bfloat16)
    for _ in range(2):
        out = dual_attention.dual_attention(arena[:, :300], arena[:, :1561], arena, 0.1)
    q, k, _ = driver.maps
    # Maps are told by what they describe: the second launch makes none.
    assert len(driver.maps) == 3
    assert (q.address, q.shape, q.strides) == (arena.data_ptr(), (300, WIDTH), (WIDTH, 1))
    assert (k.shape, k.box, k.element_bytes, k.swizzle) == ((1561, WIDTH), (128, 64), 2, 3)
    values = driver.parameters
    assert values[0] == b"\x01" * 128
    assert struct.unpack("<iiqq", b"".join(values[1:5])) == (300, WIDTH, WIDTH, 1)
    assert values[5] == b"\x02" * 128
    assert struct.unpack("<ii", b"".join(values[17:19])) == (300, 1561)
    assert int.from_bytes(values[16], "little") == out.data_ptr()
    shape = driver.launches[0][1]
    assert (shape.grid, shape.threads) == ((3, 12, 1), 256)
    assert shape.shared_bytes > 48 * 1024


@pytest.mark.parametrize("capability", [75, 100])
def test_another_architecture_is_refused(built: Path, capability: int) -> None:
    launch.use_launcher(BundleLauncher(built, FakeDriver(capability)))
    with pytest.raises(KernelUnavailableError, match=rf"got .*sm_{capability}, .*sm_80, sm_90"):
        qk_norm.rms_norm(rows(), WEIGHT, 1e-6)


def test_a_kernel_that_is_not_there_is_refused(built: Path) -> None:
    opened(built)
    address = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(KernelUnavailableError, match=r"noise\._normal_kernel is not in the bundle"):
        noise.addressed_normal(address, 0, 64)


@pytest.mark.parametrize(
    "x,weight,message",
    [
        (rows(width=1024), WEIGHT[:1024], r'constants: got .*"WIDTH": 1024.*wanted .*1536'),
        (rows().float(), WEIGHT, r"X: got \*fp32, wanted \*bf16"),
        (rows(), torch.ones(WIDTH + 1, dtype=torch.bfloat16)[1:], "WEIGHT: got no multiple of 16"),
        (torch.zeros(4, WIDTH + 3, dtype=torch.bfloat16)[:, :WIDTH], WEIGHT,
         "row_stride: got no multiple of 16, wanted one"),
    ],
    ids=["constant", "type", "address", "stride"],
)  # fmt: skip
def test_a_launch_it_was_not_built_for_is_refused(
    built: Path, x: torch.Tensor, weight: torch.Tensor, message: str
) -> None:
    driver = opened(built)
    with pytest.raises(KernelUnavailableError, match=message) as raised:
        qk_norm.rms_norm(x, weight, 1e-6)
    assert "nearest is rms_norm" in str(raised.value)
    assert "compile_cases.py" in str(raised.value)
    assert driver.launches == []


def test_other_options_are_refused(built: Path) -> None:
    opened(built)
    out = rows()
    with pytest.raises(KernelUnavailableError, match=r'options: got .*"num_warps": 2'):
        launch.run_kernel(
            qk_norm._rms_norm_kernel, (6,), rows(), WEIGHT, out, WIDTH, 1e-6,
            WIDTH=WIDTH, BLOCK=2048, num_warps=2,
        )  # fmt: skip


def test_fewer_promises_serve_better_arguments(built: Path) -> None:
    """What was compiled for any step serves step 1 and step 16."""
    driver = opened(built, "advance")
    latents = torch.zeros(1, 3, 16, 60, 104, dtype=torch.bfloat16)
    sigmas = torch.zeros(18, dtype=torch.float64)
    for step in (1, 16):
        renoise.advance(latents, latents, latents, sigmas, step)
        assert int.from_bytes(driver.parameters[6], "little") == step
    assert len(driver.loaded) == 1


def test_of_several_the_one_with_most_promises_runs(built: Path) -> None:
    bundle = Bundle(built)
    norm = next(e for e in bundle.manifest.kernels if (e.name, e.capability) == ("rms_norm", 90))
    argument = Argument(name="row_stride", type="i32", divisible=False)
    looser = KernelEntry(
        **{
            **{name: getattr(norm, name) for name in norm.__dataclass_fields__},
            "name": "looser",
            "arguments": (*norm.arguments[:3], argument, norm.arguments[4]),
        }
    )
    bundle.manifest = BundleManifest(
        triton="", ptxas={}, line_info=False, kernels=(looser, norm)
    )  # fmt: skip

    def found(described: tuple[Any, ...]) -> str:
        return bundle.find(norm.kernel, 90, described, norm.constants, norm.options).name

    assert found(norm.arguments) == "rms_norm"
    assert found(looser.arguments) == "looser"


def test_arguments_may_be_named(built: Path) -> None:
    driver = opened(built)
    x, out = rows(), rows()
    for weight in (WEIGHT, WEIGHT.clone()):
        launch.run_kernel(
            qk_norm._rms_norm_kernel, (6,), x, OUT=out, WEIGHT=weight, eps=1e-6, row_stride=WIDTH,
            WIDTH=WIDTH, BLOCK=2048, num_warps=8,
        )  # fmt: skip
        pointers = [int.from_bytes(value, "little") for value in driver.parameters[:3]]
        assert pointers == [x.data_ptr(), weight.data_ptr(), out.data_ptr()]
    assert len(driver.loaded) == 1


def test_a_stale_bundle_is_refused(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = opened(built)
    part = qk_norm.rms_normalise
    monkeypatch.setattr(part, "_src", part.src.replace("rsqrt", "sqrt"))
    with pytest.raises(ManifestError, match="built from another source of this kernel; build it"):
        qk_norm.rms_norm(rows(), WEIGHT, 1e-6)
    assert driver.loaded == []


def test_changed_machine_code_never_runs(bundle: Path) -> None:
    driver = opened(bundle)
    for path in bundle.glob("*/rms_norm-*.cubin"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ManifestError, match="changed since it was built"):
        qk_norm.rms_norm(rows(), WEIGHT, 1e-6)
    assert driver.loaded == []


def test_an_interpreted_kernel_is_refused(built: Path) -> None:
    def interpreted() -> None: ...

    interpreted.fn = interpreted  # type: ignore[attr-defined]
    bundle = BundleLauncher(built, FakeDriver())
    with pytest.raises(KernelUnavailableError, match="TRITON_INTERPRET"):
        bundle.launch(interpreted, (1,), (rows(),), {})


def test_scratch_memory_is_given(built: Path) -> None:
    driver = FakeDriver()
    bundle = BundleLauncher(built, driver)
    norm = next(
        e for e in bundle.bundle.manifest.kernels if (e.name, e.capability) == ("rms_norm", 90)
    )
    values = {name: getattr(norm, name) for name in norm.__dataclass_fields__}
    entry = KernelEntry(**{**values, "scratch_bytes": 64, "num_ctas": 2})
    layout = ParameterLayout.of(entry.arguments)
    driver.sizes = layout.sizes
    passed = launching._passed(entry)
    loaded = launching._Loaded(entry, "function", layout, passed, ())
    x = rows()
    bundle._start(loaded, (3,), (x, WEIGHT, x, WIDTH, 1e-6), x.device)
    assert int.from_bytes(driver.parameters[5], "little") != 0
    shape = driver.launches[0][1]
    assert (shape.grid, shape.cluster) == ((6, 1, 1), 2)


def test_the_variable_opens_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTSTREAM_KERNELS", str(tmp_path))
    launch._from_environment.cache_clear()
    try:
        with pytest.raises(ManifestError, match="cannot be read as JSON"):
            qk_norm.rms_norm(rows(), WEIGHT, 1e-6)
    finally:
        launch._from_environment.cache_clear()


def test_a_call_opens_a_bundle(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(launching, "CudaDriver", lambda: driver)
    launch.open_bundle(built)
    qk_norm.rms_norm(rows(), WEIGHT, 1e-6)
    assert len(driver.launches) == 1


def test_missing_bindings_are_named(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> FakeDriver:
        raise ImportError("No module named 'cuda'")

    monkeypatch.setattr(launching, "CudaDriver", missing)
    with pytest.raises(BackendUnavailableError, match=r"cuda-bindings.*shotstream_rt\[gpu\]"):
        launch.open_bundle(built)
