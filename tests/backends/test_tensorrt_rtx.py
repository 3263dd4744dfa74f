"""TensorRT-RTX: what the runner does with it alone, on a stub, and how far the library goes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt import env
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.backends.tensorrt import TensorRtRunner, choose_plans
from shotstream_rt.cli import main
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import BackendUnavailableError, DeviceError, ManifestError
from shotstream_rt.export.build import build_plans
from shotstream_rt.export.library import Library
from shotstream_rt.export.manifest import MANIFEST_FILE, EngineManifest

pytest.importorskip("onnx", reason="the stub runs graphs")
pytest.importorskip("onnxruntime", reason="the stub runs graphs")

from tensorrt_stub import CARD, RtxContext, RtxStub, Stub, opened, with_plans

CPU = torch.device("cpu")


@pytest.fixture
def folder(
    engines: Callable[..., Path], policies: Mapping[str, StreamConfig], tmp_path: Path
) -> Path:
    source = engines(policies["window"], torch.float32, "segments")
    return with_plans(source, tmp_path / "engines", "rtx", RtxStub.__version__)


@pytest.fixture
def asked(
    requested: Callable[..., BackendRequest], policies: Mapping[str, StreamConfig], folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> BackendRequest:  # fmt: skip
    monkeypatch.setenv(env.CACHE_DIR, str(folder.parent / "cache"))
    return requested(policies["window"], "reference", engines=folder)


def test_a_film_is_the_oracles_and_what_was_compiled_is_kept(
    asked: BackendRequest, folder: Path, play: Callable[[StreamConfig, StudentBackend], Tensor],
    requested: Callable[..., BackendRequest], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config = asked.config
    wanted = play(config, EagerBackend(requested(config, "reference").student(), config))
    got = play(config, opened(asked, RtxStub()))
    assert float((got - wanted).norm() / wanted.norm()) <= 1e-5
    (kept,) = (folder.parent / "cache" / "tensorrt").iterdir()
    assert kept.name == "rtx-8.8.8.cache"
    compiled = int(kept.read_bytes().removeprefix(b"stub "))
    assert compiled > 7
    opened(asked, RtxStub())
    assert int(kept.read_bytes().removeprefix(b"stub ")) > compiled, "a warm start began anew"
    kept.write_bytes(b"of another driver")
    with caplog.at_level(logging.INFO, "shotstream_rt.backends"):
        opened(asked, RtxStub())
    assert "are of another GPU or version" in caplog.text
    assert kept.read_bytes().startswith(b"stub "), "a file of no use was not made anew"


def test_a_plan_that_cannot_be_captured(
    asked: BackendRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RtxContext, "capturable", False)
    with pytest.raises(BackendUnavailableError, match=r"cannot be captured as a CUDA graph; build"):
        opened(asked, RtxStub())


def test_plans_of_another_version_or_gpu(asked: BackendRequest, folder: Path) -> None:
    manifest = EngineManifest.read(folder)

    def load(name: str) -> Library:
        return Library(name, RtxStub())

    plans, library = choose_plans(manifest, folder, CARD, load)
    assert library.title == "TensorRT-RTX" and len(plans) == 7
    data = json.loads((folder / MANIFEST_FILE).read_text())
    for plan in data["plans"]:
        plan["version"] = "1.0"
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(
        ManifestError, match=r"plans of TensorRT-RTX 1\.0, wanted 8\.8\.8, .*--library rtx --target"
    ):
        opened(asked, RtxStub())
    with pytest.raises(ManifestError, match=r"got plans for sm_89, wanted sm_90; .*sm_90"):
        choose_plans(manifest, folder, (9, 0), load)


def test_plans_of_either_library_serve(folder: Path) -> None:
    """Of two sets in one folder, the one whose version is here is taken."""
    manifest = EngineManifest.read(folder)
    data = json.loads((folder / MANIFEST_FILE).read_text())
    other = [{**plan, "library": "tensorrt", "version": "1.0"} for plan in data["plans"]]
    data["plans"] = other + data["plans"]
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    stubs = {"rtx": RtxStub(), "tensorrt": Stub()}
    both = EngineManifest.read(folder)
    plans, library = choose_plans(both, folder, CARD, lambda name: Library(name, stubs[name]))
    assert library.name == "rtx" and tuple(plans.values()) == manifest.plans


needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)


@needs_rtx
def test_the_library_has_what_the_stub_has() -> None:
    rtx = importlib.import_module("tensorrt_rtx")
    names = ["ILogger", "Runtime", "IRuntimeCache", "TensorIOMode.INPUT"]
    names += ["CudaGraphStrategy.DISABLED", "ExecutionContextAllocationStrategy.USER_MANAGED"]
    names += [f"ICudaEngine.{name}" for name in (
        "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_shape",
        "get_tensor_dtype", "device_memory_size_v2", "create_execution_context",
        "create_runtime_config",
    )]  # fmt: skip
    names += [f"IRuntimeConfig.{name}" for name in (
        "create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy",
        "set_execution_context_allocation_strategy",
    )]  # fmt: skip
    names += ["IRuntimeCache.serialize", "IRuntimeCache.deserialize"]
    names += [f"IExecutionContext.{name}" for name in (
        "set_device_memory", "set_tensor_address", "execute_async_v3", "is_stream_capturable",
    )]  # fmt: skip
    for name in names:
        found: object = rtx
        for part in name.split("."):
            found = getattr(found, part)


@needs_rtx
def test_the_library_builds_and_says_why_it_does_not_run_here(
    engines: Callable[..., Path], policies: Mapping[str, StreamConfig], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = engines(policies["no-context"], torch.float32, "segments")
    own, library = tmp_path / "engines", Library.load("rtx")
    own.mkdir()
    for path in source.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    words = ["export", "build", str(own), "--library", "rtx", "--target", "sm_90"]
    assert main(words) == 2
    assert "TensorRT-RTX builds no engines for sm_90 (H100, H200)" in capsys.readouterr().err
    manifest = build_plans(own, library, ["sm_89"])
    plans, chosen = choose_plans(manifest, own, CARD, Library.load)
    assert chosen.version == library.version and len(plans) == 4
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: what follows is what the library says without one")
    entries = {entry.name: entry for entry in manifest.passes}
    blobs = {name: manifest.read_file(own, plan) for name, plan in plans.items()}
    with pytest.raises(DeviceError, match=r"TensorRT-RTX: chunk_\w+: the plan cannot be loaded: "):
        TensorRtRunner(chosen, blobs, entries, CPU, tmp_path / "cache")
