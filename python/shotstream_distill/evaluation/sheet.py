"""A page of stories: one row a story, two pictures a shot, captions above them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from shotstream_rt.media.video import save_png

_GAP, _MARGIN, _LINE, _HEAD = 6, 24, 22, 34
_PAPER, _INK, _FAINT = (18, 20, 24), (232, 234, 237), (150, 156, 165)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoryRow:
    """A story on the page.

    Attributes:
        title: what holds for all shots.
        captions: one a shot.
        pictures: one uint8 ``[n, 3, H, W]`` a shot, equal ``n``.
    """

    title: str
    captions: Sequence[str]
    pictures: Sequence[Tensor]


def _fitted(text: str, width: int, length: float) -> str:
    """Shorten a text of some length in pixels to a width."""
    if length <= width:
        return text
    return text[: max(1, int(len(text) * width / length) - 2)] + "..."


def story_sheet(rows: Sequence[StoryRow], path: Path) -> None:
    """Write the page as PNG; all rows need as many shots as the first."""
    from PIL import Image, ImageDraw, ImageFont

    head, body = ImageFont.load_default(18), ImageFont.load_default(14)
    count, _, height, width = rows[0].pictures[0].shape
    shot_width = count * width + (count - 1) * 2
    page_width = 2 * _MARGIN + len(rows[0].pictures) * (shot_width + _GAP) - _GAP
    row_height = _HEAD + _LINE + height + 2 * _GAP
    page = Image.new("RGB", (page_width, 2 * _MARGIN + len(rows) * row_height), _PAPER)
    draw = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        top = _MARGIN + number * row_height
        draw.text((_MARGIN, top), row.title, fill=_INK, font=head)
        for shot, (caption, pictures) in enumerate(zip(row.captions, row.pictures, strict=True)):
            left = _MARGIN + shot * (shot_width + _GAP)
            text = _fitted(caption, shot_width, draw.textlength(caption, font=body))
            draw.text((left, top + _HEAD - 4), text, fill=_FAINT, font=body)
            for index, picture in enumerate(pictures):
                image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
                page.paste(image, (left + index * (width + 2), top + _HEAD + _LINE - 4))
    save_png(path, page)
