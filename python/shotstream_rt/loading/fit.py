"""Whether student, codec and text encoder belong together.

Each file may be whole and right and still be of another model; what does not fit would fail at the
first shot, or compute something without a meaning.
"""

from __future__ import annotations

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import WeightsError

from ..model.captions import TextEncoder
from ..model.codec import LatentCodec

CODEC_CHANNELS = 16
"""Channels of a latent frame, the same for both codecs (``wan`` and ``nano``)."""


def check_channels(model: ModelConfig, source: str, channels: int = CODEC_CHANNELS) -> None:
    """Hold a student against the latents that its codec makes.

    Args:
        model: the student's shape.
        source: the student's file, named in errors.
        channels: of the codec's latents.

    Raises:
        WeightsError: the student reads or predicts latents of another width.
    """
    if model.in_dim != channels or model.out_dim != channels:
        hint = ""
        if model.in_dim > channels:
            hint = " (an image-to-video or inpainting model reads the image beside the latents)"
        raise WeightsError(
            f"{source}: got a student that reads latents of {model.in_dim} channels and predicts "
            f"{model.out_dim}, wanted {channels} of both, as the codec has{hint}; use a "
            "text-to-video student"
        )


def check_fit(model: ModelConfig, codec: LatentCodec, text: TextEncoder, source: str) -> None:
    """Hold a student against its codec and its text encoder.

    Args:
        model: the student's shape.
        codec: as opened.
        text: as opened.
        source: the model, named in errors.

    Raises:
        WeightsError: they are of different models.
    """
    check_channels(model, source, codec.latent_channels)
    # Fewer positions are fewer rows of padding; more have no room in the captions' cache.
    if text.text_dim != model.text_dim or text.text_len > model.text_len:
        raise WeightsError(
            f"{source}: got a text encoder with {text.text_len} positions of {text.text_dim} "
            f"features, wanted at most {model.text_len} of {model.text_dim}, as the student reads; "
            "take the text encoder that the student was trained with"
        )
