"""The contact sheet: a row per shot, small copies only, captions of any script and length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shotstream_rt import ConfigError, Frame
from shotstream_rt.media.sheet import ContactSheet

from .pictures import picture


def test_sheet_has_a_row_per_shot_and_a_picture_per_chunk() -> None:
    sheet = ContactSheet("film")
    for index in range(42):
        shot, within = divmod(index, 21)
        chunk = 0 if within < 9 else 1
        frame = Frame(pixels=picture(index), index=index, shot=shot, chunk=chunk, pts_s=index / 16)
        sheet.add(frame, "a caption that is long enough to need more than one line " * 4)
    assert [[kept.size for kept in row.pictures] for row in sheet._rows] == [[(48, 32)] * 2] * 2
    page = sheet.draw()
    assert page.size[0] == 1600
    assert len(page.getcolors(1 << 24) or []) > 10


def test_sheet_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no frame"):
        ContactSheet("film").save(tmp_path / "a.png")


def frame_of(pixels: NDArray[np.uint8], shot: int = 0, chunk: int = 0) -> Frame:
    return Frame(pixels=pixels, index=0, shot=shot, chunk=chunk, pts_s=0.0)


def test_sheet_keeps_small_copies_only() -> None:
    sheet = ContactSheet("film")
    chunk = np.zeros((12, 480, 832, 3), np.uint8)
    sheet.add(frame_of(chunk[0]), "a")
    small = np.zeros((12, 32, 48, 3), np.uint8)
    sheet.add(frame_of(small[0], chunk=1), "a")
    kept = sheet._rows[0].pictures
    assert [picture.size for picture in kept] == [(320, 185), (48, 32)]
    small[:] = 255
    assert kept[1].getpixel((0, 0)) == (0, 0, 0)


def test_sheet_of_a_long_film_says_what_it_leaves_out() -> None:
    sheet = ContactSheet("film")
    for shot in range(207):
        for chunk in range(2):
            sheet.add(frame_of(picture(0, 16, 16), shot, chunk), f"shot {shot}")
    assert len(sheet._rows) == 200
    assert all(len(row.pictures) == 2 for row in sheet._rows)
    assert sheet._left_out == 7
    longer = sheet.draw().size[1]
    sheet._left_out = 0
    assert longer > sheet.draw().size[1]


def caption_pixels(text: str) -> bytes:
    sheet = ContactSheet("film")
    sheet.add(frame_of(picture(0)), text)
    return np.asarray(sheet.draw()).tobytes()


@pytest.mark.parametrize(
    "pair",
    [
        ("一只红猫", "海滩行走"),
        ("кот", "пёс"),
        ("قطة", "كلب"),
        ("🐈", "🐕"),
        ("कि", "कु"),
        ("ネコ", "イヌ"),
    ],
)
def test_captions_of_any_script_differ_on_the_sheet(pair: tuple[str, str]) -> None:
    assert caption_pixels(pair[0]) != caption_pixels(pair[1])


@pytest.mark.parametrize("caption", ["x" * 2_000_000, "猫" * 5000, "a\nb\t" * 3000, " " * 9000])
def test_captions_of_any_length_fit_on_the_page(caption: str) -> None:
    sheet = ContactSheet("t" * 100_000)
    sheet.add(frame_of(picture(0)), caption)
    page = np.asarray(sheet.draw())
    assert page.shape[1] == 1600
    assert (page[:, -28:] == page[0, 0]).all(), "nothing is written in the margin"
