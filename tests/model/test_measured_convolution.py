"""Convolutions chosen by measurement: what is measured, kept, and put back."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt import env
from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.kernels.sets.decoder_set import convolve
from shotstream_rt.loading import recorded_codec as recorded_codec_module
from shotstream_rt.loading.recorded_codec import recorded_codec
from shotstream_rt.model import chunk_decoder as chunk_decoder_module
from shotstream_rt.model import measured_convolution
from shotstream_rt.model.checkpoint import load_checkpoint
from shotstream_rt.model.chunk_decoder import ChunkCodec, ChunkShape
from shotstream_rt.model.convolution_choices import ConvolutionChoices, MeasuredChoice
from shotstream_rt.model.measured_convolution import MeasuredConvolution, describe, searching
from shotstream_rt.model.wan_vae.codec import WanCodec

GOLDEN = Path(__file__).parents[1] / "golden"
SEARCH = MeasuredChoice(search=True, heuristic_ms=2.0, search_ms=1.0)
GUESS = MeasuredChoice(search=False, heuristic_ms=1.0, search_ms=1.0)


class Measurements:
    """Gives choices instead of measuring them."""

    def __init__(self, *choices: MeasuredChoice) -> None:
        self.left = list(choices)

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]
    ) -> MeasuredChoice:
        return self.left.pop(0)


@pytest.fixture()
def told(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the library was told about searching, call by call."""
    settings: list[bool] = []

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
        settings.append(torch.backends.cudnn.benchmark)
        return convolve(x, weight, bias, padding)

    monkeypatch.setattr(measured_convolution, "convolve", noted)
    return settings


def choices(tmp_path: Path, owner: str = "a chip") -> ConvolutionChoices:
    return ConvolutionChoices(tmp_path / "cache" / "convolutions.json", owner)


@pytest.mark.parametrize(
    ("heuristic_ms", "search_ms", "search"),
    [(1.0, 0.9, True), (1.0, 0.98, False), (1.0, 1.0, False), (1.0, 1.2, False)],
)
def test_a_search_has_to_gain(heuristic_ms: float, search_ms: float, search: bool) -> None:
    assert MeasuredChoice.between(heuristic_ms, search_ms).search is search


@pytest.mark.parametrize("host", [False, True])
def test_the_first_call_of_a_shape_searches_if_that_was_faster(
    tmp_path: Path, told: list[bool], monkeypatch: pytest.MonkeyPatch, host: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", host)
    run = MeasuredConvolution(choices(tmp_path), Measurements(SEARCH, GUESS))
    pictures, clips = torch.randn(2, 3, 5, 4), torch.randn(1, 3, 4, 5, 4)
    weight, over_time, bias = torch.randn(6, 3, 3, 3), torch.randn(6, 3, 2, 3, 3), torch.randn(6)
    for _ in range(2):
        assert torch.equal(
            run(pictures, weight, bias, (1, 1)),
            torch.nn.functional.conv2d(pictures, weight, bias, padding=1),
        )
        assert torch.equal(
            run(clips, over_time, None, (0, 1, 1)),
            torch.nn.functional.conv3d(clips, over_time, padding=(0, 1, 1)),
        )
    assert told == [True, False, host, host]
    assert torch.backends.cudnn.benchmark is host


def test_a_choice_is_measured_once_for_all_processes(tmp_path: Path, told: list[bool]) -> None:
    x, weight = torch.randn(1, 3, 5, 4), torch.randn(6, 3, 3, 3)
    MeasuredConvolution(choices(tmp_path), Measurements(SEARCH))(x, weight, None, (1, 1))
    MeasuredConvolution(choices(tmp_path), Measurements())(x, weight, None, (1, 1))
    assert told == [True, True]
    other = choices(tmp_path, "another chip")
    assert other.find(describe(x, weight, (1, 1))) is None
    other.keep("a shape", GUESS)
    kept = choices(tmp_path)
    assert kept.find(describe(x, weight, (1, 1))) == SEARCH
    assert kept.find("a shape") is None
    content = json.loads((tmp_path / "cache" / "convolutions.json").read_text("utf-8"))
    assert set(content["chips"]) == {"a chip", "another chip"}


def test_what_two_processes_measured_is_both_kept(tmp_path: Path) -> None:
    one, other = choices(tmp_path), choices(tmp_path)
    one.keep("a shape", SEARCH)
    other.keep("another shape", GUESS)
    kept = choices(tmp_path)
    assert (kept.find("a shape"), kept.find("another shape")) == (SEARCH, GUESS)


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"schema_version": 2, "chips": {}}', '{"schema_version": 1}',
        '{"schema_version": 1, "chips": {"a chip": {"x": {"search": 1}}}}',
        '{"schema_version": 1, "chips": {"a chip": []}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    path = tmp_path / "convolutions.json"
    path.write_text(content, "utf-8")
    with caplog.at_level(logging.WARNING, "shotstream_rt.model"):
        found = ConvolutionChoices(path, "a chip")
    assert "measured again" in caplog.text
    found.keep("a shape", SEARCH)
    assert ConvolutionChoices(path, "a chip").find("a shape") == SEARCH


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    kept = choices(tmp_path)
    with caplog.at_level(logging.WARNING, "shotstream_rt.model"):
        kept.keep("a shape", SEARCH)
    assert "measured again next time" in caplog.text
    assert kept.find("a shape") == SEARCH


