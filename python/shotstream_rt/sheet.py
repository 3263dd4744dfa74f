"""The contact sheet: a film on one page, one row per shot, its caption above it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .types import FRAME_RATE_HZ, Frame
from .video import save_png

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_PAGE_WIDTH = 1600
_MARGIN, _GAP, _LINE = 28, 8, 26
_PAPER, _INK, _FAINT, _MARK = (18, 20, 24), (232, 234, 237), (140, 146, 155), (255, 176, 59)
_MAX_COLUMNS = 9


@dataclass(slots=True, kw_only=True)
class _Row:
    shot: int
    caption: str
    first_index: int
    pictures: list[NDArray[np.uint8]] = field(default_factory=list)


class ContactSheet:
    """Collects the first frame of every chunk and draws them at the end.

    Args:
        title: headline of the page.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[_Row] = []
        self._seen: tuple[int, int] | None = None

    def add(self, frame: Frame, caption: str) -> None:
        """Look at the film's next frame, made from ``caption``."""
        if self._seen == (frame.shot, frame.chunk):
            return
        self._seen = (frame.shot, frame.chunk)
        if not self._rows or frame.chunk == 0:
            row = _Row(shot=frame.shot, caption=caption, first_index=frame.index)
            self._rows.append(row)
        if len(self._rows[-1].pictures) < _MAX_COLUMNS:
            self._rows[-1].pictures.append(frame.pixels)

    def save(self, path: str | Path) -> None:
        """Write the page as PNG.

        Raises:
            ConfigError: no frame was added.
            OutputError: writing failed.
        """
        save_png(path, self.draw())

    def draw(self) -> Image.Image:
        """Return the page.

        Raises:
            ConfigError: no frame was added.
        """
        from PIL import Image, ImageDraw, ImageFont

        if not self._rows:
            raise ConfigError("contact sheet: no frame was added")
        columns = max(len(row.pictures) for row in self._rows)
        width = (_PAGE_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns
        height = width * self._rows[0].pictures[0].shape[0] // self._rows[0].pictures[0].shape[1]
        head, body = ImageFont.load_default(30), ImageFont.load_default(19)
        probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        room = _PAGE_WIDTH - 2 * _MARGIN - 110
        texts = [_wrap(probe, row.caption, body, room) for row in self._rows]
        page_height = 2 * _MARGIN + 54
        page_height += sum(len(text) * _LINE + _GAP + height + _MARGIN for text in texts)
        page = Image.new("RGB", (_PAGE_WIDTH, page_height), _PAPER)
        pen = ImageDraw.Draw(page)
        pen.text((_MARGIN, _MARGIN), self._title, _INK, head)
        top = _MARGIN + 54
        for row, lines in zip(self._rows, texts, strict=True):
            pen.text((_MARGIN, top), f"shot {row.shot + 1}", _MARK, body)
            start = f"{row.first_index / FRAME_RATE_HZ:.1f} s"
            pen.text((_PAGE_WIDTH - _MARGIN, top), start, _FAINT, body, anchor="ra")
            for line in lines:
                pen.text((_MARGIN + 76, top), line, _INK, body)
                top += _LINE
            top += _GAP
            for column, pixels in enumerate(row.pictures):
                picture = Image.fromarray(np.asarray(pixels)).resize(
                    (width, height), Image.Resampling.LANCZOS
                )
                page.paste(picture, (_MARGIN + column * (width + _GAP), top))
            top += height + _MARGIN
        return page


def _wrap(pen: ImageDraw.ImageDraw, text: str, font: Any, room: int) -> list[str]:
    """Break a caption into at most three lines of ``room`` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or pen.textlength(longer, font) <= room:
            lines[-1] = longer
        elif len(lines) == 3:
            lines[-1] += " …"
            break
        else:
            lines.append(word)
    return lines
