"""A grafted codec keeps its latents and decodes them with another codec's decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_distill.__main__ import main
from shotstream_distill.codec import graft_codec as grafting
from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano.codec import NanoCodec


def _turned(codec: Path, out: Path) -> None:
    """Write a codec whose latents are turned, and whose decoder turns them back."""
    tensors = {name: value.float() for name, value in load_file(str(codec)).items()}
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)))[0]
    tensors["encoder_out.weight"] = torch.einsum(
        "ec,cihw->eihw", turn, tensors["encoder_out.weight"]
    )
    tensors["encoder_out.bias"] = turn @ tensors["encoder_out.bias"]
    tensors["decoder_in.weight"] = torch.einsum("ec,ochw->oehw", turn, tensors["decoder_in.weight"])
    # Statistics only scale what the student sees, and decoding undoes them.
    tensors["latent_mean"], tensors["latent_std"] = torch.zeros(16), torch.full((16,), 2.0)
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(out))


def test_a_decoder_of_turned_latents_reads_the_kept_ones(
    codec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(grafting, "_CLIPS", 4)
    monkeypatch.setattr(grafting, "_RIDGE", 1e-9)
    turned, out = tmp_path / "turned.safetensors", tmp_path / "grafted.safetensors"
    _turned(codec_file, turned)
    told = ["--encoder", str(codec_file), "--decoder", str(turned), "--out", str(out), "--json"]
    assert main(["graft-codec", *told]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["explained"] > 0.999
    kept, grafted = NanoCodec.load(codec_file), NanoCodec.load(out)
    clip = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    latents = kept.encode_clip(clip)
    torch.testing.assert_close(grafted.encode_clip(clip), latents)
    torch.testing.assert_close(
        grafted.decode_full(latents), kept.decode_full(latents), rtol=0.02, atol=0.02
    )


def test_a_missing_file_is_named(codec_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"other\.safetensors"):
        grafting.graft_codec(codec_file, tmp_path / "other.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
