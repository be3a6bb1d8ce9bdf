"""The font that reports are set in: Noto Sans CJK, which has the Chinese and the Latin letters."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fontTools.ttLib import TTCollection

FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
FILE = "NotoSansCJK-Regular.ttc"
FACE = "Noto Sans CJK SC"
"""Of the faces of the collection the one with the shapes of mainland China."""

FULL_NAME = 4
"""Name ID of OpenType's table of names."""


class FontMissingError(Exception):
    """The font is not installed; the text says what to do."""


@dataclass(frozen=True)
class Font:
    """A font file and which of its faces to take."""

    path: Path
    face: int


@cache
def report_font() -> Font:
    """Return the font as the system has it.

    Raises FontMissingError where it has none; nothing stands in, since that would have no Chinese.
    """
    for folder in FOLDERS:
        for path in sorted(folder.rglob(FILE)):
            with TTCollection(path, lazy=True) as collection:
                names = [font["name"].getDebugName(FULL_NAME) for font in collection]
            if FACE in names:
                return Font(path, names.index(FACE))
    raise FontMissingError(
        f"PDF reports need the font {FACE}, and {FILE} is in none of "
        f"{', '.join(map(str, FOLDERS))}: install fonts-noto-cjk"
    )
