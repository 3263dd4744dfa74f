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

from .errors import ConfigError, OutputError
from .outputs import atomic_file, output_error
from .types import FRAME_RATE_HZ

if TYPE_CHECKING:
    import av.container
    import av.video


class VideoWriter:
    """An H.264 MP4 at 16 frames per second.

    Use as a context manager: leaving it normally completes the file, leaving it with an exception
    removes it.

    Args:
        path: where the film goes; its folder is made.
        height: of every frame, even (the format halves the colour planes).
        width: of every frame, even.
        crf: quality, 0 (lossless) to 51 (worst).

    Raises:
        ConfigError: odd size or quality out of range.
        OutputError: the file cannot be created.
    """

    def __init__(self, path: str | Path, *, height: int, width: int, crf: int = 17) -> None:
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ConfigError(
                f"{path}: got frames of {height}x{width}, wanted even height and width for MP4; "
                "use PNG frames for odd sizes"
            )
        if not 0 <= crf <= 51:
            raise ConfigError(f"crf: got {crf}, wanted 0 to 51")
        self._path = Path(path)
        self._shape = (height, width, 3)
        self._crf = crf
        self._stack = ExitStack()
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.VideoStream | None = None
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        import av

        part = self._stack.enter_context(atomic_file(self._path))
        try:
            self._container = av.open(str(part), "w", format="mp4")
            stream = self._container.add_stream("libx264", rate=FRAME_RATE_HZ)
            stream.height, stream.width = self._shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(self._crf), "preset": "veryfast"}
            self._stream = stream
        except BaseException as error:
            self._abandon(error)
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
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts = self.frames
        try:
            self._container.mux(self._stream.encode(frame))
        except OSError as error:
            raise output_error(self._path, error) from error
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
                if isinstance(failed, OSError) and not isinstance(failed, OutputError):
                    raise output_error(self._path, failed) from failed
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

    def _abandon(self, error: BaseException) -> None:
        if self._container is not None:
            # The trailer cannot be written either; only the file handle matters here.
            with suppress(Exception):
                self._container.close()
        with suppress(BaseException):
            self._stack.__exit__(type(error), error, error.__traceback__)


class FrameFolder:
    """Numbered PNG files, ``00000.png`` on, in one folder.

    Use as a context manager: leaving it with an exception removes the files it wrote, and the
    folder if it made it.

    Args:
        path: the folder; made if missing.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._written: list[Path] = []
        self._made = False

    def __enter__(self) -> FrameFolder:
        self._made = not self._path.exists()
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self._path, error) from error
        return self

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Write the next frame, uint8 ``[H, W, 3]`` RGB.

        Raises:
            OutputError: writing failed.
        """
        target = self._path / f"{len(self._written):05d}.png"
        save_png(target, pixels)
        self._written.append(target)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        for path in self._written:
            with suppress(OSError):
                path.unlink()
        if self._made:
            with suppress(OSError):
                self._path.rmdir()


def save_png(path: str | Path, pixels: NDArray[np.uint8] | Any) -> None:
    """Write one picture, uint8 ``[H, W, 3]`` RGB or a Pillow image.

    Raises:
        OutputError: writing failed.
    """
    from PIL import Image

    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    with atomic_file(path) as part:
        image.save(part, format="PNG", compress_level=4)
