"""The nano codec's decoder as graphs, chunk after chunk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shotstream_rt.backends import registry
from shotstream_rt.backends.engine_codec import EngineCodec, engine_codec
from shotstream_rt.backends.engine_gate import codec_distances
from shotstream_rt.backends.engine_passes import bind_weights, load_passes
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import BackendUnavailableError, ManifestError
from shotstream_rt.export.manifest import CODEC_FILE
from shotstream_rt.model.nano.codec import CodecDepths, NanoCodec, NanoCodecNet

pytest.importorskip("onnxscript", reason="exports need onnx and onnxscript")

from shotstream_rt.export.exporter import export_graphs

CPU = torch.device("cpu")
CONFIG = StreamConfig(
    model=ModelConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=6, latent_height=4,
        latent_width=6,
    ),
    shot=ShotConfig(chunk_frames=2, shot_frames=8),
)  # fmt: skip


def test_a_stream_decodes_as_in_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = NanoCodecNet(CodecDepths(decoder_eighth=3, decoder_quarter=1)).eval()
    for name, value in net.state_dict().items():
        torch.nn.init.constant_(value, 2.0) if name.endswith("limit") else None
        if name.endswith("out.weight"):
            torch.nn.init.normal_(value, std=0.05)
    weights = net.requires_grad_(False).state_dict()
    manifest = export_graphs(
        CONFIG, torch.float32, tmp_path / "codec", form="codec", weights=weights, codec=net
    )
    assert [entry.name for entry in manifest.passes] == ["decode_first", "decode_next"]
    assert {bound.sha256 for bound in manifest.tensors}.isdisjoint({None})
    for name in registry.ENGINE_LIBRARIES:
        if registry.availability(CPU)[name] is None:
            load = registry.engine_library(name).load
            bound = bind_weights(manifest, weights, torch.float32, "codec")
            runs = load_passes(manifest, tmp_path / "codec", bound, load, 1)
            assert max(codec_distances(runs, manifest, net).values()) <= 1e-5
    other = {**weights, "decoder_in.bias": weights["decoder_in.bias"] + 1}
    with pytest.raises(ManifestError, match=r"decoder_in.bias: got sha256"):
        bind_weights(manifest, other, torch.float32, "codec")
    request = BackendRequest(
        config=CONFIG, device=CPU, dtype=torch.float32, weights=dict, engines=tmp_path / "codec"
    )
    for name in registry.ENGINE_LIBRARIES:
        if registry.availability(CPU)[name] is None:
            with pytest.raises(BackendUnavailableError, match="holds a codec's decoder"):
                registry.resolve(name, request)


@pytest.mark.parametrize("library", registry.ENGINE_LIBRARIES)
def test_a_models_decoder_runs_on_the_engines_library(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := registry.availability(CPU)[library]) is not None:
        pytest.skip(reason)
    torch.manual_seed(1)
    net = NanoCodecNet(CodecDepths(decoder_eighth=3, decoder_quarter=1)).eval()
    plain = NanoCodec(net)
    manifest = export_graphs(CONFIG, torch.float32, tmp_path, form="codec", codec=net)
    asked = BackendRequest(
        config=CONFIG, device=CPU, dtype=torch.float32, weights=dict, engines=tmp_path
    )
    assert engine_codec(plain, asked, library) is plain, "there is no decoder beside the passes"
    manifest.write(tmp_path, CODEC_FILE)
    assert engine_codec(plain, asked, "eager") is plain
    codec = engine_codec(plain, asked, library)
    assert isinstance(codec, EngineCodec) and codec.kernel_set == library
    got, wanted = codec.decoder(), plain.decoder()
    for frames in (2, 2, 1, 2, 3, 2):  # others than a chunk's are decoded in torch
        latents = torch.randn(1, frames, 16, 4, 6)
        pixels = wanted.decode(latents)
        torch.testing.assert_close(got.decode(latents), pixels, rtol=1e-5, atol=1e-5)
    for each in (got, wanted):
        each.reset()
    latents = torch.randn(1, 2, 16, 4, 6)
    torch.testing.assert_close(got.decode(latents), wanted.decode(latents), rtol=1e-5, atol=1e-5)
    decode = NanoCodecNet.decode
    monkeypatch.setattr(
        NanoCodecNet, "decode", lambda *given: (decode(*given)[0] * 1.01, decode(*given)[1])
    )
    with pytest.raises(
        BackendUnavailableError, match=r"decode_\w+ are 9\.9e-03 away .* at most 1e-04"
    ):
        engine_codec(plain, asked, library)
