"""Text that a model wrote, cut into sentences and brought to the form in which it is read."""

import re
import unicodedata

_BOUNDARY = re.compile(
    r"[.!?。！？｡]+[\"'”’)\]）】]*"
    # A line break alone may stand within a sentence; a blank line or a list's next item may not.
    r"|\n(?=[ \t]*(?:\n|[-*•·]|\d{1,3}[.)、]))"
)
_ABBREVIATION = re.compile(
    r"(?:(?<![a-z])(?:e\.g|i\.e|approx|ca|cf|vs|dr|fig|max|min|resp|st|incl|lt|rt|[a-z])"
    r"|(?:^|\n)[ \t]*\d{1,3})$",
    re.IGNORECASE,
)
_LONGEST_ABBREVIATION = 12

_TRADITIONAL = str.maketrans("側無沒見雙兩線顱內腦竇發現並變厘", "侧无没见双两线颅内脑窦发现并变厘")
_LIGATURE = re.compile(r"(?<=[a-z])(?:ae|oe)|\boe")


def sentences(text: str) -> list[str]:
    """Substrings of `text` in order, blank ones left out; decimals and abbreviations stay whole.

    A word by itself ("No.") belongs to what follows, the last one to what stands before it.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for end in [*(match.end() for match in _BOUNDARY.finditer(text) if _ends(text, match)), None]:
        piece = text[start:end]
        if end is None and spans and _is_word(piece):
            start = spans.pop()[0]
        elif end is not None and _is_word(piece):
            continue
        spans.append((start, len(text) if end is None else end))
        start = spans[-1][1]
    found = (text[start:end].strip() for start, end in spans)
    return [sentence for sentence in found if any(letter.isalnum() for letter in sentence)]


def join(kept: list[str]) -> str:
    """One text of sentences; one that has no full stop keeps a line of its own."""
    text = ""
    for sentence in kept:
        if text:
            text += _gap(text[-1])
        text += sentence
    return text


def plain(text: str) -> str:
    """The form for reading: compatibility forms, case, spelling and invisible characters undone."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(
        letter
        for letter in folded
        if letter.isspace() or unicodedata.category(letter) not in ("Cf", "Cc")
    )
    simplified = visible.translate(_TRADITIONAL).replace("’", "'")
    return " ".join(_LIGATURE.sub("e", simplified).split())


def _ends(text: str, match: re.Match[str]) -> bool:
    if match.group() != ".":
        return True
    following = text[match.end() : match.end() + 1]
    if following and not (following.isspace() or following.isupper() or following > "\u2e7f"):
        return False
    before = text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()]
    return _ABBREVIATION.search(before) is None


def _is_word(piece: str) -> bool:
    """Whether it is too short to say something by itself; Chinese words have a letter or two."""
    letters = [letter for letter in piece if letter.isalnum()]
    if any(letter > "\u2e7f" for letter in letters):
        return len(letters) <= 2
    return bool(letters) and len(piece.split()) <= 1


def _gap(last: str) -> str:
    if last in "。！？｡”’）】":
        return ""
    return " " if last in ".!?\"')]" else "\n"
