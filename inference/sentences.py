"""Text that a model wrote, cut into sentences and brought to the form in which it is read."""

import re
import unicodedata
from itertools import pairwise

_BOUNDARY = re.compile(
    r"[.!?。！？｡]+[\"'”’)\]）】]*"
    # A line break alone may stand within a sentence; a blank line or a list's next item may not.
    r"|\n(?=[ \t]*(?:\n|[-*•·]|\d{1,3}[.)、]))"
)
_ITEM = re.compile(r"[ \t]*\n[ \t]*(?:[-*•·]|\d{1,3}[.)、])")
_INTRODUCTION = re.compile(r"[:：][ \t]*(?:\n|$)")
_LONGEST_INTRODUCTION = 600
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
    ends = [match.end() for match in _BOUNDARY.finditer(text) if _ends(text, match)]
    spans: list[tuple[int, int]] = []
    start = read = 0
    for end in [*ends, len(text)]:
        blank = not any(letter.isalnum() for letter in text[read:end])
        waiting = read > start
        read = end
        if blank:
            if spans and not waiting:
                spans[-1] = (spans[-1][0], end)
                start = end
        elif not _is_word(text[start:end]):
            spans.append((start, end))
            start = end
    if start < len(text):
        spans.append((spans.pop()[0] if spans else start, len(text)))
    found = (text[start:end].strip() for start, end in spans)
    return [sentence for sentence in found if any(letter.isalnum() for letter in sentence)]


def join(kept: list[str]) -> str:
    """One text of sentences; where a space would blur two into one, a paragraph parts them."""
    text = "".join(before + _gap(before, sentence) for before, sentence in pairwise(kept))
    return text + "".join(kept[-1:])


def plain(text: str) -> str:
    """The form for reading: compatibility forms, case, spelling and invisible characters undone."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Invisible ones join what they stand in; control characters are shown as spaces.
    visible = "".join(
        " " if unicodedata.category(letter) == "Cc" else letter
        for letter in folded
        if unicodedata.category(letter) != "Cf"
    )
    simplified = visible.translate(_TRADITIONAL).replace("’", "'")
    return " ".join(_LIGATURE.sub("e", simplified).split())


def _ends(text: str, match: re.Match[str]) -> bool:
    if _ITEM.match(text, match.start() if match.group() == "\n" else match.end()):
        # "No evidence of:" says something of each item of the list behind it.
        block = text[max(0, match.start() - _LONGEST_INTRODUCTION) : match.start()]
        return _INTRODUCTION.search(block[block.rfind("\n\n") + 1 :]) is None
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
    return sum(any(letter.isalnum() for letter in word) for word in piece.split()) <= 1


def _gap(before: str, sentence: str) -> str:
    narrow = "" if before[-1] in "。！？｡”’）】" else " "
    return narrow if sentences(before + narrow + sentence) == [before, sentence] else "\n\n"
