"""SR content items (PS3.3 C.17.3): words as items, and items read as a receiver does.

Reading takes them in whatever state they are in.
"""

import re
from collections.abc import Iterator

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom import Dataset
from pydicom.sr.coding import Code

from inference.assessment import Text
from sr_writer.coding import CHINESE

NOT_TEXT = re.compile(r"[\x00-\x09\x0b\x0e-\x1f\x7f-\x9f]")
"""Control characters that UT does not allow (PS3.5 Table 6.2-1), or allows for escapes only."""


def texts(
    name: Code, said: Text, relation: Relation = Relation.CONTAINS
) -> list[sr.TextContentItem]:
    """Return `said` as an item for each language that it is said in.

    The document's language is English, so only Chinese is marked. Models and runtimes write tabs
    and other control characters, which Text Value may not hold: spaces stand for them.
    """
    items = []
    if said.en:
        words = NOT_TEXT.sub(" ", said.en)
        items.append(sr.TextContentItem(name=name, value=words, relationship_type=relation))
    if said.zh:
        words = NOT_TEXT.sub(" ", said.zh)
        chinese = sr.TextContentItem(name=name, value=words, relationship_type=relation)
        chinese.ContentSequence = sr.LanguageOfContentItemAndDescendants(CHINESE)
        items.append(chinese)
    return items


def walk(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below `item`, in document order."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def name_of(item: Dataset) -> str:
    """Return the code value of an item's concept name, empty where it has none."""
    return str(_first(item, "ConceptNameCodeSequence").get("CodeValue", ""))


def value_of(item: Dataset) -> str:
    """Return the code value of a CODE item, empty where it has none."""
    return str(_first(item, "ConceptCodeSequence").get("CodeValue", ""))


def is_named(item: Dataset, code: Code) -> bool:
    """Return whether `code` is the item's concept name; code meanings do not count."""
    name = _first(item, "ConceptNameCodeSequence")
    return (name.get("CodeValue"), name.get("CodingSchemeDesignator")) == (
        code.value,
        code.scheme_designator,
    )


def number_of(item: Dataset) -> float | None:
    """Return the value of a NUM item, None where it has none."""
    measured = _first(item, "MeasuredValueSequence").get("NumericValue")
    return None if measured is None else float(measured)


def _first(item: Dataset, sequence: str) -> Dataset:
    items: list[Dataset] | None = item.get(sequence)
    return items[0] if items else _NOTHING


_NOTHING = Dataset()
