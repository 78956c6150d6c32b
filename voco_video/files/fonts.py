"""Fonts of this machine for texts in pictures, each text as these fonts can write it, and its lines."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont, features

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONT_FILES = (
    *("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "NotoSansJP-Regular.otf", "NotoSansKR-Regular.otf"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "Arial Unicode.ttf"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "msyh.ttc", "msgothic.ttc", "malgun.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "Nirmala.ttf", "tahoma.ttf", "FreeSans.ttf"),
    *("Symbola.ttf", "Symbola_hint.ttf", "NotoEmoji-Regular.ttf", "seguiemj.ttf", "unifont.ttf"),
)
"""Files that are looked for on this machine, in this order: fonts of Western texts, then others."""
_NOWHERE = "\U0010ffff"  # no font has this character, so its glyph is the one that stands for missing ones
_BOX = "\u25a1"
_JOINERS = "\u200c\u200d"  # invisible, and parts of words


@dataclass(frozen=True)
class Writing:
    """A text as it can be written here.

    Attributes:
        text: the text without control characters. A symbol that the font does not have is replaced by its name in
            brackets, another character by an empty box.
        font_file: the font that has most of its characters; None for the one that is part of PIL.
        missing: the characters that the font does not have.
    """

    text: str
    font_file: str | None
    missing: frozenset[str] = frozenset()

    def font(self, size: int, *, is_bold: bool = False) -> Font:
        """Return its font with a size in pixels; bold only if this font has a bold one beside it."""
        return _load(_bold(self.font_file) if is_bold else self.font_file, size)


def writing(text: str) -> Writing:
    r"""Choose the font for a text, and replace what it does not have.

    >>> writing("tab\tand\x00zero").text
    'tab andzero'
    """
    clean = _cleaned(text)
    files = [None] if not (found := _font_files()) else found
    best, missing = files[0], _missing(files[0], clean)
    for file in files[1:]:
        if not missing:
            break
        less = _missing(file, clean)
        if len(less) < len(missing):
            best, missing = file, less
    shown = "".join(_replacement(one, best) if one in missing else one for one in clean)
    return Writing(shown, best, missing)


def note_on_missing(writings: list[Writing]) -> str:
    """Say which characters are not written, and what would help; empty if all are.

    >>> note_on_missing([writing("plain")])
    ''
    """
    missing = set().union(*(one.missing for one in writings))
    boxes = sorted({_script(one) for one in missing if not _is_symbol(one)})
    notes = []
    if boxes:
        notes.append(
            f"An empty box stands for a character that no font here has ({', '.join(boxes)}); "
            "a font such as Noto Sans CJK, Noto Sans or Arial Unicode adds them."
        )
    if any(map(_is_symbol, missing)):
        notes.append("Names in brackets stand for symbols that no font here has.")
    if not features.check("raqm") and any(
        unicodedata.bidirectional(c) in ("R", "AL") for w in writings for c in w.text
    ):
        notes.append("Texts that are read from right to left are in the wrong order: they need the library fribidi.")
    return " ".join(notes)


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """Break a text into lines; a word that is wider than a line is broken where the line ends."""
    lines = []
    for part in text.split("\n"):
        line = ""
        for word in part.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line and font.getlength(word) <= width:
                lines.append(line)
                line = word
                continue
            *full, line = _broken(longer, font, width)
            lines += full
        lines.append(line)
    return lines


def _broken(word: str, font: Font, width: float) -> list[str]:
    """Break a word into lines, behind one of ``-_./`` where such a character is near the end of a line."""
    lines = []
    while word and font.getlength(word) > width:
        size = max(1, bisect_right(range(1, len(word)), width, key=lambda end: font.getlength(word[:end])))
        behind = max(word.rfind(mark, size // 2, size) for mark in "-_./ ") + 1
        size = behind or size
        lines.append(word[:size].strip())
        word = word[size:]
    return [*lines, word.strip()]


def shortened(text: str, font: Font, width: float, *, num_lines: int) -> list[str]:
    """Break a text into few lines; of a longer one the middle is left out."""

    def with_parts_of(size: int) -> list[str]:
        return wrapped(f"{text[: -(-size // 2)]}…{text[len(text) - size // 2 :]}", font, width)

    whole = wrapped(text, font, width)
    if len(whole) <= num_lines:
        return whole
    return with_parts_of(bisect_right(range(1, len(text)), num_lines, key=lambda size: len(with_parts_of(size))))


def _cleaned(text: str) -> str:
    """Keep line breaks and what can be seen; characters that change the direction of their surroundings go, too."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " "))
    kinds = ((one, unicodedata.category(one)) for one in text)
    kept = (
        one if kind != "Cs" else "\ufffd" for one, kind in kinds if one in f"\n{_JOINERS}" or kind not in ("Cc", "Cf")
    )
    return "".join(kept)


def _replacement(character: str, font_file: str | None) -> str:
    if _is_symbol(character):
        return f"[{unicodedata.name(character, 'symbol').lower()}]"
    if unicodedata.category(character) in ("Mn", "Sk"):  # belongs to the character before it
        return ""
    return "?" if _missing(font_file, _BOX) else _BOX


def _is_symbol(character: str) -> bool:
    return unicodedata.category(character) == "So"


def _script(character: str) -> str:
    r"""Return the script of a letter, which its name begins with.

    >>> _script("\u4e2d"), _script("\ud55c"), _script("\u2013")
    ('CJK', 'Hangul', 'signs')
    """
    if unicodedata.category(character)[0] != "L":
        return "signs"
    name = unicodedata.name(character, "other").partition(" ")[0]
    return name if name == "CJK" else name.capitalize()


def _missing(font_file: str | None, text: str) -> frozenset[str]:
    return frozenset(one for one in set(text) if not one.isspace() and not _has(font_file, one))


@cache
def _has(font_file: str | None, character: str) -> bool:
    """Tell whether a font has a character: PIL shows no table of them, so glyphs are compared."""
    try:
        font = _load(font_file, 20)
        glyph, nothing = font.getmask(character), font.getmask(_NOWHERE)
    except (OSError, UnicodeEncodeError):  # a bitmap font, or the one of a PIL without FreeType
        return character.isascii()
    return glyph.size != nothing.size or bytes(glyph) != bytes(nothing)


@cache
def _font_files() -> list[str | None]:
    """List the fonts that are here. matplotlib brings one of its own, which is there wherever matplotlib is."""
    files: list[str | None] = []
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        bundled = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        files += [str(bundled)] if bundled.is_file() else []
    for name in FONT_FILES:
        try:
            font = ImageFont.truetype(name, 20)
        except (OSError, ImportError):  # not here, or a PIL without FreeType
            continue
        files.append(str(font.path))
    return files


def _bold(font_file: str | None) -> str | None:
    if font_file is None:
        return None
    path = Path(font_file)
    for plain, bold in (("DejaVuSans.", "DejaVuSans-Bold."), ("-Regular.", "-Bold.")):
        if plain in path.name and (beside := path.with_name(path.name.replace(plain, bold))).is_file():
            return str(beside)
    return font_file


@cache
def _load(font_file: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if font_file is None else ImageFont.truetype(font_file, size)


def forget_fonts() -> None:
    """Look for fonts anew, after some were installed."""
    for function in (_has, _font_files, _load):
        function.cache_clear()
