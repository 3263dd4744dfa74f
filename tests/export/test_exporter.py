"""An exported folder: what is in it, and what is refused when it is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.engine_backend import EngineBackend
from shotstream_rt.backends.engine_passes import PassRun
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.cli import main
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ConfigError, ManifestError
from shotstream_rt.export.manifest import MANIFEST_FILE, EngineManifest
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.model.student import Student

pytest.importorskip("onnxscript", reason="exports need onnx and onnxscript")

from shotstream_rt.export.exporter import export_graphs

CONFIG = StreamConfig(
    model=ModelConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=6, latent_height=4,
        latent_width=4,
    ),
    cache=CacheConfig(context_frames=2),
    shot=ShotConfig(chunk_frames=1, shot_frames=3),
    schedule=ScheduleConfig(denoising_steps=(1000, 500)),
)  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(Student(CONFIG.model).requires_grad_(False).state_dict())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights: Mapping[str, Tensor]) -> Path:
    made = tmp_path_factory.mktemp("export") / "engines"
    export_graphs(CONFIG, torch.float32, made, weights=weights)
    return made


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_the_manifest_lists_every_pass_and_all_that_it_is_bound_to(
    folder: Path, weights: Mapping[str, Tensor]
) -> None:
    manifest = EngineManifest.read(folder)
    names = [entry.name for entry in manifest.passes]
    assert names == ["captions", "context", "denoise_0", "denoise_1", "commit"]
    bound = {one.name: one for one in manifest.tensors}
    for entry in manifest.passes:
        assert manifest.read_file(folder, entry)
        assert all(bound[port.name].shape == port.shape for port in entry.weights)
    assert all(one.sha256 for one in bound.values())
    assert {source for one in bound.values() for source in one.sources} == weights.keys()
    qkv = bound["blocks.1.qkv.weight"]
    assert (qkv.operation, qkv.shape) == ("join, transpose", (24, 72))
    assert qkv.sources == tuple(f"blocks.1.self_attn.{name}.weight" for name in "qkv")
    step, last = manifest.named("denoise_0"), manifest.named("denoise_1")
    assert (step.time, len(step.sigmas), len(last.sigmas)) == (1000.0, 2, 1)
    rows = [port.name for port in step.inputs if port.role == "modulation"]
    assert len(rows) == 2 * 6 + 2 and {"blocks.1.ffn_gate", "head.factor"} < set(rows)
    assert [port.name for port in step.outputs][:2] == ["x0", "next_x"]
    front = next(port for port in step.inputs if port.name == "front_k_0")
    assert (front.role, front.shape) == ("cache", (1, "front_tokens", 2, 12))
    commit = {port.name for port in manifest.named("commit").inputs}
    assert "front_k_0" in commit and "front_k_1" not in commit, "the last layer attends to nothing"


def test_every_tampered_weight_is_noticed(folder: Path, weights: Mapping[str, Tensor]) -> None:
    def asked(given: Mapping[str, Tensor]) -> BackendRequest:
        return BackendRequest(
            config=CONFIG, device=torch.device("cpu"), dtype=torch.float32, weights=lambda: given,
            engines=folder,
        )  # fmt: skip

    def never_run(*of_pass: object) -> Callable[[], PassRun]:
        return lambda: lambda inputs, outputs: None

    EngineBackend(asked(weights), "none", never_run, gate=False)
    for name in (name for name in weights if not name.startswith("blocks.0.")):
        changed = weights[name].clone()
        changed.view(-1)[0] += 0.125
        with pytest.raises(ManifestError, match=r"got sha256 .* for other weights"):
            EngineBackend(asked({**weights, name: changed}), "none", never_run, gate=False)


def test_two_exports_are_equal(folder: Path, weights: Mapping[str, Tensor], tmp_path: Path) -> None:
    again = export_graphs(CONFIG, torch.float32, tmp_path / "again", weights=weights)
    assert again == EngineManifest.read(folder)


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OSError, match="holds other files"):
        export_graphs(CONFIG, torch.float32, tmp_path)


def test_pruned_history_is_not_exported(tmp_path: Path) -> None:
    pruned = HistoryPolicy(recent_frames=1, pruned_heads=((0,), (1,)))
    with pytest.raises(ConfigError, match="prune history"):
        export_graphs(replace(CONFIG, history=pruned), torch.float32, tmp_path / "out")


def test_a_file_that_was_changed(copy: Path) -> None:
    manifest = EngineManifest.read(copy)
    (copy / "commit.onnx").write_bytes(b"another graph")
    with pytest.raises(ManifestError, match=r"commit.onnx: got sha256 .* the file was changed"):
        manifest.read_file(copy, manifest.named("commit"))


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda data: data.update(odd=1), "unknown key.* odd; export again"),
        (lambda data: data.update(form="plans"), "form: got 'plans', wanted passes or segments"),
        (lambda data: data.update(fits=1.5), "fits is 1.5, wanted"),
        (lambda data: data["passes"][1].update(time="soon"), "passes 1: time is 'soon', wanted"),
        (lambda data: data["passes"][1].update(name=[]), "passes 1: name is .*, wanted str"),
        (lambda data: data["tensors"][0].update(name={}), "tensors 0: name is .*, wanted str"),
        (lambda data: data["tensors"].pop(0), "a weight that is no tensor"),
        (lambda data: data.update(format="other"), "not an engine manifest"),
        (lambda data: data.update(schema_version=99), "wanted schema_version 3"),
        (lambda data: data["passes"][0].update(file="../x.onnx"), "file '../x.onnx'"),
        (lambda data: data["passes"][0].pop("sha256"), "passes 0: missing key.* sha256"),
    ],
)
def test_a_manifest_that_is_wrong(
    change: Callable[[dict[str, object]], object], message: str, copy: Path
) -> None:
    path = copy / MANIFEST_FILE
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ManifestError, match=message):
        EngineManifest.read(copy)


def test_engines_of_another_model(folder: Path) -> None:
    manifest = EngineManifest.read(folder)
    manifest.check_fits(CONFIG, "float32", folder)
    longer = replace(CONFIG, shot=ShotConfig(chunk_frames=1, shot_frames=9))
    manifest.check_fits(longer, "float32", folder)
    other = replace(CONFIG, model=replace(CONFIG.model, latent_width=8))
    with pytest.raises(ManifestError, match=r"model.latent_width: engines are for 4, .* with 8"):
        manifest.check_fits(other, "float32", folder)
    with pytest.raises(ManifestError, match="dtype: engines are for 'float32'"):
        manifest.check_fits(CONFIG, "bfloat16", folder)
    fewer = replace(manifest, passes=manifest.passes[:-1])
    with pytest.raises(ManifestError, match=r"got graphs captions, .*denoise_1, wanted .*commit"):
        fewer.check_fits(CONFIG, "float32", folder)


def test_commands_refuse_in_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(limit, raising=False)  # OpenVINO is refused under them
    out = str(tmp_path / "film.mp4")
    generate = ["generate", "-p", "a red cat", "--device", "cpu", "--out", out]
    for words, message in (
        (["export", "check", str(tmp_path)], "holds no engines.json"),
        (["export", "nano"], "wanted MODEL and --out DIR"),
        ([*generate, "--backend", "openvino", "--engines", str(folder)], "engines are for"),
        ([*generate, "--backend", "openvino"], "it needs exported passes"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert message in error[-1], error
