"""A codec whose decoders are recorded, for backends that record their passes too."""

from __future__ import annotations

from shotstream_rt import env
from shotstream_rt.config import StreamConfig

from ..model.chunk_decoder import ChunkCodec, ChunkShape, ProgrammableCodec
from ..model.codec import LatentCodec
from ..model.convolution_choices import ConvolutionChoices


def recorded_codec(codec: LatentCodec, config: StreamConfig) -> LatentCodec:
    """Return a codec whose decoders are recorded too, where it can decode by chunks on a GPU.

    Recordings hold addresses, so each belongs to one decoder, and a session has its own.
    """
    if not isinstance(codec, ProgrammableCodec) or codec.device.type != "cuda":
        return codec
    from shotstream_rt.backends.cuda_graph import GraphCapture

    model, device = config.model, codec.device
    shape = ChunkShape(
        frames=config.shot.chunk_frames, height=model.latent_height, width=model.latent_width
    )
    choices = ConvolutionChoices.of(device) if env.measured_convolutions() else None
    return ChunkCodec(codec, shape, lambda: GraphCapture(device, urgent=True), choices)
