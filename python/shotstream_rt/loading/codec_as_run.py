"""The codec of a model as it is run: what a profile and a backend make of the release's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shotstream_rt.backends.registry import ENGINE_LIBRARIES

from .recorded_codec import recorded_codec

if TYPE_CHECKING:
    from shotstream_rt.backends.base import StudentBackend
    from shotstream_rt.backends.request import BackendRequest

    from ..model.codec import LatentCodec


def codec_as_run(
    codec: LatentCodec, request: BackendRequest, built: StudentBackend, tiny_file: Path | None
) -> LatentCodec:
    """Return a codec whose decoders are the profile's, run as the backend runs its passes.

    Args:
        codec: the release's own; it encodes in any case.
        request: what the backend was made of.
        built: the backend.
        tiny_file: weights of a small decoder, where the profile has one.

    Raises:
        WeightsError: the small decoder's file is broken.
        ManifestError: the exported decoder is another codec's, or a file was changed.
        BackendUnavailableError: what the exported decoder computes differs from torch.
    """
    if tiny_file is not None:
        from ..model.tiny.codec import TinyCodec

        codec = TinyCodec.load(tiny_file, codec, device=request.device, dtype=request.dtype)
    if built.records_passes:
        codec = recorded_codec(codec, request.config)
    if built.info.name in ENGINE_LIBRARIES:
        from shotstream_rt.backends.engine_codec import engine_codec

        codec = engine_codec(codec, request, built.info.name)
    return codec
