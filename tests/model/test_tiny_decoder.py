"""The tiny decoder against its layout, written down once more, and against a whole-clip decode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.model.codec import LatentCodec, ResumableDecoder
from shotstream_rt.model.tiny.codec import TinyCodec
from shotstream_rt.model.tiny.network import TinyDecoder

STAGES = ((3, 256, 1, 128), (9, 128, 2, 64), (15, 64, 2, 64))
"""Number of a stage's first layer, its channels, frames made of each, channels after it."""


def file_shapes(latent_channels: int = 16, pixel_channels: int = 3) -> dict[str, tuple[int, ...]]:
    """The decoder's part of ``taew2_1``; other members of the family differ in the arguments."""
    shapes: dict[str, tuple[int, ...]] = {
        "decoder.1.weight": (256, latent_channels, 3, 3),
        "decoder.1.bias": (256,),
        "decoder.22.weight": (pixel_channels, 64, 3, 3),
        "decoder.22.bias": (pixel_channels,),
    }
    for first, width, growth, after in STAGES:
        for layer in (first, first + 1, first + 2):
            for conv, inputs in ((0, 2 * width), (2, width), (4, width)):
                shapes[f"decoder.{layer}.conv.{conv}.weight"] = (width, inputs, 3, 3)
                shapes[f"decoder.{layer}.conv.{conv}.bias"] = (width,)
        shapes[f"decoder.{first + 4}.conv.weight"] = (growth * width, width, 1, 1)
        shapes[f"decoder.{first + 5}.weight"] = (after, width, 3, 3)
    return shapes


def random_state(**sizes: int) -> dict[str, Tensor]:
    """Weights of a size that keeps most pixels inside [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in file_shapes(**sizes).items():
        fan_in = shape[1] * shape[-1] ** 2 if len(shape) > 1 else 100
        state[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
    state["decoder.22.bias"].fill_(0.5)
    return state


def whole_clip(state: dict[str, Tensor], latents: Tensor) -> Tensor:
    """All frames at once, layer by layer in the file's order: ``[F, 16, h, w]`` to pixels."""

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=padding)

    x = conv(3 * torch.tanh(latents / 3), "decoder.1").relu()
    for first, _, growth, _ in STAGES:
        for layer in (first, first + 1, first + 2):
            past = torch.zeros_like(x)
            past[1:] = x[:-1]
            y = conv(torch.cat((x, past), 1), f"decoder.{layer}.conv.0").relu()
            y = conv(y, f"decoder.{layer}.conv.2").relu()
            x = (conv(y, f"decoder.{layer}.conv.4") + x).relu()
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = conv(x, f"decoder.{first + 4}.conv", padding=0)
        x = x.reshape(len(x) * growth, -1, *x.shape[-2:])
        x = conv(x, f"decoder.{first + 5}")
    return conv(x.relu(), "decoder.22")[3:].clamp(0, 1) * 2 - 1


class Encodes:
    """Stands in for the exact codec where nothing is decoded with it."""

    dtype = torch.float32

    def encode_frames(self, frames: Tensor) -> Tensor:
        return frames + 1

    def encode_clip(self, clip: Tensor) -> Tensor:
        return clip + 2


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(scope="module")
def codec(state: dict[str, Tensor]) -> TinyCodec:
    network = TinyDecoder()
    network.load_state_dict(state)
    return TinyCodec(Encodes(), network)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(1, 7, 16, 2, 3, generator=torch.Generator().manual_seed(1)) * 2


def test_layout_is_the_files() -> None:
    with torch.device("meta"):
        names = {name: tuple(value.shape) for name, value in TinyDecoder().state_dict().items()}
    assert names == file_shapes()
    assert len(names) == 64


