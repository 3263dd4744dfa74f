"""Where one film goes: an MP4, a folder of frames, a contact sheet, each completed by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from shotstream_rt.errors import OutputError
from shotstream_rt.media.sheet import ContactSheet
from shotstream_rt.media.video import FrameFolder, VideoWriter
from shotstream_rt.terminal import say
from shotstream_rt.types import Frame


class FilmOutputs:
    """The outputs of one film.

    Use as a context manager. One that fails is given up, and the others go on: a full disk under
    the frames does not cost the MP4. Left normally, it completes them and raises the first failure.
    Left with an exception, it gives up all of them, for the film is not whole.

    Args:
        film: the MP4, if one is wanted.
        frames: the folder of PNG files, if one is wanted.
        sheet: the contact sheet, if one is wanted.
        title: headline of the sheet.
        size: height and width of every frame in pixels.
        frame_rate_hz: frames per second.
        on_written: called with every output that was completed.
    """

    def __init__(
        self,
        film: Path | None,
        frames: Path | None,
        sheet: Path | None,
        *,
        title: str,
        size: tuple[int, int],
        frame_rate_hz: int,
        on_written: Callable[[Path], None],
    ) -> None:
        height, width = size
        self._writers: dict[Path, VideoWriter | FrameFolder] = {}
        if film is not None:
            self._writers[film] = VideoWriter(
                film, height=height, width=width, frame_rate_hz=frame_rate_hz
            )
        if frames is not None:
            self._writers[frames] = FrameFolder(frames)
        self._sheet = ContactSheet(title) if sheet is not None else None
        self._sheet_path = sheet
        self._on_written = on_written
        self._failed: list[OutputError] = []

    def __enter__(self) -> FilmOutputs:
        open_ones = dict(self._writers)
        self._writers = {}
        try:
            for path, writer in open_ones.items():
                writer.__enter__()
                self._writers[path] = writer
        except BaseException as error:
            self._give_up(error)
            raise
        return self

    def write(self, frame: Frame, caption: str) -> None:
        """Add the film's next frame, made from ``caption``.

        Raises:
            OutputError: the last output that was left has failed.
        """
        for path, writer in list(self._writers.items()):
            try:
                writer.write(frame.pixels)
            except OutputError as error:
                self._writers.pop(path).__exit__(type(error), error, error.__traceback__)
                self._failed.append(error)
                if self._writers or self._sheet is not None:
                    say(f"error: {error}; the other outputs go on")
        if self._sheet is not None:
            self._sheet.add(frame, caption)
        elif not self._writers:
            raise self._failed[0]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._give_up(error)
            return
        try:
            for path in list(self._writers):
                try:
                    self._writers.pop(path).__exit__(None, None, None)
                    self._on_written(path)
                except OutputError as failed:
                    self._failed.append(failed)
            if self._sheet is not None and self._sheet_path is not None:
                self._sheet.save(self._sheet_path)
                self._on_written(self._sheet_path)
        except OutputError as failed:
            self._failed.append(failed)
        except BaseException as failed:
            self._give_up(failed)
            raise
        if self._failed:
            raise self._failed[0]

    def _give_up(self, error: BaseException) -> None:
        while self._writers:
            self._writers.popitem()[1].__exit__(type(error), error, error.__traceback__)
