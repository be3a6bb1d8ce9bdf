"""Which data sets a query's keys match: PS3.4 Section C.2.2.2, attribute by attribute.

Both sides are text: what a key says, and what an attribute's values are, in Unicode.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR

from node.descriptions import LONGEST, UNPRINTABLE

MOST_UIDS, MOST_VALUES = 2000, 100  # of one key: each is a parameter of SQL

_RANGED = ("DA", "TM")
_NUMERIC = ("DS", "IS", "SL", "SS", "SV", "UL", "US", "UV", "FL", "FD")
_WITH_WILDCARDS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
UNMATCHED = ("DT", "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN")
"""Values of these are not compared."""
_ABOUT_QUERY = (0x00080005, 0x00080052, 0x00080201)  # character set, level; the zone of times
_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


class UnmatchableKeyError(ValueError):
    """A key's value cannot be matched; the text names the attribute and never the value."""

    def __init__(self, keyword: str, reason: str) -> None:
        super().__init__(f"{keyword}: {reason}")
        self.keyword = keyword


@dataclass(frozen=True)
class Range:
    """From `first` to `last`, both included, as text that sorts as what it means; open at None."""

    first: str | None
    last: str | None

    def holds(self, value: str) -> bool:
        """Whether a value lies within."""
        return (self.first is None or self.first <= value) and (
            self.last is None or value <= self.last
        )


@dataclass(frozen=True)
class MatchingKey:
    """One attribute of a query that has a value."""

    keyword: str
    vr: str
    values: tuple[str, ...]
    ranges: tuple[Range, ...] = ()
    """Of dates and times, in place of the values."""

    @property
    def has_wildcards(self) -> bool:
        """Whether a value stands for others."""
        return self.vr in _WITH_WILDCARDS and any("*" in one or "?" in one for one in self.values)

    def matches(self, texts: Iterable[str]) -> bool:
        """Whether any value of the attribute does."""
        return any(map(self._matches_one, texts))

    def _matches_one(self, text: str) -> bool:
        if self.ranges:
            bounds = _bounds(text, self.vr)
            return bounds is not None and any(one.holds(bounds[0]) for one in self.ranges)
        if self.vr == "PN":
            return any(_same_name(wanted, text) for wanted in self.values)
        if self.vr in _NUMERIC:
            return _number(text) in map(_number, self.values)
        if self.has_wildcards:
            return any(_like(wanted, text) for wanted in self.values)
        return text in self.values


def matching_keys(query: Dataset) -> dict[str, MatchingKey]:
    """Return the keys of a query that have a value, by keyword.

    UnmatchableKeyError where a value is none of its kind.
    A key without a value, or with nothing but `*`, matches whatever there is (universal matching).
    Of sequences Request Attributes Sequence alone is looked into; private keys and those of
    repeating groups are left out.
    """
    keys = {}
    for element in _elements(query):
        values = _values(element)
        if values and not (_vr(element) in _WITH_WILDCARDS and "*" in values):
            keys[element.keyword] = _key(element, values)
    return keys


def _elements(query: Dataset, *, is_item: bool = False) -> Iterator[DataElement]:
    for tag in query.keys():  # noqa: SIM118  # iterating would convert values, which may fail
        if not dictionary_has_tag(tag):
            continue
        try:
            element = query[tag]
        except Exception as error:  # pydicom raises what it will over a value that is none
            raise UnmatchableKeyError(str(tag), "its value is none of its kind") from error
        if element.keyword == "RequestAttributesSequence" and element.VR == "SQ" and not is_item:
            for item in element.value:
                yield from _elements(item, is_item=True)
        elif _vr(element) not in UNMATCHED and element.tag not in _ABOUT_QUERY:
            yield element


def _vr(element: DataElement) -> str:
    """What the attribute is by the standard, whatever the query says that it is."""
    return dictionary_VR(element.tag)[:2]  # the first where it has several


def _values(element: DataElement) -> tuple[str, ...]:
    most = MOST_UIDS if _vr(element) == "UI" else MOST_VALUES
    if most < element.VM:
        raise UnmatchableKeyError(element.keyword, f"it has more than {most} values")
    values = tuple(filter(None, texts_of(element)))
    if any(len(one) > LONGEST for one in values):
        raise UnmatchableKeyError(element.keyword, f"it has more than {LONGEST} characters")
    if any(UNPRINTABLE.search(one) for one in values):
        raise UnmatchableKeyError(element.keyword, "it has characters that no value has")
    return values


def texts_of(element: DataElement) -> tuple[str, ...]:
    """Return the values of an element as text."""
    if element.VM == 0:
        return ()
    several = element.value if element.VM > 1 else [element.value]
    return tuple(str(one).strip() for one in several)


def _key(element: DataElement, values: tuple[str, ...]) -> MatchingKey:
    keyword, vr = element.keyword, _vr(element)
    if vr in _RANGED:
        ranges = tuple(_range(keyword, vr, one) for one in values)
        return MatchingKey(keyword, vr, values, ranges)
    if vr in _NUMERIC and any(_number(one) is None for one in values):
        raise UnmatchableKeyError(keyword, "it is no number")
    return MatchingKey(keyword, vr, values)


def _range(keyword: str, vr: str, text: str) -> Range:
    """Return the range that a key names; a single value is one from its begin to its end."""
    first, hyphen, last = (one.strip() for one in text.partition("-"))
    if not hyphen:
        last = first
    bounds = [_bounds(one, vr) if one else (None, None) for one in (first, last)]
    if bounds[0] is None or bounds[1] is None or not (first or last):
        raise UnmatchableKeyError(keyword, "it is no date or time, and no range of them")
    return Range(bounds[0][0], bounds[1][1])


def _bounds(text: str, vr: str) -> tuple[str, str] | None:
    """Return the first and the last moment that a value may mean; None where it is none."""
    if vr == "DA":
        date = text.replace(".", "")  # ACR-NEMA's 1993.08.22 (PS3.5 Section 6.2)
        return (date, date) if _DATE.fullmatch(date) else None
    time = text.replace(":", "")
    if not _TIME.fullmatch(time):
        return None
    return time + "000000.000000"[len(time) :], time + "235959.999999"[len(time) :]


def _like(pattern: str, text: str) -> bool:
    return fnmatchcase(text, pattern.replace("[", "[[]"))  # DICOM has no sets of characters


def _same_name(wanted: str, text: str) -> bool:
    """Match person names whatever their case (PS3.4 Section C.2.2.2.1).

    A key of one component group matches in any of them: alphabetic, ideographic or phonetic.
    """
    groups = [_folded(group) for group in text.split("=")]
    asked = [_folded(group) for group in wanted.split("=")]
    if len(asked) == 1:
        return any(_like(asked[0], group) for group in groups)
    groups += [""] * (len(asked) - len(groups))
    return all(_like(one, group) for one, group in zip(asked, groups, strict=False) if one)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().rstrip("^ ")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