def test_streaming_is_the_whole_clip_at_once(
    codec: TinyCodec, state: dict[str, Tensor], latents: Tensor
) -> None:
    wanted = whole_clip({k: v.double() for k, v in state.items()}, latents[0].double())
    got = codec.decode_full(latents)
    assert got.shape == (1, 1 + 4 * 6, 3, 16, 24)
    assert got.dtype == torch.float32
    assert (wanted.abs() < 1).double().mean() > 0.5, "most pixels must not be clamped"
    torch.testing.assert_close(got[0].double(), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("split", [[1] * 7, [3, 3, 1], [1, 6], [4, 3]], ids=str)
def test_any_split_gives_the_same_bits(codec: TinyCodec, latents: Tensor, split: list[int]) -> None:
    decoder = codec.decoder()
    parts = [decoder.decode(part) for part in latents.split(split, dim=1)]
    assert [part.shape[1] for part in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(split)]
    assert torch.equal(torch.cat(parts, 1), codec.decode_full(latents))


def test_reset_begins_a_stream_of_any_size(codec: TinyCodec, latents: Tensor) -> None:
    decoder = codec.decoder()
    decoder.decode(latents[:, :2])
    decoder.reset()
    assert torch.equal(decoder.decode(latents), codec.decode_full(latents))
    decoder.reset()
    assert decoder.decode(latents[..., :1, :]).shape == (1, 25, 3, 8, 24)
    with pytest.raises(ConfigError, match="reset first"):
        decoder.decode(latents)


def test_a_stream_is_resumed(codec: TinyCodec, latents: Tensor) -> None:
    decoder = codec.decoder()
    decoder.decode(latents[:, :1])
    state = decoder.state()
    wanted = decoder.decode(latents[:, 1:])
    for _ in range(2):
        decoder.resume(state)
        assert torch.equal(decoder.decode(latents[:, 1:]), wanted)


def test_streams_side_by_side_do_not_mix(codec: TinyCodec, latents: Tensor) -> None:
    one, two = codec.decoder(), codec.decoder()
    one.decode(latents[:, :1])
    two.decode(-latents[:, :3])
    assert torch.equal(one.decode(latents[:, 1:]), codec.decode_full(latents)[:, 1:])


@pytest.mark.parametrize("shape", [(1, 0, 16, 2, 2), (2, 1, 16, 2, 2), (1, 1, 32, 2, 2), (16, 2)])
def test_other_latents_are_refused(codec: TinyCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        codec.decode_full(torch.zeros(shape))


def test_codec_encodes_with_the_exact_one(codec: TinyCodec) -> None:
    assert isinstance(codec, LatentCodec)
    assert isinstance(codec.decoder(), ResumableDecoder)
    assert codec.pixel_size(60, 104) == (480, 832)
    frames = torch.zeros(2, 3, 8, 8)
    assert torch.equal(codec.encode_frames(frames), frames + 1)
    assert torch.equal(codec.encode_clip(frames), frames + 2)


def test_bfloat16_is_close(state: dict[str, Tensor], latents: Tensor, tmp_path: Path) -> None:
    save_file(state, tmp_path / "taew2_1.safetensors")
    narrow = TinyCodec.load(
        tmp_path / "taew2_1.safetensors",
        Encodes(),  # type: ignore[arg-type]
        dtype=torch.bfloat16,
    )
    wanted = whole_clip(state, latents[0])
    got = narrow.decode_full(latents)[0]
    assert got.dtype == torch.float32
    assert (got - wanted).norm() / wanted.norm() < 0.05


@pytest.mark.parametrize("name", ["taew2_1.safetensors", "taew2_1.pth"])
def test_files_are_read_without_their_encoder(
    codec: TinyCodec, state: dict[str, Tensor], latents: Tensor, tmp_path: Path, name: str
) -> None:
    stored = {**{k: v.half() for k, v in state.items()}, "encoder.0.weight": torch.zeros(64)}
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(stored, path)
    else:
        save_file(stored, path)
    loaded = TinyCodec.load(path, codec.exact)
    assert loaded.exact is codec.exact
    got, wanted = loaded.decode_full(latents), codec.decode_full(latents)
    assert got.dtype == torch.float32
    assert (got - wanted).abs().max() < 0.05


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({**random_state(), "decoder.23.weight": torch.zeros(3)}, "1 unexpected"),
        ({**random_state(), "vae.decoder.1.bias": torch.zeros(3)}, "vae.decoder.1.bias"),
        ({k: v for k, v in random_state().items() if "decoder.7." not in k}, "decoder.7.conv"),
        (random_state(latent_channels=48, pixel_channels=12), r"wanted \(256, 16, 3, 3\)"),
        ({"encoder.0.weight": torch.zeros(64)}, "64 missing"),
    ],
    ids=["more", "prefixed", "less", "taew2_2", "encoder-only"],
)
def test_other_files_are_weights_errors(
    broken: dict[str, Tensor], named: str, codec: TinyCodec, tmp_path: Path
) -> None:
    path = tmp_path / "taew2_1.pth"
    torch.save(broken, path)
    with pytest.raises(WeightsError, match=named) as caught:
        TinyCodec.load(path, codec.exact)
    assert str(path) in str(caught.value)


def test_truncated_file_is_a_weights_error(codec: TinyCodec, tmp_path: Path) -> None:
    path = tmp_path / "taew2_1.safetensors"
    save_file(random_state(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="complete"):
        TinyCodec.load(path, codec.exact)
