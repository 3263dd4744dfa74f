"""A released folder's parts must be of one model; files converted as advised are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt import WeightsError
from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import ManifestError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.loading.student_weights import student_shapes
from shotstream_rt.model.nano.text import NanoTextEncoder
from shotstream_rt.model.wan_vae.network import WanVAE

MODEL = ModelConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=128, text_len=64, latent_height=2,
    latent_width=4,
)  # fmt: skip
CONFIG = {"model_type": "t2v", "dim": 24, "ffn_dim": 32, "num_heads": 2, "num_layers": 2,
          "in_dim": 16, "out_dim": 16, "freq_dim": 256, "text_len": 64, "eps": 1e-5}  # fmt: skip
WAN = "Wan2.1-T2V-1.3B"
STUDENT, VAE, TEXT = (
    "ckpts/shotstream_merged.pt", f"{WAN}/Wan2.1_VAE.pth", f"{WAN}/models_t5_umt5-xxl-enc-bf16.pth",
)  # fmt: skip


def student(**changes: int) -> dict[str, torch.Tensor]:
    shapes = student_shapes(ModelConfig(**{**MODEL.to_dict(), **changes}))
    torch.manual_seed(0)
    return {
        f"model.{k}": torch.randn(v) * 0.1 if len(v) > 1 else torch.ones(v)
        for k, v in shapes.items()
    }


def vae() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {k: torch.randn_like(v) * 0.1 for k, v in WanVAE(4).state_dict().items()}


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The released layout with random weights; its text encoder is nano's."""
    (tmp_path / WAN / "google/umt5-xxl").mkdir(parents=True)
    (tmp_path / "ckpts").mkdir()
    (tmp_path / WAN / "google/umt5-xxl/tokenizer.json").write_text("{}", "utf-8")
    torch.save({"generator": student()}, tmp_path / STUDENT)
    torch.save(vae(), tmp_path / VAE)
    torch.save({}, tmp_path / TEXT)
    (tmp_path / WAN / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    monkeypatch.setattr(
        "shotstream_rt.model.umt5.text_encoder.UMT5TextEncoder.from_files",
        lambda *_, **__: NanoTextEncoder.load(NANO_FOLDER / "text.safetensors"),
    )
    return tmp_path


def opened(folder: Path) -> ModelConfig:
    bundle = Model.open(folder, device="cpu", size="16x32")
    try:
        return bundle.config.model
    finally:
        bundle.close()


def test_settings_that_tensors_do_not_tell_come_from_the_config(released: Path) -> None:
    model = opened(released)
    assert (model.eps, model.num_heads, model.text_len) == (1e-5, 2, 64)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dim": 48}, r"config\.json: got dim 48 \(the student has 24\)"),
        ({"num_layers": 4, "ffn_dim": 64}, "ffn_dim 64 .*num_layers 4"),
        ({"num_heads": 5}, "no usable model"),
        ({"num_heads": "two"}, "num_heads: got 'two', wanted an integer"),
        ({"model_type": "i2v"}, "model_type: got 'i2v', wanted 't2v'"),
        ({"patch_size": [1, 4, 4]}, "patch_size"),
        ({"eps": float("nan")}, "eps: got nan, wanted a number from"),
        ({"text_len": 10**9}, "text_len: got 1000000000, wanted an integer from 1 to 4096"),
    ],
)
def test_a_config_of_another_model_is_refused(
    released: Path, change: dict[str, Any], told: str
) -> None:
    (released / WAN / "config.json").write_text(json.dumps({**CONFIG, **change}), "utf-8")
    with pytest.raises(WeightsError, match=told):
        opened(released)


@pytest.mark.parametrize("changes", [{"in_dim": 36}, {"out_dim": 32}, {"in_dim": 4, "out_dim": 4}])
def test_a_student_of_other_latents_is_refused_before_it_is_loaded(
    released: Path, changes: dict[str, int]
) -> None:
    torch.save({"generator": student(**changes)}, released / STUDENT)
    (released / WAN / "config.json").write_text('{"num_heads": 2}', "utf-8")
    with pytest.raises(WeightsError, match="wanted 16 of both, as the codec has"):
        opened(released)


def test_a_text_encoder_of_another_width_is_refused(released: Path) -> None:
    torch.save({"generator": student(text_dim=64)}, released / STUDENT)
    with pytest.raises(WeightsError, match="got a text encoder with 64 positions of 128 features"):
        opened(released)


@pytest.mark.parametrize("kept", [False, True])
def test_converted_files_are_found_and_taken_first(released: Path, kept: bool) -> None:
    for name, tensors in ((STUDENT, student()), (VAE, vae())):
        save_file(tensors, (released / name).with_suffix(".safetensors"))
        (released / name).unlink()
        if kept:
            (released / name).write_bytes(b"never looked at")
    assert opened(released).dim == 24


@pytest.mark.parametrize("part", ["codec", "text"])
@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "a\0b", "x" * 5000, 7])
def test_names_in_a_manifest_stay_in_its_folder(tmp_path: Path, part: str, name: Any) -> None:
    data = json.loads((NANO_FOLDER / "student.json").read_text("utf-8"))
    data[part]["file"] = name
    (tmp_path / "student.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(ManifestError, match=f"{part}: file: got .*inside the model's own folder"):
        StudentManifest.read(tmp_path / "student.json")


def test_a_model_tells_a_digest_of_its_weights(released: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        state = student()
        state["model.blocks.1.ffn.0.bias"] += seed
        torch.save({"generator": state}, released / STUDENT)
        bundle = Model.open(released, device="cpu", size="16x32")
        found.append(bundle.info["weights_digest"])
        bundle.close()
    assert found[0] == found[1] != found[2]
