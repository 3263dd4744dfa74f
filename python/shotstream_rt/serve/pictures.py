"""Small pictures out, reference pictures in."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .limits import Limits

_SMALL = 160
_FORMATS = ("JPEG", "PNG", "WEBP")


def small_picture(pixels: NDArray[np.uint8]) -> str:
    """Return a picture at most 160 pixels wide as a ``data:`` address with a JPEG.

    Args:
        pixels: uint8 ``[H, W, 3]`` RGB.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width > _SMALL:
        image.thumbnail((_SMALL, _SMALL))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def reference_pictures(images: tuple[str, ...], limits: Limits) -> list[NDArray[np.uint8]]:
    """Decode the reference pictures of a cut, upright.

    Args:
        images: JPEG, PNG or WebP files in base64.
        limits: of the server.

    Returns:
        uint8 ``[H, W, 3]`` RGB each.

    Raises:
        ConfigError: too many, too large, or not a picture. Sizes are read before decoding.
    """
    if len(images) > limits.images:
        raise ConfigError(f"images: got {len(images)}, wanted at most {limits.images}")
    return [_reference_picture(image, number, limits) for number, image in enumerate(images)]


def _reference_picture(text: str, number: int, limits: Limits) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    where = f"images[{number}]"
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{where}: not base64 ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Any = Image.open(io.BytesIO(data), formats=_FORMATS)
        if max(image.size) > limits.image_side:
            raise ConfigError(
                f"{where}: got {image.width}x{image.height} pixels, wanted at most "
                f"{limits.image_side} on a side"
            )
        upright = ImageOps.exif_transpose(image).convert("RGB")
    except ConfigError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{where}: not a JPEG, PNG or WebP picture ({error})") from error
    return np.asarray(upright, np.uint8)
