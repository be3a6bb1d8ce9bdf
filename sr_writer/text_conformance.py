"""What the gate asks of a report in words: one language, no claims of its own, TID 2000."""

from collections.abc import Iterator, Sequence

from pydicom import Dataset
from pydicom.sr.codedict import codes

from sr_writer.content_items import is_named, name_of, value_of, walk
from sr_writer.document_conformance import check_document
from sr_writer.source_images import SourceImage
from sr_writer.text_report import LANGUAGES, TITLE
from sr_writer.wording import (
    DEMONSTRATION,
    MODEL_TEXT,
    NARRATIVE_WITHHELD,
    NOT_ASSESSED,
    UNVERIFIED,
)

PARENTS = {  # (parent's value types, relationship) of PS3.3 A.35.1.3.1.2 that we write
    "CONTAINS": {"CONTAINER"},
    "HAS OBS CONTEXT": {"CONTAINER"},
    "HAS CONCEPT MOD": {"CONTAINER", "TEXT"},
    "INFERRED FROM": {"TEXT"},
}
VALUE_TYPES = frozenset({"CODE", "CONTAINER", "IMAGE", "TEXT", "UIDREF"})
LANGUAGE = codes.DCM.LanguageOfContentItemAndDescendants
STATEMENTS = (UNVERIFIED, DEMONSTRATION, NOT_ASSESSED, NARRATIVE_WITHHELD)


def check_text_report(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a Basic Text SR about `images` of `headers`."""
    yield from check_document(made, headers, images, siblings)
    template = (made.get("ContentTemplateSequence") or [Dataset()])[0]
    if template.get("TemplateIdentifier") != "2000" or not is_named(made, TITLE):
        yield f"the document is not of TID 2000 with the title {TITLE.meaning}; name both"
    yield from _check_tree(made)
    yield from _check_language(made)
    yield from _check_summary(made)


def _check_tree(made: Dataset) -> Iterator[str]:
    for parent in (made, *walk(made)):
        for item in parent.get("ContentSequence", []):
            relationship, kind = str(item.get("RelationshipType")), item.get("ValueType")
            if parent.get("ValueType") not in PARENTS.get(relationship, set()):
                yield f"RelationshipType {relationship} of item {name_of(item)} is wrong"
            if kind not in VALUE_TYPES:
                yield f"ValueType {kind} of item {name_of(item)} is none of Basic Text SR"


def _check_language(made: Dataset) -> Iterator[str]:
    """Yield where the document is not in one language, or does not say in that who speaks."""
    spoken = [
        value_of(item) for item in made.get("ContentSequence", []) if is_named(item, LANGUAGE)
    ]
    if len(spoken) != 1 or spoken[0] not in LANGUAGES:
        yield "the document does not say which language it is in (TID 1204); write one"
        return
    said = {item.TextValue for item in walk(made) if "TextValue" in item}
    if getattr(UNVERIFIED, spoken[0]) not in said:
        yield "TextValue nowhere says that this is an unverified AI opinion; write it"


def _check_summary(made: Dataset) -> Iterator[str]:
    known = {words for said in STATEMENTS for words in (said.en, said.zh)}
    summaries = [item for item in walk(made) if is_named(item, codes.cid7002.Summary)]
    written = [str(item.TextValue) for item in summaries if "TextValue" in item]
    own = [words for words in written if words not in known]
    if not all(words.startswith((MODEL_TEXT.en.rstrip(), MODEL_TEXT.zh)) for words in own):
        yield "Summary does not say that the model wrote it; put that before its words"
    if made.get("CompletionFlag") == "COMPLETE" and not own:
        yield "CompletionFlag is COMPLETE without a narrative; write PARTIAL"
