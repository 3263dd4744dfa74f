"""Pictures and clips from files, as frames of a film's size.

They are scaled, and what is wider or higher than the film is cut off at both sides alike. Nothing
in a file is taken on trust: sizes are looked at before anything is decoded.
"""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..inputs import kind_of_file, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

_PICTURE_BYTES = 1 << 27
_FORMATS = ("JPEG", "PNG", "WEBP")
_SIDE = 16384
"""Most pixels of a side of a picture or of a clip's frames."""


def read_picture(path: str | Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture file as one frame, uint8 ``[H, W, 3]`` RGB, upright as its camera was held.

    Args:
        path: a JPEG, PNG or WebP file.
        size: height and width of the film.

    Raises:
        ConfigError: no such file, no picture, or too large.
    """
    import PIL.Image
    from PIL import ImageOps

    data = read_bytes(Path(path), limit_bytes=_PICTURE_BYTES, what="picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            image: Image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_side(path, image.width, image.height)
        return _fitted(ImageOps.exif_transpose(image), size)
    except ConfigError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ConfigError(f"{path}: not a JPEG, PNG or WebP picture") from error
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: a picture that cannot be read ({error})") from error


def read_clip(
    path: str | Path, size: tuple[int, int], *, frame_rate_hz: float, most_frames: int
) -> NDArray[np.uint8]:
    """Return the first frames of a video file, uint8 ``[P, H, W, 3]`` RGB.

    Frames are taken at the film's rate, so the clip plays as fast as it did: of a faster one some
    are left out, of a slower one some stand twice.

    Args:
        path: of any format that libav reads.
        size: height and width of the film.
        frame_rate_hz: of the film.
        most_frames: where to stop, at least 1; a shorter clip gives fewer.

    Raises:
        ConfigError: no such file, no video, or too large.
    """
    import av

    _check_regular(Path(path))
    found: list[NDArray[np.uint8]] = []
    try:
        # "file:" keeps libav from reading a protocol out of a name with a colon in it.
        with av.open(f"file:{path}") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise ConfigError(f"{path}: no video in it, wanted a clip")
            _check_side(path, stream.width, stream.height)
            stream.thread_type = "AUTO"
            begin_s, rate_hz = None, float(stream.average_rate or frame_rate_hz)
            for number, frame in enumerate(container.decode(stream)):
                time_s = number / rate_hz if frame.time is None else frame.time
                begin_s = time_s if begin_s is None else begin_s
                # A frame may be a little early, for times in files are rounded.
                due = int((time_s - begin_s) * frame_rate_hz + 0.25) + 1
                if due > len(found):
                    image: Image = frame.to_image()  # type: ignore[no-untyped-call]
                    picture = _fitted(image, size)
                    found += [picture] * (min(due, most_frames) - len(found))
                if len(found) >= most_frames:
                    break
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read as a clip ({_reason(error)})") from error
    if not found:
        raise ConfigError(f"{path}: no frame in it, wanted a clip")
    return np.stack(found)


def _fitted(image: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import ImageOps

    return np.asarray(ImageOps.fit(image.convert("RGB"), (size[1], size[0])), np.uint8)


def _check_side(path: str | Path, width: int, height: int) -> None:
    if not 0 < max(width, height) <= _SIDE:
        raise ConfigError(f"{path}: got {width}x{height} pixels, wanted at most {_SIDE} on a side")


def _check_regular(path: Path) -> None:
    """Refuse what libav would wait for without end, such as a pipe."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no such clip ({_reason(error)})") from error
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: cannot be read: is {kind_of_file(mode)}, wanted a clip")


def _reason(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error)
