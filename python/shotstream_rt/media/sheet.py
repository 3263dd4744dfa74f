"""The contact sheet: a film on one page, one row per shot, its caption above it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..types import Frame
from .fonts import Typeface
from .video import save_png

if TYPE_CHECKING:
    from PIL import Image

_PAGE_WIDTH = 1600
_MARGIN, _GAP, _LINE = 28, 8, 26
_PAPER, _INK, _FAINT, _MARK = (18, 20, 24), (232, 234, 237), (140, 146, 155), (255, 176, 59)
_MAX_COLUMNS = 9
_MAX_ROWS = 200
_MAX_PICTURE = 320
"""Longest side of a kept picture in pixels: what a page of five columns shows."""
_MAX_CAPTION = 1000
"""Characters of a caption that are looked at; three lines hold fewer."""


@dataclass(slots=True, kw_only=True)
class _Row:
    shot: int
    caption: str
    start_s: float
    pictures: list[Image.Image] = field(default_factory=list)


class ContactSheet:
    """Collects the first frame of every chunk, made small, and draws them at the end.

    A page has 200 shots at most and says how many it leaves out, so that a long film stays a page
    that programs open; its memory does not grow any further either.

    Args:
        title: headline of the page.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[_Row] = []
        self._seen: tuple[int, int] | None = None
        self._left_out = 0

    def add(self, frame: Frame, caption: str) -> None:
        """Look at the film's next frame, made from ``caption``."""
        if self._seen == (frame.shot, frame.chunk):
            return
        self._seen = (frame.shot, frame.chunk)
        if not self._rows or frame.chunk == 0:
            if len(self._rows) == _MAX_ROWS:
                self._left_out += 1
                return
            row = _Row(shot=frame.shot, caption=caption[:_MAX_CAPTION], start_s=frame.pts_s)
            self._rows.append(row)
        if self._left_out == 0 and len(self._rows[-1].pictures) < _MAX_COLUMNS:
            self._rows[-1].pictures.append(_small(frame.pixels))

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
        from PIL import Image, ImageDraw

        if not self._rows:
            raise ConfigError("contact sheet: no frame was added")
        columns = max(len(row.pictures) for row in self._rows)
        width = min((_PAGE_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns, _MAX_PICTURE)
        height = max(1, round(width * self._rows[0].pictures[0].height
                              / self._rows[0].pictures[0].width))  # fmt: skip
        head, body = Typeface(30), Typeface(19)
        room = _PAGE_WIDTH - 2 * _MARGIN - 76 - 84  # beside the number and the time
        texts = [_wrap(body, row.caption, room) for row in self._rows]
        page_height = 2 * _MARGIN + 54 + (_LINE if self._left_out else 0)
        page_height += sum(len(text) * _LINE + _GAP + height + _MARGIN for text in texts)
        page = Image.new("RGB", (_PAGE_WIDTH, page_height), _PAPER)
        pen = ImageDraw.Draw(page)
        title = _wrap(head, self._title[:_MAX_CAPTION], _PAGE_WIDTH - 2 * _MARGIN, lines=1)
        head.draw(pen, (_MARGIN, _MARGIN), title[0], _INK)
        top = _MARGIN + 54
        for row, lines in zip(self._rows, texts, strict=True):
            body.draw(pen, (_MARGIN, top), f"shot {row.shot + 1}", _MARK)
            start = f"{row.start_s:.1f} s"
            body.draw(pen, (_PAGE_WIDTH - _MARGIN - body.length(start), top), start, _FAINT)
            for line in lines:
                body.draw(pen, (_MARGIN + 76, top), line, _INK)
                top += _LINE
            top += _GAP
            for column, picture in enumerate(row.pictures):
                fitted = picture.resize((width, height), Image.Resampling.LANCZOS)
                page.paste(fitted, (_MARGIN + column * (width + _GAP), top))
            top += height + _MARGIN
        if self._left_out:
            body.draw(pen, (_MARGIN, top), f"and {self._left_out} more shots", _FAINT)
        return page


def _small(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return a small copy, which does not keep the frame's chunk in memory."""
    from PIL import Image

    picture = Image.fromarray(np.array(pixels))
    picture.thumbnail((_MAX_PICTURE, _MAX_PICTURE), Image.Resampling.LANCZOS)
    return picture


def _wrap(face: Typeface, text: str, room: int, lines: int = 3) -> list[str]:
    """Break a text into lines, between words where there are any.

    Args:
        face: what it is written in.
        text: any text.
        room: width of a line in pixels.
        lines: most lines; where the text is longer, the last one ends in dots.
    """
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if face.length(longer) <= room:
            found[-1] = longer
            continue
        # A word longer than a line (scripts without blanks have them) is broken anywhere.
        if found[-1]:
            found.append("")
        for character in word:
            if found[-1] and face.length(found[-1] + character) > room:
                found.append("")
            found[-1] += character
        if len(found) > lines:
            break
    if len(found) <= lines:
        return found
    last = found[lines - 1]
    while last and face.length(f"{last} ...") > room:
        last = last[:-1]
    return [*found[: lines - 1], f"{last} ..."]
