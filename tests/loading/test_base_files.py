"""Finding the base model's files and the tiny decoder in the folder layouts that occur."""

from __future__ import annotations

from pathlib import Path

import pytest

from shotstream_rt.errors import WeightsError
from shotstream_rt.loading.base_files import find_base
from shotstream_rt.loading.tiny_decoder import find_tiny_decoder

WAN = ["Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "config.json"]


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


@pytest.mark.parametrize("wan", ["Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-1.3B", "wan_models", ""])
@pytest.mark.parametrize("tokenizer", ["google/umt5-xxl/tokenizer.json", "spiece.model"])
def test_wans_own_files(wan: str, tokenizer: str, tmp_path: Path) -> None:
    make(tmp_path / wan, *WAN, tokenizer)
    base = find_base([tmp_path])
    assert base.vae == tmp_path / wan / WAN[0]
    assert base.text_encoder == tmp_path / wan / WAN[1]
    assert base.model_config == tmp_path / wan / WAN[2]
    assert base.tokenizer == (tmp_path / wan / tokenizer).parent


@pytest.mark.parametrize("place", ["", "Wan2.1-T2V-1.3B-Diffusers"])
def test_a_folder_of_diffusers(place: str, tmp_path: Path) -> None:
    root = tmp_path / place
    make(root, "vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json",
         "text_encoder/model.safetensors.index.json", "transformer/config.json")  # fmt: skip
    base = find_base([tmp_path])
    assert (base.vae, base.text_encoder) == (root / "vae", root / "text_encoder")
    assert (base.tokenizer, base.model_config) == (
        root / "tokenizer", root / "transformer/config.json",
    )  # fmt: skip


@pytest.mark.parametrize("top", ["", "split_files", "models", "ComfyUI/models"])
@pytest.mark.parametrize("text", ["text_encoders", "clip"])
def test_files_of_comfyui(top: str, text: str, tmp_path: Path) -> None:
    root = tmp_path / top
    exact = f"{text}/umt5_xxl_fp16.safetensors"
    eighths = f"{text}/umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    make(root, "vae/wan_2.1_vae.safetensors", exact, eighths)
    base = find_base([tmp_path])
    assert (base.vae, base.text_encoder) == (root / "vae/wan_2.1_vae.safetensors", root / exact)
    assert base.tokenizer == root / exact
    assert base.model_config is None


def test_folders_are_looked_through_in_order(tmp_path: Path) -> None:
    make(tmp_path / "a", WAN[0])
    make(tmp_path / "b", *WAN, "spiece.model")
    base = find_base([tmp_path / "a", tmp_path / "b"])
    assert base.vae == tmp_path / "a" / WAN[0]
    assert base.text_encoder == tmp_path / "b" / WAN[1]


def test_what_is_missing_is_listed_with_its_places(tmp_path: Path) -> None:
    make(tmp_path, "wan_models/Wan2.1_VAE.pth")
    with pytest.raises(WeightsError) as caught:
        find_base([tmp_path])
    message = str(caught.value)
    assert "models_t5_umt5-xxl-enc-bf16.pth (looked in Wan2.1-T2V-1.3B/" in message
    assert "text_encoders/umt5_xxl_fp16.safetensors" in message
    assert "tokenizer.json" in message
    assert "Wan2.1_VAE.pth" not in message
    assert "shotstream_rt fetch wan2.1-t2v-1.3b" in message


@pytest.mark.parametrize("place", ["", "ckpts", "Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-1.3B"])
@pytest.mark.parametrize("name", ["taew2_1.pth", "taew2_1.safetensors"])
def test_tiny_decoder_is_found(place: str, name: str, tmp_path: Path) -> None:
    make(tmp_path / place, name)
    assert find_tiny_decoder(tmp_path / "nowhere", tmp_path) == tmp_path / place / name


def test_missing_tiny_decoder_names_files_and_places(tmp_path: Path) -> None:
    make(tmp_path, "taehv.pth", "lighttaew2_1.pth")
    with pytest.raises(WeightsError) as caught:
        find_tiny_decoder(tmp_path)
    message = str(caught.value)
    assert "missing taew2_1.safetensors or taew2_1.pth" in message
    assert "the folder itself, ckpts/, Wan2.1-T2V-1.3B/" in message
    assert "profile exact" in message
