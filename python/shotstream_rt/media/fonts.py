"""Fonts for captions of any script: Pillow's own one and those installed here."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..printable import printable

_MOST_FILES = 2000
"""Font files that are listed."""
_MOST_OPEN = 64
"""Font files that are tried; each stays open while a page is drawn."""
_NO_CHARACTER = "\U0010fffe"
"""Not a character, so a font draws for it what it draws for every character it does not have."""

_BROAD = (
    "notosanscjk", "sourcehansans", "notoserifcjk", "notosans-regular", "dejavusans.", "arialuni",
    "droidsansfallback", "wqy", "pingfang", "hiragino", "msyh", "malgun", "yugoth", "unifont",
    "freesans.", "segoeui.", "arial.",
)  # fmt: skip
"""Beginnings of the file names of fonts with many scripts: looked at first, in this order."""
_SPECIAL = re.compile(r"bold|italic|oblique|light|thin|black|mono|condensed|symbol|emoji")
"""In the names of fonts that are looked at last."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring characters that one font draws."""

    text: str
    font: Any


class Typeface:
    """One size of Pillow's font, with other fonts for what it does not have.

    A character that no font here has is written by its number, as Python escapes it, so that other
    captions look different instead of like the same row of boxes.

    Args:
        size: height in pixels.
        folders: where to look for fonts; default: where this system installs them.
    """

    def __init__(self, size: int, folders: Sequence[Path] | None = None) -> None:
        from PIL import ImageFont

        self._size = size
        self._folders = _font_folders() if folders is None else tuple(folders)
        self._fonts: list[_Font] = [_Font(ImageFont.load_default(size))]
        self._others: Iterator[Path] | None = None
        self._font_of: dict[str, _Font | None] = {}

    def pieces(self, text: str) -> list[Piece]:
        """Split a text into pieces by font; characters that do nothing visible are escaped."""
        found: list[Piece] = []
        last: _Font | None = self._fonts[0]
        for character in printable(text):
            # Blanks and accents go with what is before them: a font shapes words as a whole.
            joins = character == " " or unicodedata.category(character).startswith("M")
            font = last if joins and found and last and last.has(character) else None
            font = font or (None if joins and last is None else self._find(character))
            last = font
            written = character if font or character == " " else ascii(character)[1:-1]
            pen = (font or self._fonts[0]).font
            if found and found[-1].font is pen:
                found[-1] = Piece(found[-1].text + written, pen)
            else:
                found.append(Piece(written, pen))
        return found

    def length(self, text: str) -> float:
        """Return how wide a text is, in pixels."""
        return float(sum(piece.font.getlength(piece.text) for piece in self.pieces(text)))

    def draw(self, pen: Any, place: tuple[float, float], text: str, ink: Any) -> None:
        """Write a text.

        Args:
            pen: Pillow's ``ImageDraw``.
            place: left end and top of the line, in pixels.
            text: one line.
            ink: its colour.
        """
        left, top = place
        base = top + self._fonts[0].font.getmetrics()[0]
        for piece in self.pieces(text):
            pen.text((left, base), piece.text, ink, piece.font, anchor="ls")
            left += piece.font.getlength(piece.text)

    def _find(self, character: str) -> _Font | None:
        """Return the first font that has a character, or None."""
        if character not in self._font_of:
            self._font_of[character] = next(
                (font for font in self._every_font() if font.has(character)), None
            )
        return self._font_of[character]

    def _every_font(self) -> Iterator[_Font]:
        """Yield the fonts opened so far, then open others one by one."""
        yield from tuple(self._fonts)
        if self._others is None:
            self._others = iter(_font_files(self._folders)[:_MOST_OPEN])
        for path in self._others:
            font = _open(path, self._size)
            if font is not None:
                self._fonts.append(font)
                yield font


class _Font:
    """A font, and which characters it has."""

    def __init__(self, font: Any) -> None:
        from PIL import ImageFont

        self.font = font
        # Shaping puts a circle below a lone accent, which looks as if the font had one.
        self._plain = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
        self._missing = self._picture(_NO_CHARACTER)

    def has(self, character: str) -> bool:
        """Tell whether the font has its own picture for a character."""
        return character.isspace() or self._picture(character) != self._missing

    def _picture(self, character: str) -> tuple[Any, bytes]:
        mask = self._plain.getmask(character)
        return mask.size, bytes(mask)


def _open(path: Path, size: int) -> _Font | None:
    from PIL import ImageFont

    try:
        return _Font(ImageFont.truetype(str(path), size))
    except (OSError, ValueError):
        return None  # not a font, a damaged one, or one of pictures in a fixed size


def _font_folders() -> tuple[Path, ...]:
    home = Path("~").expanduser()
    if sys.platform == "darwin":
        return (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts")
    if sys.platform == "win32":
        return (Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts",)
    return (
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".local/share/fonts",
        home / ".fonts",
    )


@cache
def _font_files(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the font files in some folders, those with many scripts first."""
    found: list[Path] = []
    for folder in folders:
        for place, _, names in os.walk(folder):
            found += [
                Path(place) / name
                for name in sorted(names)
                if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc"))
            ]
            if len(found) >= _MOST_FILES:
                break

    def rank(path: Path) -> tuple[bool, int]:
        name = path.name.lower()
        order = next((i for i, start in enumerate(_BROAD) if name.startswith(start)), len(_BROAD))
        return order == len(_BROAD) and bool(_SPECIAL.search(name)), order

    return tuple(sorted(found[:_MOST_FILES], key=rank))
