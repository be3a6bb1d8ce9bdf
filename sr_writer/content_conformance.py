"""What the gate asks of content items, whatever they say: the parts that make them whole."""

from collections.abc import Iterator, Mapping

from pydicom import Dataset

from sr_writer.content_items import name_of, walk

PARTS: Mapping[str, tuple[str, ...]] = {  # by value type, PS3.3 C.17.3.2 and C.18
    "CONTAINER": ("ContinuityOfContent",),
    "TEXT": ("TextValue",),
    "CODE": ("ConceptCodeSequence",),
    "NUM": ("MeasuredValueSequence",),
    "DATETIME": ("DateTime",),
    "DATE": ("Date",),
    "TIME": ("Time",),
    "UIDREF": ("UID",),
    "PNAME": ("PersonName",),
    "IMAGE": ("ReferencedSOPSequence",),
    "COMPOSITE": ("ReferencedSOPSequence",),
    "SCOORD": ("GraphicType", "GraphicData", "ContentSequence"),
    "SCOORD3D": ("GraphicType", "GraphicData", "ReferencedFrameOfReferenceUID"),
}
"""Each with a value; PS3.3 lets a number be missing with a reason, which we never write."""
MEASURED = ("NumericValue", "MeasurementUnitsCodeSequence")
REFERENCED = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")


def check_content(made: Dataset) -> Iterator[str]:
    """Yield what the content items of a document lack."""
    for item in walk(made):
        value_type, name = str(item.get("ValueType", "")), name_of(item)
        if not item.get("RelationshipType"):
            yield f"RelationshipType of item {name} is missing; write it"
        if not name and value_type not in {"IMAGE", "COMPOSITE", "SCOORD", "SCOORD3D"}:
            yield f"ConceptNameCodeSequence of a {value_type} item is missing; write it"
        if value_type not in PARTS:
            yield f"ValueType {value_type} of item {name} is none; write it"
            continue
        for keyword in PARTS[value_type]:
            if not item.get(keyword):
                yield f"{keyword} of item {name} is empty; write it or leave the item out"
        for keyword, sequence in (
            *((part, "MeasuredValueSequence") for part in MEASURED),
            *((part, "ReferencedSOPSequence") for part in REFERENCED),
        ):
            for nested in item.get(sequence) or ():
                if nested.get(keyword) in (None, "", []):
                    yield f"{keyword} of item {name} is missing; write it"
