"""The Wan VAE against the numbers the original computes (case F) and against itself."""

import json
from pathlib import Path

import pytest
import torch

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.model.checkpoint import load_checkpoint
from shotstream_rt.model.codec import LatentCodec, StreamDecoder
from shotstream_rt.model.wan_vae.blocks import _interleave
from shotstream_rt.model.wan_vae.codec import LATENT_MEAN, LATENT_STD, WanCodec
from shotstream_rt.model.wan_vae.network import WanVAE

GOLDEN = Path(__file__).parents[1] / "golden"
FLOAT32_TOLERANCE = 1e-5
BFLOAT16_SLACK = 1.3  # times the original's own distance


def rel_l2(got, wanted):
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.fixture(scope="module")
def golden():
    return load_checkpoint(GOLDEN / "f_vae.safetensors")


@pytest.fixture(scope="module")
def state():
    return load_checkpoint(GOLDEN / "weights_vae.safetensors")


@pytest.fixture(scope="module")
def codec(state):
    return WanCodec.from_state(state)


@pytest.fixture(scope="module")
def codec_bfloat16(state):
    return WanCodec.from_state(state, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def decoded(codec, golden):
    return codec.decode_full(golden["latents"])


def singles(golden):
    frames = golden["singles_encoded"].shape[0]
    return golden["clip"][0, :, :frames].transpose(0, 1)


def test_single_frames_encode_like_the_original(codec, golden):
    got = codec.encode_frames(singles(golden))
    assert rel_l2(got, golden["singles_encoded"][:, 0]) < FLOAT32_TOLERANCE


def test_clip_encodes_like_the_original(codec, golden):
    got = codec.encode_clip(golden["clip"])
    assert got.shape == golden["clip_encoded"].shape
    assert rel_l2(got, golden["clip_encoded"]) < FLOAT32_TOLERANCE


def test_clip_decodes_like_the_original(decoded, golden):
    assert decoded.dtype == torch.float32
    assert decoded.shape == golden["decoded_full"].shape
    assert rel_l2(decoded, golden["decoded_full"]) < FLOAT32_TOLERANCE
    assert float(decoded.abs().max()) <= 1.0


def test_first_latent_alone_decodes_like_the_original(codec, golden):
    got = codec.decode_full(golden["latents"][:, :1])
    assert rel_l2(got, golden["decoded_first_latent_alone"]) < FLOAT32_TOLERANCE


def test_decoder_internals_are_those_of_the_original(codec, golden):
    decoder = codec.network.decoder
    points = {"conv1": decoder.conv1, "middle": decoder.middle[2],
              "up3": decoder.upsamples[3], "up7": decoder.upsamples[7]}  # fmt: skip
    seen = {name: [] for name in points}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out.clone()))
        for name, layer in points.items()
    ]
    codec.decode_full(golden["latents"][:, :3])
    for hook in hooks:
        hook.remove()
    for name, outputs in seen.items():
        for step, output in enumerate(outputs):
            assert rel_l2(output, golden[f"dec.{name}.step{step}"]) < FLOAT32_TOLERANCE


def test_bfloat16_is_as_close_as_the_original(codec_bfloat16, golden):
    facts = json.loads((GOLDEN / "f_vae.json").read_text())["bf16_rel_l2_vs_fp32"]
    distance = {
        "decode": rel_l2(codec_bfloat16.decode_full(golden["latents"]), golden["decoded_full"]),
        "encode_clip": rel_l2(codec_bfloat16.encode_clip(golden["clip"]), golden["clip_encoded"]),
        "encode_single": rel_l2(
            codec_bfloat16.encode_frames(singles(golden)), golden["singles_encoded"][:, 0]
        ),
    }
    for name, got in distance.items():
        assert got < BFLOAT16_SLACK * facts[name], name


def test_bfloat16_constants_are_rounded_like_the_original():
    codec = WanCodec(WanVAE(1).to(torch.bfloat16))
    assert codec._mean.flatten()[:3].tolist() == [-0.7578125, -0.70703125, -0.91015625]
    assert codec._inverse_std.flatten()[:3].tolist() == [0.35546875, 0.6875, 0.4296875]
    assert len(LATENT_MEAN) == len(LATENT_STD) == 16


@pytest.mark.parametrize("splits", [(3, 1), (1, 2, 1), (2, 2)])
def test_streamed_decode_is_bit_for_bit_the_full_decode(codec, golden, decoded, splits):
    latents = golden["latents"][:, :4]
    decoder = codec.decoder()
    parts = [decoder.decode(part) for part in latents.split(splits, dim=1)]
    assert [part.shape[1] for part in parts] == [
        4 * size - 3 * (index == 0) for index, size in enumerate(splits)
    ]
    assert torch.equal(torch.cat(parts, dim=1), decoded[:, :13])


def test_reset_forgets_the_stream(codec_bfloat16, golden):
    latents = golden["latents"]
    decoder = codec_bfloat16.decoder()
    first = decoder.decode(latents[:, :2])
    decoder.decode(latents[:, 2:4])
    decoder.reset()
    assert torch.equal(decoder.decode(latents[:, :2]), first)


def test_a_decoder_may_change_size_after_reset(codec, golden):
    latents = golden["latents"]
    decoder = codec.decoder()
    decoder.decode(latents[:, :2])
    decoder.reset()
    small = latents[:, :2, :, :4, :4]
    assert torch.equal(decoder.decode(small), codec.decode_full(small))


