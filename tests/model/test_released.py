"""Finding the released files in the folder layouts that occur."""

import pytest

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.released import find_release, find_tiny_decoder

WAN = ["Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "config.json"]


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


@pytest.mark.parametrize("wan", ["Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-1.3B", "wan_models", ""])
@pytest.mark.parametrize("student", ["ckpts", ""])
@pytest.mark.parametrize("tokenizer", ["google/umt5-xxl/tokenizer.json", "spiece.model"])
def test_known_layouts_are_found(wan, student, tokenizer, tmp_path):
    make(tmp_path / student, "shotstream_merged.pt")
    make(tmp_path / wan, *WAN, tokenizer)
    release = find_release(tmp_path)
    assert release.student == tmp_path / student / "shotstream_merged.pt"
    assert release.vae == tmp_path / wan / WAN[0]
    assert release.text_encoder == tmp_path / wan / WAN[1]
    assert release.model_config == tmp_path / wan / WAN[2]
    assert release.tokenizer == (tmp_path / wan / tokenizer).parent


def test_config_may_be_absent(tmp_path):
    make(tmp_path, "shotstream_merged.pt", *WAN[:2], "spiece.model")
    assert find_release(str(tmp_path)).model_config is None


def test_everything_missing_is_listed_with_its_places(tmp_path):
    make(tmp_path, "wan_models/Wan2.1_VAE.pth")
    with pytest.raises(WeightsError) as caught:
        find_release(tmp_path)
    message = str(caught.value)
    assert "shotstream_merged.pt (looked in ckpts/, the folder itself)" in message
    assert "models_t5_umt5-xxl-enc-bf16.pth (looked in Wan2.1-T2V-1.3B/" in message
    assert "tokenizer.json" in message
    assert "Wan2.1_VAE.pth" not in message
    with pytest.raises(WeightsError, match="not a folder"):
        find_release(tmp_path / "nothing")


@pytest.mark.parametrize("place", ["", "ckpts", "Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-1.3B"])
@pytest.mark.parametrize("name", ["taew2_1.pth", "taew2_1.safetensors"])
def test_tiny_decoder_is_found(place, name, tmp_path):
    make(tmp_path / place, name)
    assert find_tiny_decoder(str(tmp_path)) == tmp_path / place / name


def test_missing_tiny_decoder_names_files_and_places(tmp_path):
    make(tmp_path, "taehv.pth", "lighttaew2_1.pth")
    with pytest.raises(WeightsError) as caught:
        find_tiny_decoder(tmp_path)
    message = str(caught.value)
    assert "missing taew2_1.safetensors or taew2_1.pth" in message
    assert "the folder itself, ckpts/, Wan2.1-T2V-1.3B/" in message
    assert "profile exact" in message