def test_shapes_types_and_padding_are_measured_apart() -> None:
    x, weight = torch.zeros(1, 3, 5, 4), torch.zeros(6, 3, 3, 3)
    said = [
        describe(x, weight, (1, 1)), describe(x, weight, (0, 0)),
        describe(x[:, :, 1:], weight, (1, 1)), describe(x, weight[1:], (1, 1)),
        describe(x.bfloat16(), weight, (1, 1)),
    ]  # fmt: skip
    assert len(set(said)) == len(said)
    assert said[-1] == "bfloat16 1x3x5x4 by 6x3x3x3 padded 1x1"


def test_the_setting_is_put_back_after_an_error_and_by_one_thread_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    inside, seen = threading.Event(), []

    def other() -> None:
        inside.wait(10)
        with searching(False):
            seen.append(torch.backends.cudnn.benchmark)

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(ZeroDivisionError), searching(True):
        inside.set()
        thread.join(0.2)
        assert not seen, "another thread has to wait"
        assert torch.backends.cudnn.benchmark
        raise ZeroDivisionError
    thread.join(10)
    assert seen == [False]
    assert torch.backends.cudnn.benchmark is False


def test_every_convolution_of_a_decoder_is_measured(
    tmp_path: Path, told: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    wan = WanCodec.from_state(load_checkpoint(GOLDEN / "weights_vae.safetensors"))
    latents = load_checkpoint(GOLDEN / "f_vae.safetensors")["latents"][:, :3]
    made: list[str] = []

    def measure(
        x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]
    ) -> MeasuredChoice:
        made.append(describe(x, weight, padding))
        return SEARCH

    monkeypatch.setattr(
        chunk_decoder_module, "MeasuredConvolution",
        lambda found: MeasuredConvolution(found, measure),
    )  # fmt: skip
    codec = ChunkCodec(
        wan, ChunkShape(frames=3, height=5, width=6), lambda: lambda run: run, choices(tmp_path)
    )
    assert codec.kernel_set == "reference+measured"
    wanted = ChunkCodec(wan, codec.shape, lambda: lambda run: run).decoder().decode(latents)
    decoder = codec.decoder()
    assert len(made) == len(set(made)) > 5
    assert told.count(True) == len(made)
    assert torch.equal(decoder.decode(latents), wanted)
    codec.decoder()
    assert len(made) == len(set(made)), "the second decoder finds them in the file"


@pytest.mark.parametrize("value", ["", "heuristic", "Measured"])
def test_the_environment_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(env.CONVOLUTIONS, value)
    monkeypatch.setattr(
        recorded_codec_module.ConvolutionChoices, "of", lambda device: choices(tmp_path)
    )
    wan = WanCodec.from_state(load_checkpoint(GOLDEN / "weights_vae.safetensors"))
    monkeypatch.setattr(wan, "device", torch.device("cuda"))
    codec = recorded_codec(wan, StreamConfig(model=ModelConfig()))
    assert isinstance(codec, ChunkCodec)
    assert codec.kernel_set.endswith("+measured") == (value == "Measured")


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env.CONVOLUTIONS, "fastest")
    with pytest.raises(ConfigError, match=r"SHOTSTREAM_CONVOLUTIONS.*heuristic or measured"):
        env.measured_convolutions()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_measured_convolutions_decode_like_the_twin(tmp_path: Path, dtype: torch.dtype) -> None:
    from shotstream_rt.backends.cuda_graph import GraphCapture

    device = torch.device("cuda")
    state = load_checkpoint(GOLDEN / "weights_vae.safetensors")
    latents = load_checkpoint(GOLDEN / "f_vae.safetensors")["latents"]
    wanted = WanCodec.from_state(state).decode_full(latents)
    codec = ChunkCodec(
        WanCodec.from_state(state, device=device, dtype=dtype),
        ChunkShape(frames=3, height=5, width=6),
        lambda: GraphCapture(device),
        choices(tmp_path),
    )
    before = torch.backends.cudnn.benchmark
    decoder = codec.decoder()
    assert torch.backends.cudnn.benchmark is before
    assert (tmp_path / "cache" / "convolutions.json").is_file()
    parts = [decoder.decode(part.to(device)).cpu() for part in latents.split(3, 1)]
    got = torch.cat(parts, 1)
    limit = 3e-2 if dtype == torch.bfloat16 else 5e-3
    assert float((got - wanted).norm() / wanted.norm()) < limit
