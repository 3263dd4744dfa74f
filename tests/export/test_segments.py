"""Segments in a folder: what they are bound to, and for whose weights they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import registry
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.backends.segment_backend import product_student
from shotstream_rt.cli import main
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ManifestError
from shotstream_rt.export.manifest import MANIFEST_FILE, EngineManifest
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
)  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(Student(CONFIG.model).requires_grad_(False).state_dict())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights: Mapping[str, Tensor]) -> Path:
    made = tmp_path_factory.mktemp("export") / "segments"
    export_graphs(CONFIG, torch.float32, made, form="segments", weights=weights)
    return made


def asked(folder: Path, weights: Mapping[str, Tensor]) -> BackendRequest:
    return BackendRequest(
        config=CONFIG, device=torch.device("cpu"), dtype=torch.float32, weights=lambda: weights,
        kernel_set="reference", engines=folder,
    )  # fmt: skip


def test_the_manifest_says_what_every_tensor_is_made_of(
    folder: Path, weights: Mapping[str, Tensor]
) -> None:
    manifest = EngineManifest.read(folder)
    assert {port.role for entry in manifest.passes for port in entry.inputs} == {
        "tokens", "modulation", "weight",
    }  # fmt: skip
    sources = {source for bound in manifest.tensors for source in bound.sources}
    assert sources == weights.keys(), "a tensor that could be changed unnoticed"
    assert all(bound.sha256 for bound in manifest.tensors)
    by_name = {(bound.name, bound.layer): bound for bound in manifest.tensors}
    qkv = by_name["qkv.weight", 1]
    assert (qkv.operation, qkv.shape) == ("join, transpose", (24, 72))
    joined = torch.cat([weights[source] for source in qkv.sources]).t()
    from shotstream_rt.export.engine_tensors import digest_of

    assert qkv.sha256 == digest_of(joined)


def test_every_tampered_weight_is_noticed(folder: Path, weights: Mapping[str, Tensor]) -> None:
    manifest = EngineManifest.read(folder)
    product_student(asked(folder, weights), manifest)
    for name in (name for name in weights if not name.startswith("blocks.0.")):
        changed = weights[name].clone()
        changed.view(-1)[0] += 0.125
        with pytest.raises(ManifestError, match=r"got sha256 .* for other weights"):
            product_student(asked(folder, {**weights, name: changed}), manifest)


def test_digests_may_be_left_out(
    folder: Path, weights: Mapping[str, Tensor], tmp_path: Path
) -> None:
    manifest = EngineManifest.read(folder)
    free = replace(
        manifest, tensors=tuple(replace(bound, sha256=None) for bound in manifest.tensors)
    )
    product_student(asked(folder, {k: v + 1 for k, v in weights.items()}), free)


def test_commands_refuse_in_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "build", str(folder)]
    generate = ["generate", "-p", "a red cat", "--device", "cpu", "--out", str(tmp_path / "f.mp4"),
                "--engines", str(folder)]  # fmt: skip
    for given, message in (
        (words, "wanted DIR, --library"),
        (["export", "nano", "--out", str(tmp_path / "x"), "--products", "fp8"], "--form segments"),
        ([*generate, "--backend", "tensorrt"], "TensorRT runs on an NVIDIA GPU, not on cpu"),
        ([*generate, "--backend", "onnxruntime"], "engines are for"),
        ([*generate, "--backend", "onnxruntime", "--profile", "fp8"],
         "products are exact, the profile's kernels are fp8"),
    ):  # fmt: skip
        assert main(given) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert message in error[-1], error
    changed = json.loads((folder / MANIFEST_FILE).read_text())
    assert changed["form"] == "segments"
    assert "tensorrt" in registry.names()
