"""What the gate asks of objects that point at source images: key objects, presentation states."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from sr_writer.content_items import is_named
from sr_writer.picture_conformance import check_series_description, check_unverified
from sr_writer.source_images import Reference, SourceImage, reference_of

KEY_OBJECT_DESCRIPTION = codes.DCM.KeyObjectDescription


def check_key_objects(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    _siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a Key Object Selection of `images`."""
    if not is_named(made, codes.DCM.OfInterest):
        yield "ConceptNameCodeSequence is not (113000, DCM); an AI selects what is of interest"
    items = made.get("ContentSequence", [])
    said = [item for item in items if is_named(item, KEY_OBJECT_DESCRIPTION)]
    yield from check_unverified(said[0] if said else Dataset(), "TextValue")
    yield from check_series_description(made)
    if not any(is_named(item, codes.DCM.DeviceObserverUID) for item in items):
        yield "ContentSequence has no device observer; a person would seem to have selected"
    selected = [item for item in items if item.get("ValueType") == "IMAGE"]
    references = [each for item in selected for each in item.get("ReferencedSOPSequence", [])]
    if not references:
        yield "ContentSequence selects no image; leave the object out"
    yield from _check_references(references, images, "ContentSequence")
    yield from _check_evidence(made, headers, references)


def _check_evidence(
    made: Dataset, headers: Sequence[Dataset], references: Iterable[Dataset]
) -> Iterator[str]:
    where = "CurrentRequestedProcedureEvidenceSequence"
    held = set()
    for study in made.get(where, []):
        for series in study.get("ReferencedSeriesSequence", []):
            if (study.get("StudyInstanceUID"), series.get("SeriesInstanceUID")) != (
                headers[0].StudyInstanceUID,
                headers[0].SeriesInstanceUID,
            ):
                yield f"{where} names another series; refer to the source series"
            listed = series.get("ReferencedSOPSequence", [])
            held |= {str(each.get("ReferencedSOPInstanceUID")) for each in listed}
    if held != {str(each.get("ReferencedSOPInstanceUID")) for each in references}:
        yield f"{where} is not what is selected; list each selected instance"


def check_presentation_state(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    _siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a Grayscale Softcopy Presentation State on `images`."""
    yield from check_series_description(made)
    if made.get("ContentLabel") != "AI_UNVERIFIED":
        yield "ContentLabel does not say that nobody has verified it; write AI_UNVERIFIED"
    shown = []
    for series in made.get("ReferencedSeriesSequence", []):
        if series.get("SeriesInstanceUID") != headers[0].SeriesInstanceUID:
            yield "ReferencedSeriesSequence names another series; refer to the source series"
        shown += series.get("ReferencedImageSequence", [])
    yield from _check_references(shown, images, "ReferencedSeriesSequence")
    presented = {each for item in shown for each in _names(item)}
    layers = {layer.get("GraphicLayer") for layer in made.get("GraphicLayerSequence", [])}
    annotations = made.get("GraphicAnnotationSequence", [])
    if not annotations:
        yield "GraphicAnnotationSequence is missing; leave the object out"
    for annotation in annotations:
        named = annotation.get("ReferencedImageSequence", [])
        if not named or any(set(_names(item)) - presented for item in named):
            yield "GraphicAnnotationSequence refers to no image of ReferencedSeriesSequence"
        if annotation.get("GraphicLayer") not in layers:
            yield "GraphicLayer of an annotation is not described; describe it"
        texts = [
            item.get("UnformattedTextValue") for item in annotation.get("TextObjectSequence", [])
        ]
        if not any("unverified" in str(text) for text in texts):
            yield "TextObjectSequence does not say unverified on every image; write it"
        for line in annotation.get("GraphicObjectSequence", []):
            yield from _check_line(line, headers[0])


def _check_line(line: Dataset, header: Dataset) -> Iterator[str]:
    points = np.array(line.get("GraphicData") or [], dtype=float)
    if line.get("GraphicAnnotationUnits") != "PIXEL" or line.get("GraphicType") != "POLYLINE":
        yield "GraphicObjectSequence has no line in pixels; write a POLYLINE of unit PIXEL"
        return
    if len(points) < 4 or len(points) != 2 * int(line.get("NumberOfGraphicPoints", 0)):
        yield "GraphicData is not as long as NumberOfGraphicPoints; write column and row of each"
        return
    beyond = points.reshape(-1, 2) > [int(header.Columns), int(header.Rows)]
    if beyond.any() or (points < 0).any():
        yield "GraphicData lies outside the image; write column before row"
    if not line.get("TrackingUID"):
        yield "GraphicObjectSequence has a line without TrackingUID; write that of the segment"


def _check_references(
    items: Iterable[Dataset], images: Sequence[SourceImage], where: str
) -> Iterator[str]:
    classes = {image.reference: image.header.SOPClassUID for image in images}
    for item in items:
        for name in _names(item):
            if name not in classes:
                yield f"{where} refers to no image of the volume; correct instance and frame number"
            elif classes[name] != item.get("ReferencedSOPClassUID"):
                yield f"{where} has the wrong ReferencedSOPClassUID; copy it from the image"


def _names(item: Dataset) -> list[Reference]:
    """Return the images that an item names, which may be several frames of one instance."""
    frames = item.get("ReferencedFrameNumber")
    if frames is None or isinstance(frames, (int, str)):
        return [reference_of(item)]
    return [(str(item.get("ReferencedSOPInstanceUID")), int(frame)) for frame in frames]
