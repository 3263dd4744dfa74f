"""The model that a snapshot or a film's directions were made with, or have to fit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import StreamConfig

if TYPE_CHECKING:
    from ..loading.load_model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotModel:
    """What a snapshot has to fit.

    Attributes:
        config: the model's.
        profile: name of its profile.
        weights_digest: of its weights; None if the model does not tell.
        latent_shape: ``(C, h, w)`` of a context frame.
        picture_size: height and width of a frame in pixels.
        shot_limit: frames of a shot of trained length.
        temporal_stride: frames of every latent frame but a shot's first.
    """

    config: StreamConfig
    profile: str
    weights_digest: str | None
    latent_shape: tuple[int, int, int]
    picture_size: tuple[int, int]
    shot_limit: int
    temporal_stride: int

    @classmethod
    def of(cls, model: Model) -> SnapshotModel:
        """Return what snapshots of a model's films have to fit."""
        codec, config, latent = model.codec, model.config, model.config.model
        digest = model.info.get("weights_digest")
        return cls(
            config=config,
            profile=model.profile,
            weights_digest=None if digest is None else str(digest),
            latent_shape=(codec.latent_channels, latent.latent_height, latent.latent_width),
            picture_size=codec.pixel_size(latent.latent_height, latent.latent_width),
            shot_limit=1 + codec.temporal_stride * (config.shot.shot_frames - 1),
            temporal_stride=codec.temporal_stride,
        )

    @property
    def fingerprint(self) -> str:
        """Digest of the settings that decide the numbers; weights are compared on their own."""
        text = json.dumps(self.config.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
