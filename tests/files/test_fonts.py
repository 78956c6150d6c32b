"""Fonts are found on the machine, and what none of them has is replaced and said."""

from __future__ import annotations

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from voco_video.files import fonts
from voco_video.files.fonts import forget_fonts, note_on_missing, writing


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a font with some characters where fonts of this user are looked for."""
    for variable in ("XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")  # where folders of fonts can be named
    forget_fonts()

    def write(name: str, characters: str) -> Path:
        path = tmp_path / "fonts" / name
        path.parent.mkdir(exist_ok=True)
        write_font(path, characters)
        forget_fonts()
        return path

    yield write
    forget_fonts()


def write_font(path: Path, characters: str) -> None:
    """Write a font in which each character is a square, and what is missing is an upright bar."""
    names = {ord(one): f"u{ord(one):06x}" for one in characters}
    order = [".notdef", *dict.fromkeys(names.values())]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf({name: square(200 if name == ".notdef" else 800) for name in order})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(str(path))


def square(width: int):
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for place in ((100, 800), (width, 800), (width, 0)):
        pen.lineTo(place)
    pen.closePath()
    return pen.glyph()


def test_a_font_with_the_characters_is_taken_once_it_is_there(install):
    before = writing("视频")
    assert (before.text, before.missing) == ("□□", {"视", "频"})
    path = install("NotoSansCJK-Regular.ttc", "视频 abc")
    after = writing("视频 abc")
    assert after == fonts.Writing("视频 abc", str(path))
    assert after.font(20).getlength("视频") == 40
    assert writing("plain text").font_file != str(path), "others keep the first font"
    assert note_on_missing([after]) == ""


def test_of_fonts_that_lack_some_the_one_that_lacks_least(install):
    path = install("NotoSansKR-Regular.otf", "视频 a□")
    shown = writing("视频 a 한 😀" + "\U0001f9ff")
    assert (shown.font_file, shown.missing) == (str(path), {"한", "😀", "\U0001f9ff"})
    assert shown.text == "视频 a □ [grinning face][nazar amulet]"
    note = note_on_missing([shown])
    assert "no font here has (Hangul)" in note
    assert "Names in brackets stand for symbols" in note


def test_a_machine_without_any_font_still_writes(install, monkeypatch):
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    shown = writing("what? – 视")
    assert shown.font_file is None
    assert shown.text.startswith("what? ")
    assert shown.missing == {"–", "视"}
    assert "no font here has (CJK, signs)" in note_on_missing([shown])
    assert shown.font(20).getlength(shown.text) > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\td", "a\nb\nc d"),
        ("evil\u202etxt\u2066.exe\u2069", "eviltxt.exe"),
        ("\x1b[31mred\x00", "[31mred"),
        ("e\u0301", "é"),
        ("a\ud800b", "a\ufffdb"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_what_cannot_be_seen_is_left_out(text, expected):
    assert writing(text).text == expected


def test_letters_in_the_wrong_order_are_said(monkeypatch):
    assert note_on_missing([writing("שלום")]) == "" or not fonts.features.check("raqm")
    monkeypatch.setattr(fonts.features, "check", lambda name: False)
    assert "from right to left are in the wrong order" in note_on_missing([writing("שלום")])
    assert note_on_missing([writing("hello")]) == ""
