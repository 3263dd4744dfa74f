"""Fonts for captions: one that has the script, or the characters' numbers."""

from __future__ import annotations

from pathlib import Path

from shotstream_rt.media.fonts import Typeface


def test_words_that_no_font_has_are_written_by_number() -> None:
    face = Typeface(19, folders=[])
    assert "".join(piece.text for piece in face.pieces("a 猫\x1b b")) == r"a \u732b\x1b b"
    assert len(face.pieces("a red cat")) == 1


def test_a_font_with_the_script_is_found(tmp_path: Path) -> None:
    from PIL import ImageFont

    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "sub").mkdir()
    data = ImageFont.load_default(20).font_bytes  # any real font: here Pillow's own
    (tmp_path / "sub/real.otf").write_bytes(data)
    face = Typeface(19, folders=[tmp_path])
    assert [piece.text for piece in face.pieces("猫")] == [r"\u732b"]
    assert [Path(font.font.path).name for font in face._fonts[1:]] == ["real.otf"]
