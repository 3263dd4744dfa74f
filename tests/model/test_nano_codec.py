"""The nano codec: streaming equals whole clips, frames alone equal one-frame clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.abandonment import ChunkAbandonedError, never
from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.model.codec import AbandonableDecoder, LatentCodec, ResumableDecoder
from shotstream_rt.model.nano.codec import CausalBlock, CodecDepths, NanoCodec, NanoCodecNet


@pytest.fixture
def codec(seeded: int) -> NanoCodec:
    net = NanoCodecNet()
    for module in net.modules():
        if isinstance(module, CausalBlock):
            # Residual branches start at zero; without weights the memory would go untested.
            torch.nn.init.normal_(module.out.weight, std=0.05)
    net.latent_mean.normal_()
    net.latent_std.uniform_(0.5, 2)
    return NanoCodec(net)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.rand(1, 3, 13, 32, 48) * 2 - 1


def test_it_is_a_codec(codec: NanoCodec) -> None:
    assert isinstance(codec, LatentCodec)
    assert isinstance(codec.decoder(), ResumableDecoder)
    assert codec.pixel_size(12, 20) == (96, 160)


def test_clip_shapes(codec: NanoCodec, clip: torch.Tensor) -> None:
    latents = codec.encode_clip(clip)
    assert latents.shape == (1, 4, 16, 4, 6)
    frames = codec.decode_full(latents)
    assert frames.shape == (1, 13, 3, 32, 48)
    assert frames.dtype == torch.float32
    assert frames.abs().max() <= 1


def test_autocast_does_not_round_what_blocks_add_to(seeded: int) -> None:
    """Trainers run it under autocast, where limited features come out of float32 operations."""
    block = CausalBlock(8, memory=False, limited=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = block(torch.randn(2, 8, 4, 4), 1, None)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 3), (2, 2), (3, 1)])
def test_streaming_equals_the_whole(
    codec: NanoCodec, clip: torch.Tensor, sizes: tuple[int, ...]
) -> None:
    latents = codec.encode_clip(clip)
    decoder = codec.decoder()
    parts = [decoder.decode(part) for part in latents.split(sizes, 1)]
    assert parts[0].shape[1] == 4 * sizes[0] - 3
    torch.testing.assert_close(torch.cat(parts, 1), codec.decode_full(latents))


def test_a_decode_is_given_up_between_blocks(codec: NanoCodec, clip: torch.Tensor) -> None:
    latents, decoder, asked = codec.encode_clip(clip), codec.decoder(), list[bool]()
    assert isinstance(decoder, AbandonableDecoder)
    wanted = decoder.decode(latents)

    def at_the_third() -> bool:
        asked.append(True)
        return len(asked) == 3

    decoder.reset()
    decoder.abandoned = at_the_third
    with pytest.raises(ChunkAbandonedError):
        decoder.decode(latents)
    assert len(asked) == 3
    decoder.abandoned = never
    decoder.reset()
    assert torch.equal(decoder.decode(latents), wanted)


def test_a_stream_is_resumed(codec: NanoCodec, clip: torch.Tensor) -> None:
    latents = codec.encode_clip(clip)
    decoder, other = codec.decoder(), codec.decoder()
    decoder.decode(latents[:, :2])
    state = decoder.state()
    wanted = decoder.decode(latents[:, 2:])
    for one in (decoder, other, other):
        one.resume(state)
        assert torch.equal(one.decode(latents[:, 2:]), wanted)


def test_reset_begins_a_new_stream(codec: NanoCodec, clip: torch.Tensor) -> None:
    latents = codec.encode_clip(clip)
    decoder = codec.decoder()
    first = decoder.decode(latents[:, :2])
    decoder.reset()
    torch.testing.assert_close(decoder.decode(latents[:, :2]), first)


def test_two_decoders_do_not_share_memory(codec: NanoCodec, clip: torch.Tensor) -> None:
    latents = codec.encode_clip(clip)
    wanted = codec.decode_full(latents)
    one, other = codec.decoder(), codec.decoder()
    one.decode(latents[:, :2])
    other.decode(-latents[:, :3])
    torch.testing.assert_close(one.decode(latents[:, 2:]), wanted[:, 5:])


def test_decoding_is_causal(codec: NanoCodec, clip: torch.Tensor) -> None:
    latents = codec.encode_clip(clip)
    changed = latents.clone()
    changed[:, 2:] = 0
    before, after = codec.decode_full(latents), codec.decode_full(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5:], before[:, 5:])


def test_frames_are_clips_of_one(codec: NanoCodec, clip: torch.Tensor) -> None:
    frames = clip[0].transpose(0, 1)[:3]
    encoded = codec.encode_frames(frames)
    assert encoded.shape == (3, 16, 4, 6)
    for frame, latent in zip(frames, encoded, strict=True):
        alone = codec.encode_clip(frame[None, :, None])
        torch.testing.assert_close(alone[0, 0], latent)


def test_wrong_frame_counts_are_refused(codec: NanoCodec) -> None:
    with pytest.raises(ConfigError, match="1 \\+ 4k"):
        codec.encode_clip(torch.zeros(1, 3, 8, 32, 48))


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file"):
        NanoCodec.load(tmp_path / "codec.safetensors")
    save_file({"latent_mean": torch.zeros(16)}, str(tmp_path / "codec.safetensors"))
    with pytest.raises(WeightsError, match="does not fit"):
        NanoCodec.load(tmp_path / "codec.safetensors")


def test_depths_are_read_off_the_file(tmp_path: Path, clip: torch.Tensor) -> None:
    depths = CodecDepths(encoder_quarter=2, encoder_eighth=1, decoder_eighth=3, decoder_quarter=2)
    net = NanoCodecNet(depths)
    assert CodecDepths.of(net.state_dict()) == depths
    assert CodecDepths.of(NanoCodecNet().state_dict()) == CodecDepths()
    path = tmp_path / "codec.safetensors"
    save_file(net.state_dict(), str(path))
    latents = NanoCodec.load(path).encode_clip(clip)
    torch.testing.assert_close(latents, NanoCodec(net).encode_clip(clip))


def test_bfloat16_pictures_are_those_of_float32() -> None:
    path = NANO_FOLDER / "codec.safetensors"
    plain, rounded = NanoCodec.load(path), NanoCodec.load(path, dtype=torch.bfloat16)
    rows, columns = torch.arange(96.0)[:, None], torch.arange(160.0)
    waves = [torch.sin(rows / 9 + columns / 17 + shift) for shift in range(3)]
    moving = [torch.stack(waves).roll(4 * frame, 2) for frame in range(13)]
    clip = torch.stack(moving, 1)[None]
    latents = plain.encode_clip(clip)
    assert rounded.encode_clip(clip).dtype == torch.bfloat16

    pictures, wanted = rounded.decode_full(latents), plain.decode_full(latents)
    assert pictures.dtype == torch.float32
    assert pictures.shape == wanted.shape
    error = (pictures - wanted).square().mean()
    assert 10 * torch.log10(4 / error) > 45  # dB; the range is [-1, 1]
