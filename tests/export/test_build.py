"""Plans: what a builder's log says, and what is refused. TensorRT-RTX builds without a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream_rt.cli import main
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ExportError, ManifestError
from shotstream_rt.export.build_log import BuildLog
from shotstream_rt.export.builder import Builder, check_plan
from shotstream_rt.export.library import Library
from shotstream_rt.export.manifest import EngineManifest

onnx = pytest.importorskip("onnx", reason="exports need onnx and onnxscript")
pytest.importorskip("onnxscript", reason="exports need onnx and onnxscript")

from shotstream_rt.export.exporter import export_graphs  # noqa: E402
from shotstream_rt.export.segment_graphs import segment_graphs  # noqa: E402

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)
CONFIG = StreamConfig(
    model=ModelConfig(
        dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32, text_len=8, latent_height=8,
        latent_width=8,
    ),
    cache=CacheConfig(context_frames=0),
    shot=ShotConfig(chunk_frames=2, shot_frames=8),
)  # fmt: skip

LIST = """Layers:
Name: norm, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,9,8], Datatype: BFloat16 }]
Name: __myl_FcAdd_1, LayerType: runtime_fusion, Inputs: [ { Name: b, Dimensions: [1,1,24], \
Datatype: Float }, { Name: h, Dimensions: [1,9,8], Datatype: BFloat16 }, { Name: w, Dimensions: \
[1,8,24], Datatype: BFloat16 }], Constants: [], Outputs: []
Name: p, LayerType: gemm, Inputs: [ { Name: r, Dimensions: [1,9,8], Datatype: FP8 }, { Name: w2, \
Dimensions: [1,8,24], Datatype: FP8 }], Constants: [ { Name: c, Dimensions: [1], Datatype: Float }]
"""
MEMORY = "Total Activation Memory: 4096 bytes"


def test_a_log_is_read() -> None:
    log = BuildLog.read(["other", MEMORY, LIST, "Unused Input: lengths"], "one")
    assert (log.launches, log.scratch_bytes, log.waits) == (3, 4096, 0)
    assert log.kinds == {"gemm": 1, "kgen": 1, "runtime_fusion": 1}
    assert log.gemm_types == {"BFloat16 x BFloat16": 1, "FP8 x FP8": 1}
    with pytest.raises(ExportError, match=r"dropped input\(s\) lengths; products multiply FP8"):
        check_plan("one", b"", log, "bfloat16", "exact")
    waiting = LIST + "Name: s, LayerType: signal, Inputs: []\n"
    with pytest.raises(ExportError, match="1 launches wait"):
        check_plan("head", b"", BuildLog.read([MEMORY, waiting], "h"), "bfloat16", "exact")


@pytest.mark.parametrize("messages", [[], [MEMORY], ["Layers:\n", MEMORY], [LIST]])
def test_a_log_that_does_not_say_what_was_built(messages: list[str]) -> None:
    with pytest.raises(ExportError, match=r"lists no layers|how much memory"):
        BuildLog.read(messages, "one")


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    yield Builder(Library.load("rtx"))


@pytest.fixture(scope="module")
def fp8_graph() -> bytes:
    """The graph of ``project`` on e4m3 numbers."""
    return next(
        made.blob
        for made in segment_graphs(CONFIG, torch.bfloat16, "fp8")
        if made.name == "chunk_project"
    )


@needs_rtx
def test_a_scale_that_is_an_input_is_noticed(builder: Builder, fp8_graph: bytes) -> None:
    blob, log = builder.build("chunk_project", fp8_graph, ["sm_89", "sm_120"], {})
    check_plan("chunk_project", blob, log, "bfloat16", "fp8")
    assert log.gemm_types == {"FP8 x FP8": 1} and log.launches == 3
    model = onnx.load_from_string(fp8_graph)
    one = next(node for node in model.graph.node if node.op_type == "QuantizeLinear").input[1]
    for constant in [item for item in model.graph.initializer if item.name == one]:
        model.graph.initializer.remove(constant)
    scale = onnx.helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, [])
    model.graph.input.append(scale)
    wrong, log = builder.build("wrong", model.SerializeToString(), ["sm_89", "sm_120"], {})
    with pytest.raises(ExportError, match=r"products multiply .*, wanted FP8"):
        check_plan("wrong", wrong, log, "bfloat16", "fp8")


@needs_rtx
def test_tf32_left_on_is_noticed(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = next(segment_graphs(CONFIG, torch.float32, "exact")).blob
    blob, log = builder.build("chunk_project", graph, ["sm_89"], {})
    check_plan("chunk_project", blob, log, "float32", "exact")
    configure = Builder._configure

    def careless(self: Builder, config: Any, targets: list[str]) -> None:
        configure(self, config, targets)
        config.set_flag(self.library.module.BuilderFlag.TF32)

    monkeypatch.setattr(Builder, "_configure", careless)
    blob, log = builder.build("chunk_project", graph, ["sm_89"], {})
    with pytest.raises(ExportError, match="rounded to TF32"):
        check_plan("chunk_project", blob, log, "float32", "exact")


@needs_rtx
def test_a_log_that_went_elsewhere_is_noticed(
    builder: Builder, fp8_graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library writes to the first logger that is alive, whatever it is given later."""
    monkeypatch.setattr(builder, "_messages", [])
    with pytest.raises(ExportError, match="lists no layers"):
        builder.build("chunk_project", fp8_graph, ["sm_89"], {})


@needs_rtx
def test_what_a_library_does_not_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "segments"
    exact = export_graphs(CONFIG, torch.bfloat16, folder, form="segments")
    fp8 = replace(exact, products="fp8")
    words = ["export", "build", str(folder), "--library", "rtx", "--target"]
    for manifest, target, message in (
        (fp8, "sm_90", "no engines for sm_90 (H100, H200); install tensorrt"),
        (fp8, "sm_80", "sm_80 multiplies no fp8, wanted sm_89 or later"),
        (exact, "sm_75", "sm_75 has no bfloat16, wanted sm_80 or later"),
        (exact, "ada", "got 'ada', wanted names such as sm_89"),
    ):
        manifest.write(folder)
        assert main([*words, target]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert main([*words, "sm_89"]) == 0
    assert "4 plans by TensorRT-RTX" in capsys.readouterr().out
    manifest = EngineManifest.read(folder)
    assert [plan.launches for plan in manifest.plans] == [2, 4, 4, 2]
    assert all("no_tf32" in plan.flags for plan in manifest.plans)
    (folder / manifest.plans[0].file).write_bytes(b"tampered")
    with pytest.raises(ManifestError, match=r"chunk_project_rtx_sm_89.plan: got sha256 .*build"):
        manifest.read_file(folder, manifest.plans[0])


def test_a_library_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for library, command in (("rtx", r"shotstream_rt\[tensorrt-rtx\]"), ("tensorrt", "tensorrt")):
        with pytest.raises(ExportError, match=f"is not installed; pip install .*{command}"):
            Library.load(library)
    assert main(["export", "build", str(tmp_path), "--library", "rtx", "--target", "sm_89"]) == 2
    assert "TensorRT-RTX is not installed" in capsys.readouterr().err


def test_tensorrt_builds_on_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library("tensorrt", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ExportError, match="TensorRT builds for the GPU that it runs on"):
        library.check_targets(["sm_89"], "bfloat16", "exact")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    library.check_targets(["sm_90"], "bfloat16", "fp8")
