"""Where the tiny decoder's file lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.profiles import Profile

from . import wan_base
from .found_files import first_file, shown_places
from .parts import ModelParts

TINY_FILES = ("taew2_1.safetensors", "taew2_1.pth")
_PLACES = ("", "ckpts", *wan_base.PLACES[:-1])


def tiny_decoder_of(profile: Profile, parts: ModelParts, model: object) -> Path | None:
    """Return the tiny decoder's file if a profile takes one for a model.

    Args:
        profile: as asked for.
        parts: of the model.
        model: its name, for messages.

    Raises:
        ConfigError: the model's latents are not those that it decodes.
        WeightsError: it is not there.
    """
    if profile.decoder == "codec" or (profile.decoder == "small" and parts.latents != "wan"):
        return None
    if parts.latents != "wan":
        raise ConfigError(
            f"profile {profile.name}: the tiny decoder reads latents of the Wan VAE, model {model} "
            f"has latents of kind {parts.latents}; use a profile that keeps the decoder, such as "
            "exact"
        )
    return find_tiny_decoder(*parts.places)


def find_tiny_decoder(*roots: str | Path) -> Path:
    """Find the tiny decoder's file below folders: there, in ``ckpts/`` or in the Wan folder.

    Raises:
        WeightsError: there is none; names the files wanted and the places looked at.
    """
    path = _first(list(map(Path, roots)))
    if path is None:
        raise WeightsError(
            f"{' and '.join(map(str, roots))}: missing {' or '.join(TINY_FILES)}, the tiny decoder "
            f"(looked in {shown_places(_PLACES)}). Put the file from "
            "https://github.com/madebyollin/taehv into one of these folders, or use profile exact."
        )
    return path


def _first(roots: Sequence[Path]) -> Path | None:
    found = (first_file(root, _PLACES, name) for root in roots for name in TINY_FILES)
    return next((path for path in found if path is not None), None)
