"""Decoding of a shot's later chunk: latent by latent, by chunks, and recorded.

Random weights, of the released size on a GPU. ``measured`` times each convolution both ways first,
as ``SHOTSTREAM_CONVOLUTIONS=measured`` does; what a search picks may differ between processes,
and so may the frames' last bits.
Bound by arithmetic: 40.6 TFLOP for 12 frames of 480x832 with the Wan VAE, 1.6 with the tiny one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shotstream_rt.backends.cuda_graph import GraphCapture
from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.sets.decoder_set import decoder_kernels
from shotstream_rt.model.chunk_decoder import ChunkDecoder, ChunkShape
from shotstream_rt.model.codec import StreamDecoder
from shotstream_rt.model.convolution_choices import ConvolutionChoices
from shotstream_rt.model.measured_convolution import MeasuredConvolution
from shotstream_rt.model.tiny.codec import TinyCodec
from shotstream_rt.model.tiny.network import TinyDecoder
from shotstream_rt.model.wan_vae.codec import WanCodec
from shotstream_rt.model.wan_vae.network import WanVAE

TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""For a hundred layers; float32 may take tf32 products on a GPU."""


def codec_of(name: str, device: torch.device, dtype: torch.dtype) -> WanCodec | TinyCodec:
    """Return a codec of seeded weights, the same numbers in every type.

    Args:
        name: ``wan`` or ``tiny``.
        device: where it decodes; the Wan VAE has its released width of 96 on a GPU, 4 on a CPU.
        dtype: of its weights.
    """
    torch.manual_seed(0)
    state = WanVAE(96 if device.type == "cuda" else 4).state_dict()
    if name == "wan":
        narrow = {key: value.to(dtype) for key, value in state.items()}
        return WanCodec.from_state(narrow, device=device, dtype=dtype)
    network = TinyDecoder().to(device, dtype)
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return TinyCodec(WanCodec.from_state(WanVAE(1).state_dict()), network)


def in_new_thread(function: Callable[[], StreamDecoder]) -> StreamDecoder:
    """Make a decoder in a thread of its own: torch keeps a shape's first algorithm by thread."""
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(function).result()


@pytest.mark.parametrize("codec", ["wan", "tiny"])
@pytest.mark.parametrize("form", ["latents", "chunks", "recorded", "measured"])
def bench_chunk_decoder(case: KernelCase, codec: str, form: str, tmp_path: Path) -> None:
    """Decode a shot's second chunk.

    Args:
        case: see ``KernelCase``.
        codec: ``wan`` or ``tiny``.
        form: ``latents`` decodes them one by one, ``chunks`` all in one program; ``recorded``
            replays that as a graph, ``measured`` with the convolutions that were fastest.
        tmp_path: folder for the choice of convolutions.
    """
    device, shape = case.device, case.shapes.latent_shape
    if form in ("recorded", "measured") and device.type != "cuda":
        pytest.skip("graphs need a GPU")
    first, later = (case.normal(*shape) for _ in range(2))
    made = codec_of(codec, device, case.dtype)
    twin = codec_of(codec, device, case.dtype)
    if case.dtype is not torch.float32:
        network = twin.network.float()
        twin = WanCodec(network) if isinstance(network, WanVAE) else TinyCodec(twin, network)
    wanted, flops = reference(twin, first, later)

    def chunk_decoder() -> StreamDecoder:
        kernels = decoder_kernels(device)
        if form == "measured":
            choices = ConvolutionChoices(tmp_path / "convolutions.json", "this chip")
            kernels = replace(kernels, convolve=MeasuredConvolution(choices))
        size = ChunkShape(frames=shape[1], height=shape[3], width=shape[4])
        program = made.chunk_program(size, kernels)
        return ChunkDecoder(
            program, (lambda run: run) if form == "chunks" else GraphCapture(device)
        )

    decoder = made.decoder() if form == "latents" else in_new_thread(chunk_decoder)
    decoder.decode(first)

    def run() -> Tensor:
        return decoder.decode(later)

    # Later runs decode the same latents behind themselves: other frames, the same work.
    moved = sum(weight.nbytes for weight in made.network.parameters()) + wanted.nbytes
    case.measure(run, wanted, bytes_moved=moved, flops=flops, tolerance=TOLERANCE[case.dtype])


def reference(codec: WanCodec | TinyCodec, first: Tensor, later: Tensor) -> tuple[Tensor, float]:
    """Return a later chunk's frames, decoded latent by latent, and what they cost.

    Args:
        codec: with float32 weights.
        first: latents ``[1, F, C, h, w]`` of a stream's first chunk.
        later: latents of its second, of the same shape.

    Returns:
        Frames, float32 ``[1, P, 3, H, W]``, and the floating-point operations of decoding them.
    """
    decoder = codec.decoder()
    decoder.decode(first.float())
    with FlopCounterMode(display=False) as counter:
        frames = decoder.decode(later.float())
    return frames, float(counter.get_total_flops())
