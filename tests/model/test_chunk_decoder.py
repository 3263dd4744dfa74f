"""Chunk programs against the latent-by-latent decoders and the original's numbers.

Capture is by calling here: the same functions on the same buffers, without graphs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.kernels.sets.decoder_set import (
    REFERENCE_DECODER,
    DecoderKernels,
    decoder_kernels,
    triton_decoder_kernels,
)
from shotstream_rt.loading.recorded_codec import recorded_codec
from shotstream_rt.model.checkpoint import load_checkpoint
from shotstream_rt.model.chunk_decoder import ChunkCodec, ChunkDecoder, ChunkShape
from shotstream_rt.model.codec import LatentCodec, StreamDecoder
from shotstream_rt.model.frame_layout import as_clip, enlarge, enlarging_weight, spread, widened
from shotstream_rt.model.nano.codec import NanoCodec, NanoCodecNet
from shotstream_rt.model.tiny.codec import TinyCodec
from shotstream_rt.model.tiny.network import TinyDecoder
from shotstream_rt.model.wan_vae.codec import WanCodec

GOLDEN = Path(__file__).parents[1] / "golden"
BFLOAT16_SLACK = 1.3  # times the original's own distance


def by_calling(function: Callable[[], None]) -> Callable[[], None]:
    """Stand in for a graph: replay by calling again, after a run on the buffers as they are."""
    function()
    return function


def rel_l2(got: Tensor, wanted: Tensor) -> float:
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


def decode(
    codec: WanCodec | TinyCodec,
    latents: Tensor,
    chunk: int,
    kernels: DecoderKernels = REFERENCE_DECODER,
) -> Tensor:
    """A clip by chunks, by a decoder that was in the middle of another clip before."""
    shape = ChunkShape(frames=chunk, height=latents.shape[3], width=latents.shape[4])
    decoder = ChunkDecoder(codec.chunk_program(shape, kernels), by_calling)
    decoder.decode(torch.full_like(latents[:, :chunk], 3.0))
    decoder.decode(torch.full_like(latents[:, :chunk], -3.0))
    decoder.reset()
    return torch.cat([decoder.decode(part).clone() for part in latents.split(chunk, 1)], 1)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_checkpoint(GOLDEN / "f_vae.safetensors")


@pytest.fixture(scope="module")
def wan() -> WanCodec:
    return WanCodec.from_state(load_checkpoint(GOLDEN / "weights_vae.safetensors"))


def tiny_network() -> TinyDecoder:
    """Random weights of a size that keeps most pixels inside [0, 1]."""
    network, generator = TinyDecoder(), torch.Generator().manual_seed(2)
    for weight in network.parameters():
        fan_in = weight[0].numel() if weight.dim() > 1 else 100
        torch.nn.init.normal_(weight, std=fan_in**-0.5, generator=generator)
    torch.nn.init.constant_(network.decoder[-1].bias, 0.5)  # type: ignore[arg-type]
    return network


@pytest.fixture(scope="module")
def tiny(wan: WanCodec) -> TinyCodec:
    return TinyCodec(wan, tiny_network())


@pytest.mark.parametrize("chunk", [1, 3])
def test_wan_chunks_are_the_originals_frames(
    wan: WanCodec, golden: dict[str, Tensor], chunk: int
) -> None:
    got = decode(wan, golden["latents"], chunk)
    assert got.dtype == torch.float32
    assert got.shape == golden["decoded_full"].shape
    assert rel_l2(got, golden["decoded_full"]) < 1e-5


def test_wan_chunks_in_bfloat16_are_as_close_as_the_original(golden: dict[str, Tensor]) -> None:
    state = load_checkpoint(GOLDEN / "weights_vae.safetensors")
    codec = WanCodec.from_state(state, dtype=torch.bfloat16)
    facts = json.loads((GOLDEN / "f_vae.json").read_text())["bf16_rel_l2_vs_fp32"]
    got = decode(codec, golden["latents"], 3)
    assert rel_l2(got, golden["decoded_full"]) < BFLOAT16_SLACK * facts["decode"]


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_tiny_chunks_are_the_frames_of_its_twin(tiny: TinyCodec, chunk: int) -> None:
    latents = torch.randn(1, 6, 16, 3, 2, generator=torch.Generator().manual_seed(1))
    wanted = tiny.decode_full(latents)
    assert float((wanted.abs() < 1).float().mean()) > 0.5, "most pixels must not be clamped"
    torch.testing.assert_close(decode(tiny, latents, chunk), wanted, rtol=0, atol=2e-5)


@pytest.mark.interpret
@pytest.mark.parametrize("which", ["wan", "tiny"])
def test_triton_kernels_decode_the_same(
    request: pytest.FixtureRequest, golden: dict[str, Tensor], which: str
) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernel set triton on cpu: TRITON_INTERPRET is not 1")
    codec: WanCodec | TinyCodec = request.getfixturevalue(which)
    latents = golden["latents"][:, :2, :, :2, :1]
    got = decode(codec, latents, 1, triton_decoder_kernels())
    assert rel_l2(got, codec.decode_full(latents)) < 1e-5


@pytest.mark.parametrize("which", ["wan", "tiny"])
def test_buffers_keep_their_addresses(
    request: pytest.FixtureRequest, golden: dict[str, Tensor], which: str
) -> None:
    codec: WanCodec | TinyCodec = request.getfixturevalue(which)
    program = codec.chunk_program(ChunkShape(frames=2, height=2, width=2), REFERENCE_DECODER)
    runs: list[bool] = []

    def capture(function: Callable[[], None]) -> Callable[[], None]:
        function()

        def replay() -> None:
            runs.append(True)
            function()

        return replay

    decoder = ChunkDecoder(program, capture)
    latents = golden["latents"][:, :2, :, :2, :2]
    outputs = [decoder.decode(latents) for _ in range(3)]
    assert len(runs) == 3
    assert {part.shape[1] for part in outputs} == {5, 8}
    ends = {part.data_ptr() + part.nbytes for part in outputs}
    assert ends == {program.pixels.data_ptr() + program.pixels.nbytes}


def test_a_stream_begins_with_nothing_remembered(wan: WanCodec, golden: dict[str, Tensor]) -> None:
    program = wan.chunk_program(ChunkShape(frames=3, height=5, width=6), REFERENCE_DECODER)
    decoder = ChunkDecoder(program, by_calling)
    with torch.inference_mode():
        for buffer in (*program._pasts.values(), program.pixels):
            buffer.fill_(torch.nan)
    first = decoder.decode(golden["latents"][:, :3])
    assert rel_l2(first, golden["decoded_full"][:, :9]) < 1e-5
    assert program.memory_bytes == sum(past.nbytes for past in program._pasts.values()) > 0


def test_recorded_codec_stands_in_for_its_own(wan: WanCodec, golden: dict[str, Tensor]) -> None:
    made: list[int] = []

    def recorder() -> Callable[[Callable[[], None]], Callable[[], None]]:
        made.append(1)
        return by_calling

    codec = ChunkCodec(wan, ChunkShape(frames=3, height=5, width=6), recorder)
    assert isinstance(codec, LatentCodec)
    assert codec.kernel_set == decoder_kernels(torch.device("cpu")).name == "reference"
    one, other = codec.decoder(), codec.decoder()
    assert isinstance(one, StreamDecoder)
    assert len(made) == 2
    latents = golden["latents"][:, :3]
    one.decode(latents)
    other.decode(-latents)
    again = one.decode(golden["latents"][:, 3:6])
    assert rel_l2(again, golden["decoded_full"][:, 9:21]) < 1e-5
    assert torch.equal(codec.decode_full(latents), wan.decode_full(latents))
    frames = golden["clip"][:, :, 0]
    assert torch.equal(codec.encode_frames(frames), wan.encode_frames(frames))
    assert torch.equal(codec.encode_clip(golden["clip"]), wan.encode_clip(golden["clip"]))
    assert codec.pixel_size(5, 6) == (40, 48)


@pytest.mark.parametrize(("device", "recorded"), [("cuda", True), ("cpu", False)])
def test_decoding_is_recorded_on_a_gpu(
    wan: WanCodec, monkeypatch: pytest.MonkeyPatch, device: str, recorded: bool
) -> None:
    monkeypatch.setattr(wan, "device", torch.device(device))
    config = StreamConfig(model=ModelConfig(latent_height=60, latent_width=104))
    codec = recorded_codec(wan, config)
    assert isinstance(codec, ChunkCodec) == recorded
    if isinstance(codec, ChunkCodec):
        assert codec.codec is wan
        assert codec.shape == ChunkShape(frames=3, height=60, width=104)
    else:
        assert codec is wan


def test_a_codec_without_a_program_is_left_as_it_is() -> None:
    codec = NanoCodec(NanoCodecNet())
    assert recorded_codec(codec, StreamConfig(model=ModelConfig())) is codec


def test_other_shapes_than_the_recorded_are_refused(wan: WanCodec) -> None:
    shape = ChunkShape(frames=2, height=2, width=2)
    decoder = ChunkDecoder(wan.chunk_program(shape, REFERENCE_DECODER), by_calling)
    with pytest.raises(ConfigError, match="recorded"):
        decoder.decode(torch.zeros(1, 3, 16, 2, 2))


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_enlarging_is_doubling_then_convolving(size: tuple[int, int]) -> None:
    x, weight = torch.randn(2, *size, 5), torch.randn(7, 5, 3, 3)
    doubled = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
    wanted = F.conv2d(doubled, weight, padding=1).permute(0, 2, 3, 1)
    got = enlarge(x, enlarging_weight(weight))
    torch.testing.assert_close(got, wanted)
    assert got.is_contiguous()


@pytest.mark.parametrize("size", [(1, 4, 5, 8), (6, 1, 1, 3)])
def test_frames_are_a_clip_in_the_layout_of_tensor_cores(size: tuple[int, ...]) -> None:
    frames = torch.randn(size)
    clip = as_clip(frames)
    assert clip.shape == (1, size[3], *size[:3])
    empty = torch.empty(clip.shape, memory_format=torch.channels_last_3d)
    assert clip.stride() == empty.stride()
    assert clip.data_ptr() == frames.data_ptr()


def test_channels_spread_over_frames_and_pad_to_eight() -> None:
    pairs = torch.randn(2, 3, 4, 6)
    out = torch.empty(4, 3, 4, 3)
    spread(pairs, 2, out)
    assert torch.equal(out[0::2], pairs[..., :3])
    assert torch.equal(out[1::2], pairs[..., 3:])
    wide = widened(torch.ones(3, 2, 3, 3))
    assert wide.shape == (8, 2, 3, 3)
    assert float(wide.sum()) == 3 * 2 * 9


@pytest.mark.gpu
@pytest.mark.parametrize("which", ["wan", "tiny"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_replayed_graphs_decode_like_the_twin(which: str, dtype: torch.dtype) -> None:
    from shotstream_rt.backends.cuda_graph import GraphCapture

    device = torch.device("cuda")
    state = load_checkpoint(GOLDEN / "weights_vae.safetensors")
    latents = load_checkpoint(GOLDEN / "f_vae.safetensors")["latents"]
    codec: WanCodec | TinyCodec = WanCodec.from_state(state, device=device, dtype=dtype)
    wanted = WanCodec.from_state(state).decode_full(latents)
    if which == "tiny":
        network = tiny_network()
        wanted = TinyCodec(codec, network).decode_full(latents)
        codec = TinyCodec(codec, network.to(device, dtype))
    recorded = ChunkCodec(
        codec, ChunkShape(frames=3, height=5, width=6), lambda: GraphCapture(device)
    )
    decoder = recorded.decoder()
    for _ in range(2):
        decoder.reset()
        parts = [decoder.decode(part.to(device)).cpu() for part in latents.split(3, 1)]
        # Convolutions of a GPU take float32 operands as tf32 unless told otherwise.
        limit = 3e-2 if dtype == torch.bfloat16 else 5e-3
        assert rel_l2(torch.cat(parts, 1), wanted) < limit
