"""Case F: the VAE; single frames, a clip, full and chunked decode, decoder internals."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..model.wan_vae.codec import WanCodec
from .check import Check, compare, exact
from .golden import GoldenCase, VerifyOptions


def check(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare encodes and decodes."""
    dtype = asked.dtype
    codec = WanCodec.from_state(case.weights("vae"), dtype=dtype)
    clip = case["clip"]
    singles = case["singles_encoded"]
    frames = clip[0, :, : len(singles)].transpose(0, 1)
    got = codec.encode_frames(frames).unsqueeze(1)
    yield compare("singles_encoded", got, singles, dtype, "encode")
    yield compare("clip_encoded", codec.encode_clip(clip), case["clip_encoded"], dtype, "encode")
    with torch.inference_mode():
        groups = [frame[None, :, None].to(dtype) for frame in frames]
        raw = torch.cat([codec.network.encode_group(group) for group in groups])
    yield compare("singles_mu_raw", raw, case["singles_mu_raw"], dtype, "encode")
    raw = _raw_clip(codec, clip.to(dtype))
    yield compare("clip_mu_raw", raw, case["clip_mu_raw"], dtype, "encode")

    latents = case["latents"]
    full = codec.decode_full(latents)
    yield compare("decoded_full", full, case["decoded_full"], dtype, "decode")
    decoder = codec.decoder()
    pieces = [decoder.decode(part) for part in torch.split(latents, case.meta["chunks"], dim=1)]
    yield exact("decoded in chunks", torch.cat(pieces, 1), full)
    lengths = torch.tensor([piece.shape[1] for piece in pieces])
    yield exact("decoded_chunk_lengths", lengths, case["decoded_chunk_lengths"])
    golden = case["decoded_first_latent_alone"]
    yield compare("decoded_first_latent_alone", codec.decode_full(latents[:, :1]), golden, dtype,
                  "decode")  # fmt: skip
    yield from _internals(case, codec, latents, dtype)


def _raw_clip(codec: WanCodec, clip: Tensor) -> Tensor:
    memory = codec.network.encoder_memory()
    groups = [clip[:, :, :1], *torch.split(clip[:, :, 1:], codec.temporal_stride, dim=2)]
    with torch.inference_mode():
        return torch.cat([codec.network.encode_group(group, memory) for group in groups], 2)


def _internals(
    case: GoldenCase, codec: WanCodec, latents: Tensor, dtype: torch.dtype
) -> Iterator[Check]:
    """Compare what the decoder's parts give for the first latents of a stream."""
    network, seen = codec.network.decoder, {}
    parts = {
        "conv1": network.conv1,
        "middle": network.middle[-1],
        "up3": network.upsamples[3],
        "up7": network.upsamples[7],
    }

    def keep(name: str) -> Callable[[object, object, Tensor], None]:
        def hook(module: object, inputs: object, output: Tensor) -> None:
            """Keep a copy of what the module gave; torch's forward hook.

            Args:
                module: not read.
                inputs: not read.
                output: ``[B, C, F, H, W]``.
            """
            seen[name] = output.clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in parts.items()]
    decoder = codec.decoder()
    for step in range(latents.shape[1]):
        wanted = [name for name in parts if f"dec.{name}.step{step}" in case.tensors]
        if not wanted:
            break
        decoder.decode(latents[:, step : step + 1])
        for name in wanted:
            full = f"dec.{name}.step{step}"
            yield compare(full, seen[name], case[full], dtype, "decode")
    for handle in handles:
        handle.remove()
