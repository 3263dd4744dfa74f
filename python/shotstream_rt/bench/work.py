"""The least that every stage must compute and move, counted from the configuration.

Two FLOPs per multiply and add. Bytes are those that no implementation can do without: weights once,
valid keys and values once, own keys and values, latents or pixels in and out; activations between
layers are not counted, as a fused implementation keeps them on the chip. So the time that these
take at the device's measured ceilings is a floor, not a prediction.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.model.codec import LatentCodec
from shotstream_rt.model.nano.codec import NanoCodec, NanoCodecNet
from shotstream_rt.model.tiny.codec import TinyCodec
from shotstream_rt.model.wan_vae.codec import WanCodec

_PATCH = 4
"""Latent pixels of a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of the runtime and its least work.

    Attributes:
        name: for people.
        metric: the samples that time it.
        flops: floating-point operations.
        nbytes: bytes read and written.
    """

    name: str
    metric: str
    flops: float
    nbytes: float


def layer_flops(model: ModelConfig, *, queries: int, keys: float, caption: int) -> float:
    """FLOPs of one transformer block over ``queries`` tokens.

    Args:
        model: shape.
        queries: tokens of the pass.
        keys: tokens attended to, own ones included; the mean over heads where they differ.
        caption: caption tokens attended to (padding counts as one).
    """
    dim, ffn = model.dim, model.ffn_dim
    products = 6 * dim * dim + 2 * dim * ffn  # q, k, v, out, cross q, cross out; up, down
    return 2 * queries * products + 4 * queries * dim * (keys + caption)


def layer_weights(model: ModelConfig) -> int:
    """Weights that a pass reads in one block; caption keys and values are made elsewhere."""
    dim, ffn = model.dim, model.ffn_dim
    return 6 * dim * dim + 2 * dim * ffn


def pass_work(
    model: ModelConfig, *, queries: int, keys: float, caption: int, itemsize: int, keeps_flow: bool
) -> tuple[float, float]:
    """FLOPs and bytes of one pass of the student.

    Args:
        model: shape.
        queries: tokens of the pass.
        keys: tokens attended to, own ones included; the mean over heads where they differ.
        caption: caption tokens attended to.
        itemsize: bytes of a number.
        keeps_flow: whether the head runs; without it the last block stops at keys and values.
    """
    dim, patch_in, patch_out = model.dim, _PATCH * model.in_dim, _PATCH * model.out_dim
    whole = model.num_layers if keeps_flow else model.num_layers - 1
    flops = whole * layer_flops(model, queries=queries, keys=keys, caption=caption)
    numbers = whole * (layer_weights(model) + 2 * (keys + caption) * dim)
    flops += 2 * queries * patch_in * dim
    numbers += patch_in * dim + queries * patch_in
    if keeps_flow:
        flops += 2 * queries * dim * patch_out
        numbers += dim * patch_out + queries * patch_out
    else:
        flops += 2 * queries * 2 * dim * dim
        numbers += 2 * dim * dim + 2 * queries * dim
    return float(flops), float(numbers * itemsize)


def student_stages(config: StreamConfig, captions: Sequence[int], itemsize: int) -> list[Stage]:
    """Stages of a shot's student passes: captions, context, steps and clean passes by chunk.

    Args:
        config: all that decides the passes.
        captions: real tokens of each caption; the last one is the running shot's.
        itemsize: bytes of a number.
    """
    model, per_frame = config.model, config.model.tokens_per_frame
    seen = [min(length + 1, model.text_len) for length in captions]
    dim, tokens = model.dim, sum(seen)
    embed, projections = model.text_dim * dim + dim * dim, model.num_layers * 2 * dim * dim
    stages = [
        Stage(
            name="caption keys", metric="caption_kv_ms",
            flops=2.0 * tokens * (embed + projections),
            nbytes=float(itemsize * (embed + projections + tokens * model.text_dim)),
        )
    ]  # fmt: skip

    def stage(name: str, metric: str, frames: int, keys: float, keeps_flow: bool) -> Stage:
        """Return a stage that is one pass of the student.

        Args:
            name: for people.
            metric: the samples that time it.
            frames: latent frames of the pass.
            keys: latent frames attended to, own ones included.
            keeps_flow: whether the head runs.
        """
        flops, nbytes = pass_work(
            model, queries=frames * per_frame, keys=keys * per_frame, caption=seen[-1],
            itemsize=itemsize, keeps_flow=keeps_flow,
        )  # fmt: skip
        return Stage(name=name, metric=metric, flops=flops, nbytes=nbytes)

    context, length = config.cache.context_frames, config.shot.chunk_frames
    if context:
        stages.append(stage("context pass", "context_pass_ms", context, context, False))
    fills = [
        context + min((chunk + 1) * length, config.local_frames)
        for chunk in range(config.shot.chunks)
    ]
    for n, keys in enumerate(fills, 1):
        name = f"step, {keys} frames of keys"
        stages.append(stage(name, f"step_ms.{n}", length, read_frames(config, keys), True))
    for n, keys in enumerate(fills[:-1], 1):
        name = f"clean pass, {keys} frames of keys"
        stages.append(stage(name, f"commit_ms.{n}", length, read_frames(config, keys), False))
    return stages


def read_frames(config: StreamConfig, keys: int) -> float:
    """Frames of keys that a head reads of so many valid ones: all, unless history is pruned.

    Returns:
        The mean over all heads of the model.
    """
    if config.history is None:
        return keys
    share = config.history.share(config.model.num_heads)
    context = config.cache.context_frames
    near = config.cache.sink_frames + config.history.recent_frames + config.shot.chunk_frames
    return (1 - share) * keys + share * (context + min(keys - context, near))


def codec_stages(codec: LatentCodec, config: StreamConfig) -> list[Stage]:
    """Stages between latents and pixels: decode of first and later chunks, encode of a frame.

    Counted by running the codec's plain form on tensors without memory.
    """
    model, length = config.model, config.shot.chunk_frames
    plain = _weightless(codec)
    shape = (1, length, model.in_dim, model.latent_height, model.latent_width)
    latents = torch.empty(shape, device="meta")
    decoder, stages = plain.decoder(), []
    for name, metric in (("first", "vae_decode_ms.1"), ("later", "vae_decode_ms.2")):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            frames = decoder.decode(latents)
        # Pixels leave as bytes, one for each number of the frames.
        nbytes = _weight_bytes(codec, "decoder") + frames.numel()
        stages.append(
            Stage(
                name=f"decode, {name} chunk", metric=metric,
                flops=float(counter.get_total_flops()), nbytes=float(nbytes),
            )
        )  # fmt: skip
    height, width = codec.pixel_size(model.latent_height, model.latent_width)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        plain.encode_frames(torch.empty(1, 3, height, width, device="meta"))
    stages.append(
        Stage(
            name="encode of a frame", metric="vae_encode_ms",
            flops=float(counter.get_total_flops()),
            nbytes=float(_weight_bytes(codec, "encoder") + 4 * 3 * height * width),
        )
    )  # fmt: skip
    return stages


def pack_stage(config: StreamConfig, codec: LatentCodec) -> Stage:
    """Packing of a later chunk's float32 frames into bytes."""
    model = config.model
    size = codec.pixel_size(model.latent_height, model.latent_width)
    numbers = codec.temporal_stride * config.shot.chunk_frames * 3 * prod(size)
    return Stage(
        name="frame pack", metric="frame_pack_ms", flops=2.0 * numbers, nbytes=5.0 * numbers
    )


