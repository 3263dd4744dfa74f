"""The TensorRT runner against a stub of the library that computes at the addresses it is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt import Session
from shotstream_rt.backends import registry, tensorrt
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.backends.tensorrt import TensorRtRunner, open_plans, unavailable_reason
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import (
    BackendUnavailableError,
    DeviceError,
    ExportError,
    ManifestError,
)
from shotstream_rt.export.library import Library
from shotstream_rt.export.manifest import MANIFEST_FILE, EngineManifest
from shotstream_rt.loading.backend_request import stream_config
from shotstream_rt.loading.layouts import available_models

pytest.importorskip("onnx", reason="the stub runs graphs")
pytest.importorskip("onnxruntime", reason="the stub runs graphs")

from tensorrt_stub import CARD, SCRATCH, Context, Stub, opened, with_plans

CPU = torch.device("cpu")


@pytest.fixture
def folder(
    engines: Callable[..., Path], policies: Mapping[str, StreamConfig], tmp_path: Path
) -> Path:
    return with_plans(engines(policies["window"], torch.float32, "segments"), tmp_path / "engines")


@pytest.fixture
def asked(
    requested: Callable[..., BackendRequest], policies: Mapping[str, StreamConfig], folder: Path
) -> BackendRequest:
    return requested(policies["window"], "reference", engines=folder)


def test_a_film_through_plans_is_the_oracles(
    asked: BackendRequest, play: Callable[[StreamConfig, StudentBackend], Tensor],
    requested: Callable[..., BackendRequest],
) -> None:  # fmt: skip
    config = asked.config
    wanted = play(config, EagerBackend(requested(config, "reference").student(), config))
    got = play(config, opened(asked, Stub()))
    assert float((got - wanted).norm() / wanted.norm()) <= 1e-5


def test_every_captured_call_has_a_context_and_all_share_one_scratch(
    asked: BackendRequest, folder: Path
) -> None:
    stub, manifest = Stub(), EngineManifest.read(folder)
    entries = {entry.name: entry for entry in manifest.passes}
    blobs = {entry.name: manifest.read_file(folder, entry) for entry in manifest.passes}
    runner = TensorRtRunner(Library("tensorrt", stub), blobs, entries, CPU, folder / "cache")
    (engine,) = (one for one in stub.engines if "qkv" in one.shapes and one.shapes["x"][1][1] == 12)
    entry = entries["chunk_project"]
    inputs = {port.name: torch.rand([int(side) for side in port.shape]) for port in entry.inputs}
    qkv = torch.empty([int(side) for side in entry.outputs[0].shape])
    capture = runner.film(lambda function: (function(), function)[1])

    def twice() -> None:
        for _ in range(2):
            runner.run("chunk_project", inputs, {"qkv": qkv})

    twice()
    assert [context.calls for context in engine.contexts] == [2], "one while nothing is captured"
    capture(twice)
    assert [context.calls for context in engine.contexts] == [2, 1, 1]
    names = [port.name for port in (*entry.inputs, *entry.outputs)]
    for context in engine.contexts[1:]:
        assert context.bound == names, "every input once, in the manifest's order"
        assert context.addresses["x"] == inputs["x"].data_ptr()
    assert len({context.scratch for context in engine.contexts}) == 1
    assert engine.contexts[0].scratch is not None and engine.contexts[0].scratch[1] == SCRATCH
    runner.film(lambda function: function)
    runner.run("chunk_project", inputs, {"qkv": qkv})
    assert engine.contexts[-1].scratch != engine.contexts[0].scratch, "films share no scratch"


def test_a_plan_that_computes_something_else(
    asked: BackendRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TensorRtRunner.run

    def wrong(
        self: TensorRtRunner, name: str, inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        run(self, name, inputs, outputs)
        if name == "chunk_rest1":
            outputs["q"].add_(0.1)

    monkeypatch.setattr(TensorRtRunner, "run", wrong)
    with pytest.raises(BackendUnavailableError, match=r"chunk_rest1 are .* away .* at most 1e-04"):
        opened(asked, Stub())


@pytest.fixture
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """A process in which TensorRT is the stub, and the CPU is a GPU that it builds for."""
    stub = Stub()

    def by_calling(device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]]:
        def record(function: Callable[[], None]) -> Callable[[], None]:
            with torch.inference_mode():
                function()
            return function

        return record

    monkeypatch.setattr(tensorrt, "unavailable_reason", lambda device: None)
    monkeypatch.setattr(tensorrt, "GraphCapture", by_calling)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: CARD)
    monkeypatch.setattr(Library, "load", lambda name: Library(name, stub))
    return stub


@pytest.mark.slow
@pytest.mark.skipif("nano" not in available_models(), reason="no nano weights in this checkout")
def test_a_session_opens_on_plans_that_compute_what_eager_does_alone(
    on_a_card: Stub, engines: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stream_config("nano")
    plans = with_plans(engines(config, torch.float32, "segments"), tmp_path / "engines")

    def opened() -> Session:
        return Session.open(
            "nano", device="cpu", backend="tensorrt", kernels="torch", engines=plans, threads=1
        )

    with opened() as session:
        assert session.stats["backend"] == "tensorrt"
        session.cut("wide shot of a red cat on a beach", chunks=1)
        assert len(next(session.chunks()).pixels) == 9
    assert on_a_card.engines
    execute = Context.execute_async_v3

    def drifting(context: Context, stream: int) -> bool:
        """Bind a wrong number: the head's offset."""
        if "patches" in context.engine.shapes:
            wrong = torch.full([config.model.dim], 1e-2)
            context.addresses["offset"] = wrong.data_ptr()
        return execute(context, stream)

    monkeypatch.setattr(Context, "execute_async_v3", drifting)
    with pytest.raises(
        BackendUnavailableError, match=r"chunk_head are \d\.\de[+-]\d\d away .* at most 1e-04"
    ):
        opened()


