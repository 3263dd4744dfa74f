"""Reference pictures: what a caller wants a new shot to see beside the frames of past shots.

A picture is brought to the film's size once, when it is given; from then on it is bytes that every
snapshot and every ``film.json`` holds, so that a film that saw it can be made again bit for bit.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..printable import shown

MOST_SIDE = 4096
"""Pixels of a picture's longest side."""

MOST_BYTES = 64 << 20
"""Bytes of all the different pictures of a film, at its size: of 480x832 fifty-six."""


@dataclass(frozen=True, slots=True)
class ReferencePicture:
    """A picture at a film's size; two of the same pixels are equal.

    Attributes:
        digest: SHA-256 of its size and pixels, in hexadecimal.
        pixels: uint8 ``[H, W, 3]`` RGB; not to be written to.
    """

    digest: str
    pixels: NDArray[np.uint8] = field(compare=False, repr=False)

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> ReferencePicture:
        """Return a picture of the film's size."""
        size = "x".join(map(str, pixels.shape)).encode()
        return cls(hashlib.sha256(size + b"\0" + pixels.tobytes()).hexdigest(), pixels)

    def to_floats(self) -> Tensor:
        """Return it as a decoder would have made it, float32 ``[3, H, W]`` in [-1, 1]."""
        # A copy of the caller's that may be written to, which torch asks for.
        return torch.from_numpy(self.pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1

    def to_text(self) -> str:
        """Return its pixels for a JSON file: deflated, in base64."""
        return base64.b64encode(zlib.compress(self.pixels.tobytes())).decode("ascii")


def reference_pictures(
    images: Sequence[Any],
    size: tuple[int, int],
    budget: int,
    held: Iterable[ReferencePicture] = (),
) -> tuple[ReferencePicture, ...]:
    """Check pictures, and bring them to a film's size: the middle of each, scaled.

    Args:
        images: uint8 arrays ``[H, W, 3]`` RGB of any size up to 4096 on a side.
        size: height and width of the film in pixels.
        budget: context frames of a shot; as many pictures at most.
        held: pictures that the film has already, which are shared.

    Raises:
        ConfigError: too many for a shot or a film, or one that is not usable; says which.
    """
    if not isinstance(images, list | tuple):
        raise ConfigError(f"images: got {type(images).__name__}, wanted a list of pictures")
    if images and budget == 0:
        raise ConfigError("images: got some, but shots of this student see no context; leave them")
    if len(images) > budget:
        raise ConfigError(f"images: got {len(images)}, wanted at most {budget}, as a shot sees")
    for number, image in enumerate(images):
        _check(image, f"images[{number}]")
    known = {picture.digest: picture for picture in held}
    found = [ReferencePicture.of(_fitted(image, size)) for image in images]
    check_room([*known, *(picture.digest for picture in found)], size)
    return tuple(known.get(picture.digest, picture) for picture in found)


def picture_of(digest: str, text: str, size: tuple[int, int]) -> ReferencePicture:
    """Return a picture that ``to_text`` wrote.

    Args:
        digest: its digest.
        text: what ``to_text`` returned.
        size: height and width of the film in pixels.

    Raises:
        ConfigError: damaged, or of a film of another size.
    """
    wanted = size[0] * size[1] * 3
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text, validate=True), wanted + 1)
    except (binascii.Error, zlib.error, TypeError, ValueError) as error:
        raise ConfigError(f"picture {shown(digest)}: damaged ({error})") from error
    if len(data) != wanted or not inflate.eof:
        raise ConfigError(f"picture {shown(digest)}: not {size[0]}x{size[1]} pixels")
    return checked(digest, np.frombuffer(data, np.uint8).reshape(*size, 3))


def checked(digest: str, pixels: NDArray[np.uint8]) -> ReferencePicture:
    """Return a picture whose digest is right; raises ``ConfigError`` for another one."""
    picture = ReferencePicture.of(pixels)
    if picture.digest != digest:
        raise ConfigError(f"picture {shown(digest)}: damaged, its digest does not fit")
    return picture


def check_room(digests: Iterable[str], size: tuple[int, int]) -> None:
    """Check that a film does not hold more pictures than it may.

    Args:
        digests: of all its pictures.
        size: height and width of the film in pixels.

    Raises:
        ConfigError: it would.
    """
    count, most = len({*digests}), MOST_BYTES // (size[0] * size[1] * 3)
    if count > most:
        raise ConfigError(
            f"images: the film would hold {count} different pictures, wanted at most {most}; give "
            "pictures again that it has, or undo shots"
        )


def by_digest(
    digests: Iterable[str], pictures: Mapping[str, ReferencePicture]
) -> tuple[ReferencePicture, ...]:
    """Return pictures by their digests; raises ``ConfigError`` if one is missing."""
    found = []
    for digest in digests:
        if digest not in pictures:
            raise ConfigError(f"picture {shown(digest)}: missing")
        found.append(pictures[digest])
    return tuple(found)


def _check(image: Any, where: str) -> None:
    if not isinstance(image, np.ndarray):
        raise ConfigError(
            f"{where}: got {type(image).__name__}, wanted a NumPy array, uint8 [H, W, 3] RGB, as "
            "np.asarray makes of a Pillow image in mode RGB"
        )
    good = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2:] == (3,)
    if not good or 0 in image.shape:
        raise ConfigError(
            f"{where}: got {image.dtype} {list(image.shape)}, wanted uint8 [H, W, 3] RGB"
        )
    if max(image.shape) > MOST_SIDE:
        raise ConfigError(
            f"{where}: got {image.shape[1]}x{image.shape[0]} pixels, wanted at most {MOST_SIDE} on "
            "a side"
        )


def _fitted(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the middle of a picture, at a size, as memory of its own."""
    (height, width), (rows, columns) = size, image.shape[:2]
    # The largest part that has the film's proportions.
    kept_rows = min(rows, max(1, round(columns * height / width)))
    kept_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    part = np.array(image[top : top + kept_rows, left : left + kept_columns], order="C")
    if part.shape[:2] == size:
        return part
    with torch.inference_mode(False):
        planes = torch.from_numpy(part).permute(2, 0, 1)[None]
        scaled = F.interpolate(planes, size, mode="bilinear", antialias=True)
        return scaled[0].permute(1, 2, 0).contiguous().numpy()
