"""What the gate asks of every value: its VR's form and length, its character set, its codes.

What is copied from the source stands as the source has it: that it is equal is checked elsewhere.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.charset import convert_encodings
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM, validate_value

from sr_writer.encoding import UTF_8
from sr_writer.iod_conformance import COPIED

CHARACTER_SETS = (UTF_8, "GB18030")
"""Both encode all that we write (PS3.3 C.12.1.1.2)."""
UNDECODED = "\ufffd"
"""What stands for bytes that are no text in the character set that the object declares."""

TEXT_VRS = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
BULK_VRS = frozenset({"OB", "OD", "OF", "OW"})
MOMENTS = {"DA": DA, "TM": TM, "DT": DT}
FORMS = frozenset({"AE", "AS", "CS", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "UR", *MOMENTS})

CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
CODE_SEQUENCES = frozenset(
    {
        "AlgorithmFamilyCodeSequence",
        "AnatomicRegionSequence",
        "ConceptCodeSequence",
        "ConceptNameCodeSequence",
        "DerivationCodeSequence",
        "MeasurementUnitsCodeSequence",
        "PurposeOfReferenceCodeSequence",
        "SegmentedPropertyCategoryCodeSequence",
        "SegmentedPropertyTypeCodeSequence",
    }
)
SCHEMES = frozenset(
    {"DCM", "SCT", "UCUM", "LN", "RADLEX", "RADELEMENT", "UMLS", "FMA", "NCIt", "RFC5646"}
)
"""Coding schemes that receivers know by their designator alone (PS3.16 Table 8-1)."""

YES_NO = frozenset({"YES", "NO"})
ENUMERATED = {  # PS3.3, enumerated values of the modules that we write
    "AnnotationFlag": YES_NO,
    "BurnedInAnnotation": YES_NO,
    "CompletionFlag": {"COMPLETE", "PARTIAL"},
    "ContentQualification": {"PRODUCT", "RESEARCH", "SERVICE"},
    "ContinuityOfContent": {"SEPARATE", "CONTINUOUS"},
    "ConversionType": {"WSD", "SYN", "SI", "DRW", "DI", "DV", "DF", "SD"},
    "DimensionOrganizationType": {"3D", "3D_TEMPORAL", "TILED_FULL", "TILED_SPARSE"},
    "GraphicType": {"POINT", "MULTIPOINT", "POLYLINE", "POLYGON", "CIRCLE", "ELLIPSE", "ELLIPSOID"},
    "LossyImageCompression": {"00", "01"},
    "PhotometricInterpretation": {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"},
    "PixelOriginInterpretation": {"FRAME", "VOLUME"},
    "PreliminaryFlag": {"PRELIMINARY", "FINAL"},
    "RecognizableVisualFeatures": YES_NO,
    "RelationshipType": {
        "CONTAINS",
        "HAS OBS CONTEXT",
        "HAS ACQ CONTEXT",
        "HAS CONCEPT MOD",
        "HAS PROPERTIES",
        "INFERRED FROM",
        "SELECTED FROM",
    },
    "SegmentAlgorithmType": {"AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"},
    "SegmentationFractionalType": {"PROBABILITY", "OCCUPANCY"},
    "SegmentationType": {"BINARY", "FRACTIONAL", "LABELMAP"},
    "SegmentsOverlap": {"YES", "UNDEFINED", "NO"},
    "SpatialLocationsPreserved": {"YES", "NO", "REORIENTED_ONLY"},
    "ValueType": {
        "TEXT",
        "NUM",
        "CODE",
        "DATETIME",
        "DATE",
        "TIME",
        "UIDREF",
        "PNAME",
        "COMPOSITE",
        "IMAGE",
        "SCOORD",
        "SCOORD3D",
        "CONTAINER",
    },
    "VerificationFlag": {"UNVERIFIED", "VERIFIED"},
}


def check_values(made: Dataset, header: Dataset) -> Iterator[str]:
    """Yield what is wrong with the values of `made`; `header` is the source's first plain one.

    Best before any other check: what still is as it was read, and the same once more, is looked at
    only once.
    """
    if made.get("SpecificCharacterSet") not in CHARACTER_SETS:
        yield f"SpecificCharacterSet is {made.get('SpecificCharacterSet')}; write {UTF_8}"
    encodings = convert_encodings(made.get("SpecificCharacterSet"))
    known = SCHEMES | _described_schemes(made) | _schemes(header)
    for where, item, elements in _items("", made, set(), COPIED):
        for element in elements:
            yield from _check_element(element, encodings)
        if where in CODE_SEQUENCES or any(keyword in item for keyword in CODE_VALUES):
            yield from _check_code(where, item, known)


def _items(
    where: str, item: Dataset, seen: set[tuple[int, bytes]], skipped: frozenset[str] = frozenset()
) -> Iterator[tuple[str, Dataset, list[DataElement]]]:
    """Yield `item` and every item within it: its sequence, itself, its elements that are new."""
    elements: list[DataElement] = []
    sequences: list[DataElement] = []
    for tag in item.keys():  # noqa: SIM118 - iterating over a Dataset reads every element
        stored: Any = item.get_item(tag)
        if stored.VR in BULK_VRS:
            continue
        if isinstance(stored.value, bytes):
            if (tag, stored.value) in seen:
                continue
            seen.add((tag, stored.value))
        element = item[tag]
        if element.keyword not in skipped:
            (sequences if element.VR == "SQ" else elements).append(element)
    yield where, item, elements
    for sequence in sequences:
        for nested in sequence.value:
            yield from _items(sequence.keyword, nested, seen)


def _check_element(element: DataElement, encodings: Sequence[str]) -> Iterator[str]:
    name, vr = element.keyword or str(element.tag), element.VR
    for value in _values(element):
        text = str(value)
        if vr == "UI" and not UID(text).is_valid:
            yield f"{name} {text} is no valid UID; derive it again"
        if vr in TEXT_VRS and not any(_encodes(text, encoding) for encoding in encodings):
            yield f"{name} cannot be encoded in SpecificCharacterSet; write {UTF_8}"
        if vr in TEXT_VRS and UNDECODED in text:
            yield f"{name} is not encoded in SpecificCharacterSet; write it in that"
        if vr in FORMS and not _is_in_form(vr, text):
            yield f"{name} is no {vr} value; write it as PS3.5 Section 6.2 says"
        if vr in {"FL", "FD"} and not isfinite(value):
            yield f"{name} is no number; leave it out"
        if text not in ENUMERATED.get(name, {text}):
            yield f"{name} is {text}; write one of {', '.join(sorted(ENUMERATED[name]))}"


def _is_in_form(vr: str, text: str) -> bool:
    try:
        validate_value(vr, text, config.RAISE)
        if vr in MOMENTS:
            MOMENTS[vr](text)
    except ValueError:
        return False
    return True


def _check_code(where: str, item: Dataset, known: frozenset[str]) -> Iterator[str]:
    """Yield what makes an item no coded entry (PS3.3 Section 8.8)."""
    values = [item.get(keyword) for keyword in CODE_VALUES if item.get(keyword)]
    if len(values) != 1:
        yield f"{where} has a code without a CodeValue; write it"
    if not item.get("CodeMeaning"):
        yield f"{where} has no CodeMeaning for {values}; write it"
    scheme = item.get("CodingSchemeDesignator")
    if scheme not in known:
        yield (
            f"{where} has CodingSchemeDesignator {scheme} for {values}; take a standard code, or "
            "describe the scheme in CodingSchemeIdentificationSequence"
        )


def _described_schemes(made: Dataset) -> frozenset[str]:
    """Return private coding schemes that the object itself says whose they are."""
    return frozenset(
        str(item.get("CodingSchemeDesignator"))
        for item in made.get("CodingSchemeIdentificationSequence", [])
        if item.get("CodingSchemeName") or item.get("CodingSchemeUID")
    )


def _schemes(header: Dataset) -> frozenset[str]:
    """Return the coding schemes of the hospital's own codes, which a report repeats."""
    sequences = (element for element in header if element.VR == "SQ")
    return frozenset(
        str(code.get("CodingSchemeDesignator"))
        for sequence in sequences
        for nested in sequence.value
        for code in (nested, *nested.get("RequestedProcedureCodeSequence", []))
        if "CodingSchemeDesignator" in code
    )


def _values(element: DataElement) -> list[Any]:
    value = element.value
    if value in (None, ""):
        return []
    return list(value) if element.VM > 1 else [value]


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
