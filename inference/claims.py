"""What a sentence claims of each finding that it names: presence, sides and sizes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inference.assessment import Text
from inference.manifest import FindingSpec
from inference.polarity import Polarity, is_negation, polarity, word
from inference.sentences import plain

Side = Literal["left", "right", "both", "midline"]

_SIDES: dict[Side, re.Pattern[str]] = {
    "both": re.compile(
        rf"{word('bilateral|bilaterally|both|either|each side').pattern}|双侧|两侧|双|左右"
    ),
    "left": re.compile(rf"{word('left|lefts?-sided|leftwards?|leftmost|left-hand|lt').pattern}|左"),
    "right": re.compile(
        rf"{word('right|right-sided|rightwards?|rightmost|right-hand|rt').pattern}|右"
    ),
    "midline": re.compile(rf"{word('midline|mid-line').pattern}|中线|正中"),
}
_NOT_ON = re.compile(
    rf"(?:{word('no|not|never|none|nothing|without|neither|nor|rather than|instead of').pattern}"
    r"(?: (?:in|on|at|to|of|the|from))* ?|(?:并非|而非|不是|不在|非|未见|没有|无)(?:于|在|位于)?)$"
)
_SPARED = re.compile(
    r"(?:[- ]sided?)?(?: \w+){0,2}? (?:[a-z]+n't|does not|do not|has no|shows no|without"
    r"|(?:is|are|appears?|looks?) (?:\w+ )?(?:not|no|normal|clear|unremarkable|spared|free))"
    r"(?![a-z0-9])|侧?(?:\w{0,6})(?:未见|无|没有|正常|未受累|不受累)"
)

_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = (
    r"(?P<mm>mm|millimet(?:er|re)s?|毫米)|(?P<cm>cm|centimet(?:er|re)s?|厘米|公分)|"
    r"(?P<ml>ml|cc|cm3|cm\^3|millilit(?:er|re)s?|毫升|立方厘米)"
)
_SIZE = re.compile(
    rf"(?P<numbers>{_NUMBER}(?:\s*(?:mm|cm)?\s*(?:[x×*~\-–—]|to|by|至)\s*{_NUMBER})*)[\s-]*"
    rf"(?:{_UNIT})(?![a-z0-9²³^])(?:左右)?"
)
_ANY_UNIT = re.compile(
    rf"{word('mm[23]?|cm[23]?|ml|cc|millimet(?:er|re)s?|centimet(?:er|re)s?|millilit(?:er|re)s?').pattern}"
    r"|\d(?:mm|cm|ml|cc)|毫米|厘米|公分|毫升"
)
_MM_PER_CM = 10.0

_CLAUSE_END = re.compile(
    rf"(?<!\d),|,(?!\d)|[;:、。!]|{word('but|while|whereas|and|with|although|though').pattern}"
    r"|及|和|伴|但|而"
)
_IT = word("it|its|this|that|these|those|they|the (?:lesion|finding|abnormality|latter)")
_GOES_ON = re.compile(rf"\W*(?:{_IT.pattern}|其|该|此|这|它|病灶|病变)")
LONGEST = 600
"""Letters in a sentence; in a longer one, no reading of what belongs to what can be trusted."""


@dataclass(frozen=True)
class Size:
    """A length in mm or a volume in mL, the largest of several dimensions."""

    value: float
    unit: Literal["mm", "mL"]


@dataclass(frozen=True)
class Claim:
    """What one mention of a finding says. `sizes` is None where a size cannot be read."""

    finding: str
    polarity: Polarity
    sides: frozenset[Side]
    sides_denied: frozenset[Side]
    sizes: tuple[Size, ...] | None


@dataclass(frozen=True)
class _Mention:
    finding: str
    start: int
    end: int
    absence: bool


class Names:
    """How findings are called in a text: by their words, labels and code meanings."""

    def __init__(self, specs: Sequence[FindingSpec]) -> None:
        self._patterns = [
            (spec.name, absence, pattern)
            for spec in specs
            for absence, phrases in ((False, _names(spec)), (True, _absences(spec)))
            if (pattern := _any_of(phrases)) is not None
        ]

    def claims(self, sentence: str, before: Sequence[str]) -> tuple[Claim, ...]:
        """Of each mention in a sentence; one that opens with "it" goes on about `before`.

        `before` names the findings of the sentence before. Raises ValueError for a sentence over
        `LONGEST` that names a finding.
        """
        text = plain(sentence)
        if len(text) > LONGEST:
            if any(pattern.search(text) for _, _, pattern in self._patterns):
                raise ValueError(f"sentence of {len(text)} letters")
            return ()
        mentions = self._mentions(text)
        opening = _GOES_ON.match(text)
        if not mentions and opening:
            mentions = [_Mention(name, opening.start(), opening.end(), False) for name in before]
        return tuple(_claim(text, mention, mentions) for mention in mentions)

    def _mentions(self, text: str) -> list[_Mention]:
        """In order; of names within each other, the longest counts ("subdural haemorrhage")."""
        found = [
            _Mention(name, match.start(), match.end(), absence)
            for name, absence, pattern in self._patterns
            for match in pattern.finditer(text)
        ]
        return sorted(
            (one for one in found if not any(_within(one, other) for other in found)),
            key=lambda mention: mention.start,
        )


def _claim(text: str, mention: _Mention, mentions: Sequence[_Mention]) -> Claim:
    said = polarity(text, mention.start, mention.end)
    if mention.absence:
        said = Polarity.DENIED if said is Polarity.STATED else Polarity.UNCLEAR
    # A name may hold a side ("midline shift"), which is no place then.
    bare = list(text)
    for other in mentions:
        bare[other.start : other.end] = " " * (other.end - other.start)
    asserted, denied = _sides("".join(bare), text, mention, mentions)
    return Claim(mention.finding, said, asserted, denied, _sizes(text, mention, mentions))


def _sides(
    bare: str, text: str, mention: _Mention, mentions: Sequence[_Mention]
) -> tuple[frozenset[Side], frozenset[Side]]:
    bare = _SIZE.sub(lambda match: " " * len(match.group()), bare)
    asserted: set[Side] = set()
    denied: set[Side] = set()
    for side, pattern in _SIDES.items():
        for match in pattern.finditer(bare):
            if _belongs(text, match.start(), mention, mentions):
                spared = _NOT_ON.search(bare[: match.start()]) or _SPARED.match(bare, match.end())
                (denied if spared else asserted).add(side)
    if "both" in asserted and "左右" in bare:
        asserted -= {"left", "right"}
    return frozenset(asserted), frozenset(denied)


def _sizes(text: str, mention: _Mention, mentions: Sequence[_Mention]) -> tuple[Size, ...] | None:
    found, read = [], [False] * len(text)
    for match in _SIZE.finditer(text):
        read[match.start() : match.end()] = [True] * len(match.group())
        if _belongs(text, match.start(), mention, mentions):
            numbers = re.findall(_NUMBER, match["numbers"])
            value = max(float(number.replace(",", ".")) for number in numbers)
            found.append(
                Size(value, "mL")
                if match["ml"]
                else Size(value * (_MM_PER_CM if match["cm"] else 1.0), "mm")
            )
    unread = (match.start() for match in _ANY_UNIT.finditer(text) if not read[match.start()])
    if any(_belongs(text, position, mention, mentions) for position in unread):
        return None
    return tuple(found)


def _belongs(text: str, position: int, mention: _Mention, mentions: Sequence[_Mention]) -> bool:
    """Whether what stands at `position` is said of the mention.

    It is said of the mentions in its clause, else of those in the nearest clause before that has
    any, else behind.
    """
    starts = [0, *(match.end() for match in _CLAUSE_END.finditer(text))]

    def clause(at: int) -> int:
        return sum(start <= at for start in starts)

    here = clause(position)
    clauses = {clause(other.start) for other in mentions}
    before = [number for number in clauses if number <= here]
    return clause(mention.start) == (max(before) if before else min(clauses))


def _within(one: _Mention, other: _Mention) -> bool:
    """Whether one mention is a part of a longer one."""
    return (
        other.start <= one.start
        and one.end <= other.end
        and one.end - one.start < other.end - other.start
    )


def _names(spec: FindingSpec) -> list[str]:
    words: list[Text] = [spec.words.present, spec.label]
    return [phrase for text in words for phrase in (text.en, text.zh)] + [spec.code.meaning]


def _absences(spec: FindingSpec) -> list[str]:
    """Phrases that state the absence without the name, such as "midline is central"."""
    names = _any_of(_names(spec))
    phrases = [plain(phrase) for phrase in (spec.words.absent.en, spec.words.absent.zh)]
    return [
        phrase
        for phrase in phrases
        if not is_negation(phrase) and not (names and names.search(phrase))
    ]


def _any_of(phrases: Sequence[str]) -> re.Pattern[str] | None:
    """Pattern of the phrases, in the plural too, and of "shift of the midline" for two words."""
    patterns = set()
    for phrase in map(plain, phrases):
        words = [re.escape(one) for one in phrase.split()]
        if not words:
            continue
        if not phrase.isascii():
            patterns.add(re.escape(phrase))
            continue
        patterns.add(word(r"[\s-]+".join(words) + "(?:e?s)?").pattern)
        if len(words) == 2:
            patterns.add(word(rf"{words[1]} of (?:the )?{words[0]}").pattern)
    return re.compile("|".join(sorted(patterns, key=len, reverse=True))) if patterns else None
