"""Counts against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt.bench.ceilings import Ceilings
from shotstream_rt.bench.roofline import place
from shotstream_rt.bench.work import (
    Stage,
    codec_stages,
    exact_codec,
    pack_stage,
    pass_work,
    plain_codec,
    read_frames,
    student_stages,
    text_stage,
)
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.model.nano.codec import NanoCodec, NanoCodecNet
from shotstream_rt.model.tiny.codec import TinyCodec
from shotstream_rt.model.tiny.network import TinyDecoder
from shotstream_rt.model.wan_vae.codec import WanCodec
from shotstream_rt.model.wan_vae.network import WanVAE

SMALL = ModelConfig(
    dim=8, ffn_dim=20, num_heads=1, num_layers=2, text_dim=4, text_len=6,
    latent_height=4, latent_width=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def wan() -> WanCodec:
    with torch.device("meta"):
        return WanCodec(WanVAE())


def test_a_pass_by_hand() -> None:
    # 6 queries, 10 keys, 3 caption tokens; patches of 64 numbers in and out.
    block = (
        2 * 6 * (4 * 8 * 8)  # q, k, v, out
        + 2 * (2 * 6 * 10 * 8)  # scores, mixing
        + 2 * 6 * (2 * 8 * 8)  # cross q and out
        + 2 * (2 * 6 * 3 * 8)
        + 2 * 6 * (2 * 8 * 20)  # up, down
    )
    ends = 2 * 6 * 64 * 8
    flops, nbytes = pass_work(SMALL, queries=6, keys=10, caption=3, itemsize=2, keeps_flow=True)
    assert flops == 2 * block + 2 * ends
    weights = 2 * (6 * 64 + 2 * 160) + 2 * 64 * 8
    assert nbytes == 2 * (weights + 2 * 2 * (10 + 3) * 8 + 2 * 6 * 64)
    flops, _ = pass_work(SMALL, queries=6, keys=10, caption=3, itemsize=2, keeps_flow=False)
    assert flops == block + ends + 2 * (2 * 6 * 8 * 8)  # the last block's keys and values


def test_released_student_in_tflop() -> None:
    """11.70 of linear layers, 12.11 to 36.33 of self-attention, as counted by others."""
    stages = {stage.metric: stage for stage in student_stages(StreamConfig(), [511], 2)}
    linear, cross, ends = 11.70, 0.44, 0.002
    assert stages["step_ms.1"].flops / 1e12 == pytest.approx(
        linear + cross + 12.11 + ends, abs=0.02
    )
    assert stages["step_ms.7"].flops / 1e12 == pytest.approx(
        linear + cross + 36.33 + ends, abs=0.02
    )
    assert "step_ms.8" not in stages
    assert "commit_ms.7" not in stages


def test_a_ring_that_is_full_grows_no_more() -> None:
    config = StreamConfig(
        model=SMALL,
        cache=CacheConfig(context_frames=2, window_frames=3),
        shot=ShotConfig(chunk_frames=1, shot_frames=5),
    )
    names = [stage.name for stage in student_stages(config, [3, 4], 4) if "step" in stage.name]
    assert names == [f"step, {keys} frames of keys" for keys in (3, 4, 5, 5, 5)]


def test_pruned_heads_read_the_context_and_the_last_frames() -> None:
    pruned = HistoryPolicy(recent_frames=3, pruned_heads=(tuple(range(0, 12, 2)),) * 30)
    config = StreamConfig(history=pruned)
    # Half the heads read all 27 frames, half of them 6 of context, 3 recent and 3 own ones.
    assert read_frames(config, 27) == (27 + 12) / 2
    assert read_frames(config, 9) == 9
    assert read_frames(StreamConfig(), 27) == 27


def test_without_context_there_is_no_context_pass() -> None:
    config = StreamConfig(model=SMALL, cache=CacheConfig(context_frames=0))
    stages = student_stages(config, [3], 4)
    assert not [stage for stage in stages if stage.metric == "context_pass_ms"]
    assert stages[1].name == "step, 3 frames of keys"


def test_wan_decoder_in_tflop(wan: WanCodec) -> None:
    """40.65 per later chunk and 28.8 for the first one's nine frames."""
    stages = {stage.metric: stage for stage in codec_stages(wan, StreamConfig())}
    assert stages["vae_decode_ms.2"].flops / 1e12 == pytest.approx(40.65, abs=0.01)
    assert stages["vae_decode_ms.1"].flops / 1e12 == pytest.approx(28.80, abs=0.01)


def test_tiny_decoder_has_a_twenty_fifth_of_the_work(wan: WanCodec) -> None:
    with torch.device("meta"):
        tiny = TinyCodec(wan, TinyDecoder())
    assert exact_codec(tiny) is wan
    assert plain_codec(tiny) is tiny
    whole, part = (codec_stages(codec, StreamConfig())[1].flops for codec in (wan, tiny))
    assert 20 < whole / part < 30


def test_nano_codec_is_counted() -> None:
    config = StreamConfig(model=SMALL)
    stages = codec_stages(NanoCodec(NanoCodecNet()), config)
    assert all(stage.flops > 0 and stage.nbytes > 0 for stage in stages)
    pack = pack_stage(config, NanoCodec(NanoCodecNet()))
    assert pack.nbytes == 12 * 3 * 32 * 48 * 5


def test_text_is_its_linear_layers() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Embedding(100, 3))
    stage = text_stage(network, 7)
    assert (stage.flops, stage.nbytes) == (2 * 7 * 15, 4 * 15)


def test_a_floor_is_the_longer_of_two_times() -> None:
    ceilings = Ceilings(copy_gbps=2.0, gemm_tflops={"float32": 1.0}, gemm_shape={})
    stages = [
        Stage(name="much to compute", metric="a_ms", flops=4e9, nbytes=2e6),
        Stage(name="much to move", metric="b_ms", flops=1e6, nbytes=6e6),
        Stage(name="not measured", metric="c_ms", flops=1, nbytes=1),
    ]
    placed = place(stages, {"a_ms": [8.0, 16.0, 9.0], "b_ms": [6.0]}, ceilings, "float32")
    assert [(p.bound, p.floor_ms, p.measured_ms) for p in placed] == [
        ("compute", pytest.approx(4.0), 9.0),
        ("memory", pytest.approx(3.0), 6.0),
    ]
    assert placed[1].percent == pytest.approx(50)
