"""What the gate asks of a report of TID 1500: its template, relationships, units, library."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from sr_writer.content_items import is_named, name_of, number_of, value_of, walk
from sr_writer.document_conformance import check_document
from sr_writer.group_conformance import CERTAINTY, ML_PER_UNIT, VOLUME, check_groups
from sr_writer.plane_conformance import (
    POSITION_TOLERANCE_MM,
    Images,
    images_by_reference,
)
from sr_writer.segmentation_conformance import FORMS
from sr_writer.segmentation_reading import read_segmentation
from sr_writer.source_images import SourceImage, reference_of
from sr_writer.wording import MODEL_TEXT, UNVERIFIED

LENGTH_UNITS = frozenset({"mm", "cm"})
LENGTHS = frozenset(
    getattr(codes.cid7470, name).value for name in codes.cid7470.dir()
)  # CID 7470 Linear Measurements

VALUE_TYPES = frozenset(
    {"CODE", "CONTAINER", "DATETIME", "IMAGE", "NUM", "SCOORD", "TEXT", "UIDREF"}
)
"""Those that we write; all SOP classes of a report allow them (Enhanced SR: PS3.3 A.35.2.3.1.1)."""

# (parent's value types, relationship) that PS3.3 A.35.13.3.1.2 allows and that we write
PARENTS = {
    "CONTAINS": {"CONTAINER"},
    "HAS OBS CONTEXT": {"CONTAINER"},
    "HAS ACQ CONTEXT": {"CONTAINER", "IMAGE"},
    "HAS CONCEPT MOD": {"CONTAINER", "TEXT", "CODE", "NUM"},
    "HAS PROPERTIES": {"TEXT", "CODE", "NUM"},
    "SELECTED FROM": {"SCOORD"},
}
RELATIONSHIPS = {  # of content items whose templates fix them (TID 1411, TID 1501, TID 4108)
    codes.DCM.TrackingIdentifier.value: "HAS OBS CONTEXT",
    codes.DCM.TrackingUniqueIdentifier.value: "HAS OBS CONTEXT",
    codes.DCM.Finding.value: "CONTAINS",
    codes.SCT.FindingSite.value: "HAS CONCEPT MOD",
    codes.DCM.ReferencedSegment.value: "CONTAINS",
    codes.DCM.SourceOfMeasurement.value: "CONTAINS",
    codes.DCM.ImageRegion.value: "CONTAINS",
    VOLUME: "CONTAINS",
}


def check_report(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with an SR about `images` of `headers`, sent along with `siblings`."""
    yield from check_document(made, headers, images, siblings)
    yield from _check_title(made)
    yield from _check_completion(made)
    yield from _check_tree(made)
    yield from _check_image_library(made, images_by_reference(images))
    segmentations = {
        str(each.SOPInstanceUID): read_segmentation(each, images)
        for each in siblings
        if each.get("SOPClassUID") in FORMS
    }
    yield from check_groups(made, headers, images, segmentations)


def _check_title(made: Dataset) -> Iterator[str]:
    template = (made.get("ContentTemplateSequence") or [Dataset()])[0]
    if template.get("TemplateIdentifier") != "1500":
        yield "ContentTemplateSequence is not TID 1500; name the root template"
    if not is_named(made, codes.DCM.ImagingMeasurementReport):
        yield "ConceptNameCodeSequence is not Imaging Measurement Report; title it so"
    said = {item.TextValue for item in walk(made) if "TextValue" in item}
    if not {UNVERIFIED.en, UNVERIFIED.zh} <= said:
        yield "TextValue nowhere says that this is an unverified AI opinion; write it"
    for item in walk(made):
        if is_named(item, codes.DCM.Summary) and not str(item.get("TextValue")).startswith(
            (MODEL_TEXT.en.rstrip(), MODEL_TEXT.zh)
        ):
            yield "Summary does not say that the model wrote it; put that before its words"


def _check_completion(made: Dataset) -> Iterator[str]:
    if made.get("CompletionFlag") == "COMPLETE":
        answers = [value_of(item) for item in walk(made) if item.get("ValueType") == "CODE"]
        if codes.SCT.Undetermined.value in answers:
            yield "CompletionFlag is COMPLETE with an undetermined finding; write PARTIAL"
        if not any(is_named(item, codes.DCM.Summary) for item in walk(made)):
            yield "CompletionFlag is COMPLETE without a narrative; write PARTIAL"


def _check_tree(made: Dataset) -> Iterator[str]:
    for parent in (made, *walk(made)):
        for item in parent.get("ContentSequence", []):
            relationship, name = item.get("RelationshipType"), name_of(item)
            expected = RELATIONSHIPS.get(name, relationship)
            parents = PARENTS.get(str(relationship), set())
            if relationship != expected or parent.get("ValueType") not in parents:
                yield f"RelationshipType {relationship} of item {name} is wrong; see its template"
            if item.get("ValueType") not in VALUE_TYPES:
                yield f"ValueType {item.get('ValueType')} of item {name} is none of a report's"
            elif item.get("ValueType") == "NUM":
                yield from _check_number(item)


def _check_number(item: Dataset) -> Iterator[str]:
    name = name_of(item)
    measured = (item.get("MeasuredValueSequence") or [Dataset()])[0]
    unit = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
    value = measured.get("NumericValue")
    if value is None or not np.isfinite(float(value)):
        yield f"NumericValue of item {name} is no number; leave the item out"
        return
    code = unit.get("CodeValue")
    fits = unit.get("CodingSchemeDesignator") == "UCUM" and bool(code)
    if name == VOLUME:
        fits &= code in ML_PER_UNIT
    elif name in LENGTHS:
        fits &= code in LENGTH_UNITS
    elif name == CERTAINTY:
        fits &= code == "%"
        if not 0 <= float(value) <= 100:
            yield f"NumericValue of item {name} is not within 0 to 100 %; scale the probability"
    if not fits:
        yield f"MeasurementUnitsCodeSequence of item {name} is {code}; give it a unit that fits"
    if (name == VOLUME and float(value) <= 0) or (name in LENGTHS and float(value) < 0):
        yield f"NumericValue of item {name} cannot be {value}; measure it again"


def _check_image_library(made: Dataset, named: Images) -> Iterator[str]:
    for group in (item for item in walk(made) if is_named(item, codes.DCM.ImageLibraryGroup)):
        frames = [
            item.get("UID")
            for item in group.ContentSequence
            if is_named(item, codes.DCM.FrameOfReferenceUID)
        ]
        for entry in group.ContentSequence:
            if entry.get("ValueType") != "IMAGE":
                continue
            images = named.get(reference_of(entry.ReferencedSOPSequence[0]), [])
            sources = [image.header for image in images] or [Dataset()]
            if frames != [sources[0].get("FrameOfReferenceUID")]:
                yield "Frame of Reference UID in the image library is not the source's; copy it"
            position = [number_of(item) or 0.0 for item in entry.get("ContentSequence", [])]
            if len(sources) > 1:
                if position:
                    yield "a mosaic in the image library has a position; its tiles do, leave it out"
                continue
            expected = [float(each) for each in sources[0].get("ImagePositionPatient") or []]
            if len(position) != len(expected) or not np.allclose(
                position, expected, atol=POSITION_TOLERANCE_MM
            ):
                yield "Image Position (Patient) in the image library is not the source's; copy it"
