"""Films as files: MP4 through PyAV, and numbered PNG pictures.

Called by the commands. A film appears under its name only when it is complete; a failure on the way
(a full disk, an interrupt) leaves nothing behind.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_range
from ..errors import ConfigError, OutputError
from ..outputs import (
    atomic_file,
    atomic_folder,
    check_file_target,
    check_folder_target,
    output_error,
)
from ..types import DEFAULT_FRAME_RATE_HZ

if TYPE_CHECKING:
    import av.container
    import av.video
    import av.video.reformatter

_BT709 = 1
"""Matrix, primaries and transfer of BT.709 all have this number in ITU-T H.273."""
_LIMITED_RANGE = 1
"""libav's number of luma from 16 to 235, which players expect."""

FRAME_NAMES = r"[0-9]{5,}\.png"
"""Names of the files of a ``FrameFolder``."""


class VideoWriter:
    """An H.264 MP4 in the colours of BT.709, its index in front, so that it plays while it loads.

    Use as a context manager: leaving it normally completes the file, leaving it with an exception
    removes it.

    Args:
        path: where the film goes, ending in ``.mp4``; its folder is made.
        height: of every frame, even (the format halves the colour planes).
        width: of every frame, even.
        frame_rate_hz: frames per second, at least 1.
        crf: quality, 0 (lossless) to 51 (worst).

    Raises:
        ConfigError: odd size, or frame rate or quality out of range.
        OutputError: the file cannot be created, or ends otherwise.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        height: int,
        width: int,
        frame_rate_hz: int = DEFAULT_FRAME_RATE_HZ,
        crf: int = 17,
    ) -> None:
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ConfigError(
                f"{path}: got frames of {height}x{width}, wanted even height and width for MP4; "
                "use PNG frames for odd sizes"
            )
        check_range("frame_rate_hz", frame_rate_hz, 1, 1000)
        check_range("crf", crf, 0, 51)
        check_file_target(path, ending=".mp4")
        self._path = Path(path)
        self._shape = (height, width, 3)
        self._frame_rate_hz, self._crf = frame_rate_hz, crf
        self._stack = ExitStack()
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.VideoStream | None = None
        self._convert: av.video.reformatter.VideoReformatter | None = None
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        import av
        from av.video.reformatter import VideoReformatter

        part = self._stack.enter_context(atomic_file(self._path))
        try:
            # "file:" keeps libav from reading a protocol out of a name with a colon in it.
            self._container = av.open(
                f"file:{part}", "w", format="mp4", options={"movflags": "+faststart"}
            )
            stream = self._container.add_stream("libx264", rate=self._frame_rate_hz)
            stream.height, stream.width = self._shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(self._crf), "preset": "veryfast"}
            mark_bt709(stream.codec_context)
            self._stream, self._convert = stream, VideoReformatter()
        except BaseException as error:
            self._abandon(error)
            if (told := self._told(error)) is not error:
                raise told from error
            raise
        return self

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Append one frame, uint8 ``[H, W, 3]`` RGB.

        Raises:
            ConfigError: another shape or dtype.
            OutputError: writing failed, for example because the disk is full.
        """
        import av

        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ConfigError(
                f"{self._path}: got a frame {pixels.dtype} {pixels.shape}, wanted uint8 "
                f"{self._shape}"
            )
        assert self._stream is not None and self._container is not None, "write before __enter__"
        assert self._convert is not None
        frame = picture_bt709(self._convert, pixels)
        frame.pts = self.frames
        try:
            self._container.mux(self._stream.encode(frame))
        except (OSError, av.FFmpegError) as error:
            raise self._told(error) from error
        self.frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failed:
                self._abandon(failed)
                if (told := self._told(failed)) is not failed:
                    raise told from failed
                raise
            self._stack.close()
        else:
            self._abandon(error)

    def _finish(self) -> None:
        assert self._stream is not None and self._container is not None, "exit before __enter__"
        if self.frames == 0:
            raise OutputError(f"{self._path}: no frame was written, so there is no film")
        self._container.mux(self._stream.encode())
        self._container.close()

    def _told(self, error: BaseException) -> BaseException:
        """Return what to raise for an error: those of libav are about the file."""
        import av

        if isinstance(error, OutputError):
            return error
        if isinstance(error, OSError):
            return output_error(self._path, error)
        if isinstance(error, av.FFmpegError):
            return OutputError(f"{self._path}: cannot be written: {error.strerror}")
        if isinstance(error, av.codec.codec.UnknownCodecError):
            return OutputError(f"{self._path}: this PyAV has no libx264; write PNG frames")
        return error

    def _abandon(self, error: BaseException) -> None:
        if self._container is not None:
            # The trailer cannot be written either; only the file handle matters here.
            with suppress(Exception):
                self._container.close()
        with suppress(BaseException):
            self._stack.__exit__(type(error), error, error.__traceback__)


def mark_bt709(context: Any) -> None:
    """Tell an encoder's readers that its pictures have the colours of BT.709, limited range."""
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE


def picture_bt709(
    convert: av.video.reformatter.VideoReformatter, pixels: NDArray[np.uint8]
) -> av.VideoFrame:
    """Return a picture for an encoder that ``mark_bt709`` has marked.

    Args:
        convert: keeps what the conversion needs from one picture to the next.
        pixels: uint8 ``[H, W, 3]`` RGB.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    return convert.reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )


class FrameFolder:
    """Numbered PNG files, ``00000.png`` on, in one folder.

    Use as a context manager: the folder appears when it is left normally, and not at all when it is
    left with an exception. A folder that is empty, or holds the frames of an earlier film and
    nothing else, is replaced as a whole; any other is refused.

    Args:
        path: the folder.

    Raises:
        OutputError: the folder is refused.
    """

    def __init__(self, path: str | Path) -> None:
        check_folder_target(path, own=FRAME_NAMES)
        self._path = Path(path)
        self._stack = ExitStack()
        self._part: Path | None = None
        self._count = 0

    def __enter__(self) -> FrameFolder:
        self._part = self._stack.enter_context(atomic_folder(self._path, own=FRAME_NAMES))
        return self

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Write the next frame, uint8 ``[H, W, 3]`` RGB.

        Raises:
            OutputError: writing failed.
        """
        assert self._part is not None, "write before __enter__"
        try:
            _save(self._part / f"{self._count:05d}.png", pixels)
        except OSError as error:
            raise output_error(self._path, error) from error
        self._count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def save_png(path: str | Path, pixels: NDArray[np.uint8] | Any) -> None:
    """Write one picture, uint8 ``[H, W, 3]`` RGB or a Pillow image, as PNG.

    Raises:
        OutputError: writing failed, or the name does not end in ``.png``.
    """
    check_file_target(path, ending=".png")
    with atomic_file(path) as part:
        _save(part, pixels)


def _save(path: Path, pixels: NDArray[np.uint8] | Any) -> None:
    from PIL import Image

    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(path, format="PNG", compress_level=4)