def changed(folder: Path, **change: object) -> None:
    """Change what the manifest says of every plan."""
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    for plan in data["plans"]:
        plan.update(change)
    path.write_text(json.dumps(data))


def test_plans_that_do_not_fit(asked: BackendRequest, folder: Path) -> None:
    stub = Stub()
    with pytest.raises(ManifestError, match=r"got plans for sm_89, wanted sm_120; .*export build"):
        opened(asked, stub, (12, 0))
    original = (folder / MANIFEST_FILE).read_text()
    changed(folder, version="1.0")
    with pytest.raises(ManifestError, match=r"plans of TensorRT 1\.0, wanted 9\.9\.9, .*build"):
        opened(asked, stub)
    changed(folder, version=Stub.__version__, sha256="0" * 64)
    with pytest.raises(ManifestError, match=r"got sha256 .* the file was changed.*export build"):
        opened(asked, stub)
    data = json.loads(original)
    data["plans"].pop()
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(ManifestError, match="got no plan of context_rest2"):
        opened(asked, stub)
    data["plans"] = []
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(ManifestError, match="got no plans, wanted plans for sm_89"):
        opened(asked, stub)
    assert not stub.engines, "a plan reached the library"

    def absent(name: str) -> Library:
        raise ExportError("TensorRT is not installed; pip install tensorrt")

    (folder / MANIFEST_FILE).write_text(original)
    with pytest.raises(ManifestError, match="not installed; pip install"):
        open_plans(asked, CARD, absent)


def test_other_weights_than_were_exported(asked: BackendRequest, folder: Path) -> None:
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    (bound,) = (one for one in data["tensors"] if (one["name"], one["layer"]) == ("qkv.weight", 1))
    assert bound["sources"] == [f"blocks.1.self_attn.{name}.weight" for name in "qkv"]
    bound["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    stub = Stub()
    with pytest.raises(ManifestError, match=r"layer 1, qkv.weight: got sha256 .*other weights"):
        opened(asked, stub)
    assert not stub.engines


def test_a_plan_with_other_inputs_or_that_does_not_load(
    asked: BackendRequest, folder: Path
) -> None:
    manifest = EngineManifest.read(folder)
    entries = {entry.name: entry for entry in manifest.passes}
    blobs = {entry.name: manifest.read_file(folder, entry) for entry in manifest.passes}
    library = Library("tensorrt", Stub())
    swapped = {**blobs, "chunk_rest2": blobs["context_rest2"]}
    with pytest.raises(ManifestError, match=r"plan of chunk_rest2: attended: got .*says"):
        TensorRtRunner(library, swapped, entries, CPU, folder / "cache")
    with pytest.raises(DeviceError, match="chunk_head: the plan cannot be loaded: it is broken"):
        TensorRtRunner(library, {**blobs, "chunk_head": b"broken"}, entries, CPU, folder / "cache")


def test_where_it_cannot_run(asked: BackendRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match="an NVIDIA GPU, not on cpu"):
        registry.resolve("tensorrt", asked)
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    found = {"tensorrt_rtx": object(), "tensorrt": None}
    monkeypatch.setattr("importlib.util.find_spec", found.get)
    assert "no engines for sm_90 (H100, H200)" in str(unavailable_reason(cuda))
    found["tensorrt_rtx"] = None
    assert str(unavailable_reason(cuda)).count("is not installed; pip install") == 2
    found["tensorrt"] = object()
    assert unavailable_reason(cuda) is None