def test_decoders_side_by_side_do_not_mix(codec, golden):
    latents = golden["latents"][:, :2]
    other = -latents
    left, right = codec.decoder(), codec.decoder()
    got = [(left.decode(a), right.decode(b))
           for a, b in zip(latents.split(1, 1), other.split(1, 1), strict=True)]  # fmt: skip
    assert torch.equal(torch.cat([a for a, _ in got], 1), codec.decode_full(latents))
    assert torch.equal(torch.cat([b for _, b in got], 1), codec.decode_full(other))


def test_decoding_is_causal(codec, golden, decoded):
    latents = golden["latents"][:, :3].clone()
    latents[:, 2] += 1.0
    changed = codec.decode_full(latents)
    assert torch.equal(decoded[:, :5], changed[:, :5])  # latent 2 begins at frame 5
    assert not torch.equal(decoded[:, 5], changed[:, 5])


def test_memory_keeps_its_addresses_from_the_first_latent_on(codec, golden):
    decoder = codec.decoder()
    decoder.decode(golden["latents"][:, :1])
    before = [past.data_ptr() for past in decoder._memory._past]
    decoder.decode(golden["latents"][:, 1:3])
    decoder.reset()
    decoder.decode(golden["latents"][:, :1])
    assert [past.data_ptr() for past in decoder._memory._past] == before


def test_a_frame_encodes_like_the_first_of_a_clip(codec, golden):
    alone = codec.encode_frames(golden["clip"][:, :, 0])
    assert torch.equal(alone, codec.encode_clip(golden["clip"])[:, 0])


def test_a_frame_does_not_depend_on_its_companions(codec, golden):
    frames = singles(golden)
    together = codec.encode_frames(frames)
    assert torch.equal(together[1:2], codec.encode_frames(frames[1:2]))


def test_channels_last_computes_the_same(state, golden, monkeypatch):
    from shotstream_rt.model.wan_vae import codec as wan_codec

    monkeypatch.setattr(wan_codec, "_layout", lambda _device: torch.channels_last_3d)
    codec = WanCodec.from_state(state)
    got = codec.decode_full(golden["latents"][:, :3])
    assert got.is_contiguous()
    assert rel_l2(got, golden["decoded_full"][:, :9]) < FLOAT32_TOLERANCE
    assert rel_l2(codec.encode_clip(golden["clip"]), golden["clip_encoded"]) < FLOAT32_TOLERANCE


def test_frames_are_interleaved_in_either_layout():
    even, odd = torch.randn(2, 2, 3, 4, 5, 6)
    wanted = torch.stack((even, odd), dim=3).reshape(2, 3, 8, 5, 6)
    last = [half.contiguous(memory_format=torch.channels_last_3d) for half in (even, odd)]
    assert torch.equal(_interleave(even, odd), wanted)
    assert torch.equal(_interleave(*last), wanted)
    assert _interleave(*last).is_contiguous(memory_format=torch.channels_last_3d)


def test_released_size_has_194_tensors():
    with torch.device("meta"):
        state = WanVAE().state_dict()
    assert len(state) == 194
    assert sum(tensor.numel() for tensor in state.values()) == 126_892_531
    assert tuple(state["decoder.middle.1.to_qkv.weight"].shape) == (1152, 384, 1, 1)
    assert tuple(state["decoder.upsamples.3.time_conv.weight"].shape) == (768, 384, 3, 1, 1)
    assert tuple(state["decoder.head.2.weight"].shape) == (3, 96, 3, 3, 3)
    assert tuple(state["conv1.weight"].shape) == (32, 32, 1, 1, 1)


def test_it_is_a_latent_codec(codec):
    assert isinstance(codec, LatentCodec)
    assert isinstance(codec.decoder(), StreamDecoder)
    assert (codec.latent_channels, codec.spatial_stride, codec.temporal_stride) == (16, 8, 4)
    assert codec.pixel_size(60, 104) == (480, 832)


@pytest.mark.parametrize("call", [
    lambda codec: codec.encode_frames(torch.zeros(1, 3, 20, 24)),
    lambda codec: codec.encode_frames(torch.zeros(0, 3, 16, 24)),
    lambda codec: codec.encode_frames(torch.zeros(1, 3, 16, 24, dtype=torch.uint8)),
    lambda codec: codec.encode_clip(torch.zeros(1, 3, 4, 16, 24)),
    lambda codec: codec.encode_clip(torch.zeros(1, 4, 5, 16, 24)),
    lambda codec: codec.decoder().decode(torch.zeros(1, 0, 16, 4, 4)),
    lambda codec: codec.decoder().decode(torch.zeros(1, 2, 4, 4, 4)),
], ids=["odd-size", "none", "bytes", "not-1+4k", "rgba", "no-latents", "channels"])  # fmt: skip
def test_wrong_inputs_are_refused(codec, call):
    with pytest.raises(ConfigError, match="wanted"):
        call(codec)


def test_wrong_weights_are_refused(state):
    broken = dict(state)
    del broken["decoder.conv1.bias"]
    broken["decoder.conv1.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"some\.pth.*decoder\.conv1\.bias.*conv1\.weight"):
        WanCodec.from_state(broken, source="some.pth")
    with pytest.raises(WeightsError, match="wanted 194"):
        WanCodec.from_state({"weight": torch.zeros(1)})
