"""A given start: frames that a shot begins with, or that its first chunks are made from.

Frames become latents when the shot is asked for, so that a film can be saved, restored and played
again without the frames, and without encoding them to the bit as it was done then.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..config import StreamConfig
from ..errors import ConfigError
from ..model.codec import LatentCodec
from ..printable import shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What a shot begins with.

    Attributes:
        latents: ``[1, F, C, h, w]`` on the host, those of whole chunks.
        strength: see ``Session.cut``; ``None`` keeps the frames as they are.
    """

    latents: Tensor
    strength: float | None

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """It as plain JSON values."""
        packed = save({"latents": self.latents.contiguous()})
        return {"strength": self.strength, "latents": base64.b64encode(packed).decode("ascii")}


def start_lengths(
    config: StreamConfig, stride: int, chunks: int | None, strength: float | None
) -> tuple[int, ...]:
    """Return how many frames a given start may have, rising.

    Args:
        config: of the model.
        stride: frames of every latent frame but a shot's first.
        chunks: length of the shot; ``None``: the trained one.
        strength: see ``Session.cut``.

    Raises:
        ConfigError: the student takes no such start, or such a shot has no room for one.
    """
    reason = refusal(config, strength)
    if reason is not None:
        raise ConfigError(f"start: {reason}")
    length = config.shot.chunk_frames
    first, trained = config.rollout.first_frames or length, config.shot.chunks
    # A shot that is given as a whole has nothing left to make.
    most = min(trained, chunks or trained) - (strength is None)
    if most < 1:
        raise ConfigError("start: got a shot of one chunk, wanted one that goes on behind a start")
    return tuple(1 + stride * (first + n * length - 1) for n in range(most))


def refusal(config: StreamConfig, strength: float | None) -> str | None:
    """Return why a student takes no start, ``None`` if it does.

    Args:
        config: its configuration.
        strength: see ``Session.cut``.
    """
    schedule, rollout = config.schedule, config.rollout
    if rollout.policy == "rolling":
        return "this student denoises several chunks at once and begins with none that is given"
    if strength is not None:
        if not schedule.num_steps > 1:
            return "this student has one denoising step, so there is no later one to enter at"
        return None
    if config.cache.context_frames:
        return (
            "this student sees frames that it did not make as context, and does not go on from "
            "them; with a strength, a shot is made from them"
        )
    if rollout.start == "refused":
        return (
            "this student's authors define no given start; with a strength, a shot is made from "
            "frames"
        )
    return None


def check_strength(strength: object) -> float | None:
    """Return a usable strength.

    Raises:
        ConfigError: not a number above 0 and up to 1.
    """
    if strength is None:
        return None
    number = isinstance(strength, Real) and not isinstance(strength, bool)
    if not number or not 0 < strength <= 1:  # type: ignore[operator]  # a NaN is in no range
        raise ConfigError(
            f"strength: got {shown(strength)}, wanted a number above 0 and up to 1, or nothing to "
            "keep the frames as they are"
        )
    return float(strength)  # type: ignore[arg-type]


@torch.inference_mode()
def encode_start(
    frames: object, strength: float | None, chunks: int | None, config: StreamConfig,
    codec: LatentCodec,
) -> Start:  # fmt: skip
    """Return a start; arguments as of ``Session.cut``.

    Args:
        frames: uint8 ``[P, H, W, 3]``, or one ``[H, W, 3]``.
        strength: likewise.
        chunks: likewise.
        config: of the model.
        codec: encodes the frames as one clip.

    Raises:
        ConfigError: frames of another type, size or number, or this student takes none.
    """
    wanted = start_lengths(config, codec.temporal_stride, chunks, strength)
    size = codec.pixel_size(config.model.latent_height, config.model.latent_width)
    pixels = _pixels(frames, size)
    if len(pixels) not in wanted:
        raise ConfigError(
            f"start: got {len(pixels)} frame(s), wanted whole chunks: {_told(wanted)}"
        )
    # Copied: the caller may go on writing to the frames, and torch takes no strides below zero.
    own = torch.from_numpy(np.array(pixels, order="C"))
    clip = own.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    latents = codec.encode_clip(clip).to("cpu", copy=True)
    return Start(latents=_checked(latents, config, codec.latent_channels), strength=strength)


def read_start(data: Mapping[str, Any], config: StreamConfig, channels: int) -> Start:
    """Return the start that ``Start.data`` was of, after looking at each of its values.

    Args:
        data: JSON values, or with ``latents`` as a tensor.
        config: of the model that is to use it.
        channels: of a latent frame.

    Raises:
        ConfigError: a value is missing, unknown or not usable, or the model takes no such start.
    """
    if set(data) != {"strength", "latents"}:
        raise ConfigError(f"start: got {shown(sorted(map(str, data)))}, wanted strength, latents")
    strength, latents = check_strength(data["strength"]), data["latents"]
    reason = refusal(config, strength)
    if reason is not None:
        raise ConfigError(f"start: {reason}")
    if not isinstance(latents, Tensor):
        try:
            latents = load(base64.b64decode(latents, validate=True))["latents"]
        except (SafetensorError, binascii.Error, KeyError, TypeError, ValueError) as error:
            raise ConfigError("start: got latents that cannot be read") from error
    return Start(latents=_checked(latents, config, channels), strength=strength)


def _checked(latents: Tensor, config: StreamConfig, channels: int) -> Tensor:
    model, length = config.model, config.shot.chunk_frames
    wanted = (1, channels, model.latent_height, model.latent_width)
    got = tuple(latents.shape)
    if got[:1] + got[2:] != wanted or not latents.is_floating_point():
        raise ConfigError(f"start: got latents {latents.dtype} {got}, wanted [1, F, C, h, w]")
    behind = got[1] - (config.rollout.first_frames or length)
    if behind < 0 or behind % length or got[1] > config.shot.shot_frames:
        raise ConfigError(f"start: got {got[1]} latent frame(s), wanted those of whole chunks")
    if not bool(torch.isfinite(latents).all()):
        raise ConfigError("start: got latents that are not finite")
    return latents


def _pixels(frames: object, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return frames as uint8 ``[P, H, W, 3]``."""
    try:
        pixels = np.asarray(frames)
    except Exception as error:  # whatever the caller's own type raises
        raise ConfigError(f"start: got {type(frames).__name__}, wanted pixels") from error
    if pixels.ndim == 3:
        pixels = pixels[None]
    wanted = (*size, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != wanted:
        raise ConfigError(
            f"start: got {pixels.dtype} {pixels.shape}, wanted uint8 [P, H, W, 3] with frames of "
            f"{size[0]}x{size[1]}; scale them to the film's size"
        )
    return pixels


def _told(lengths: tuple[int, ...]) -> str:
    if len(lengths) <= 4:
        return " or ".join(map(str, lengths))
    return f"{', '.join(map(str, lengths[:3]))}, ... up to {lengths[-1]}"