def text_stage(network: nn.Module, tokens: int) -> Stage:
    """Encoding of one caption: the linear layers alone, a lower bound.

    Args:
        network: the text encoder's.
        tokens: real tokens of the caption.
    """
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return Stage(
        name="text encode", metric="text_encode_ms",
        flops=2.0 * tokens * sum(layer.weight.numel() for layer in linear),
        nbytes=float(sum(layer.weight.nbytes for layer in linear)),
    )  # fmt: skip


def plain_codec(codec: LatentCodec) -> LatentCodec:
    """Return the codec that decodes latent by latent, which a codec of recorded chunks wraps."""
    inner = getattr(codec, "codec", None)
    return codec if inner is None else plain_codec(inner)


def exact_codec(codec: LatentCodec) -> LatentCodec:
    """Return the plain codec of profile ``exact``, which others wrap."""
    plain = plain_codec(codec)
    return plain.exact if isinstance(plain, TinyCodec) else plain


def network_of(owner: object) -> nn.Module:
    """Return the network that a codec or a text encoder keeps."""
    return next(value for value in vars(owner).values() if isinstance(value, nn.Module))


def _weightless(codec: LatentCodec) -> LatentCodec:
    plain = plain_codec(codec)
    if isinstance(plain, TinyCodec):
        return TinyCodec(_weightless(plain.exact), copy.deepcopy(plain.network).to("meta"))
    if isinstance(plain, WanCodec):
        return WanCodec(copy.deepcopy(plain.network).to("meta"))
    assert isinstance(plain, NanoCodec), f"no count for {type(plain).__name__}"
    network = copy.deepcopy(network_of(plain)).to("meta")
    assert isinstance(network, NanoCodecNet)
    return NanoCodec(network)


def _weight_bytes(codec: LatentCodec, half: str) -> int:
    plain = plain_codec(codec)
    if isinstance(plain, TinyCodec) and half == "encoder":
        return _weight_bytes(plain.exact, half)
    network = network_of(plain)
    network = getattr(network, half, network)
    return sum(parameter.nbytes for parameter in network.parameters())
