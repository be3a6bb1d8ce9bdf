"""Grayscale Softcopy Presentation State (PS3.3 A.33.1): outlines over the source images themselves.

Every line lies in the pixels of the image that it names (PS3.3 C.10.5), so a viewer that shows the
presentation state shows the radiologist's own images, in their window, with what the AI marked.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import highdicom as hd
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextJustificationValues,
    TextObject,
)
from pydicom import DataElement, Dataset
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DS

from inference.assessment import Assessment, Mask, ModelIdentity
from inference.volume import Volume
from sr_writer.contours import Outline, holes, outlines
from sr_writer.encoding import UTF_8
from sr_writer.header import constructor_header, series_number, stamp
from sr_writer.identifiers import object_uid, tracking
from sr_writer.key_images import KeyImage, covered, display_window, warning
from sr_writer.provenance import Provenance
from sr_writer.secondary_capture import copy_body_part
from sr_writer.source_images import SourceImage, on_images

SERIES_DESCRIPTION = "Overread AI outlines (unverified)"
SERIES_OFFSET = 6
LAYER = "AI_UNVERIFIED"
AMBER = hd.color.CIELabColor(84.0, 14.0, 68.0)
MOST_POINTS = 8000
"""Of one line: explicit VR can hold 65534 bytes of FL (PS3.5 Section 7.1.2)."""

WARNING_BOX = (0.0, 0.94, 1.0, 1.0)
NAMES_BOX = (0.0, 0.06, 0.6, 0.2)
"""Left, top, right and bottom of texts, as shares of what the viewer displays."""

MODALITY_LUT = ("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType")


def write_presentation_states(
    pictures: Sequence[KeyImage],
    images: Sequence[SourceImage],
    assessment: Assessment,
    volume: Volume,
    provenance: Provenance,
) -> list[GrayscaleSoftcopyPresentationState]:
    """Write what the pictures show as outlines and texts on their source images, `images`.

    A presentation state says anew how stored values become grey, the same for all of its images:
    one is written for each Modality LUT or Rescale Slope and Intercept among them. None is written
    where nothing was found, or for tiles of a mosaic: it is not known where in it they lie.
    """
    shown = [each for each in pictures if each.shows and not images[each.index].is_tile]
    there = on_images(assessment, volume)
    made: list[GrayscaleSoftcopyPresentationState] = []
    shown.sort(key=lambda each: (_grey_of(volume.sources[each.index]), each.index))
    for _, group in groupby(shown, lambda each: _grey_of(volume.sources[each.index])):
        number = len(made) + 1
        made.append(_state(list(group), there, volume, images, provenance, number=number))
    return made


def _grey_of(source: Dataset) -> str:
    """Return what tells transformations of stored values apart."""
    return repr([str(source.get(keyword)) for keyword in MODALITY_LUT])


def _state(
    shown: Sequence[KeyImage],
    there: Assessment,
    volume: Volume,
    images: Sequence[SourceImage],
    provenance: Provenance,
    *,
    number: int,
) -> GrayscaleSoftcopyPresentationState:
    model, first = there.record.model, images[0].header
    low, high = display_window(volume)
    layer = GraphicLayer(LAYER, 1, "AI, unverified", display_color=AMBER)
    stand_ins = [_stand_in(images[each.index], first) for each in shown]
    instances = {str(each.SOPInstanceUID): each for each in stand_ins}
    made = GrayscaleSoftcopyPresentationState(
        referenced_images=list(instances.values()),
        series_instance_uid=object_uid("PR series", model, provenance),
        series_number=series_number(first, SERIES_OFFSET),
        sop_instance_uid=object_uid(f"PR {number}", model, provenance),
        instance_number=number,
        manufacturer=model.manufacturer,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.digest[:64],
        content_label=LAYER,
        content_description=SERIES_DESCRIPTION,
        graphic_layers=[layer],
        graphic_annotations=[
            GraphicAnnotation(
                referenced_images=[stand_in],
                graphic_layer=layer,
                graphic_objects=list(_lines(each.index, there, provenance)) or None,
                text_objects=_texts(each, model),
            )
            for each, stand_in in zip(shown, stand_ins, strict=True)
        ],
        voi_lut_transformations=[
            SoftcopyVOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)
        ],
        series_description=SERIES_DESCRIPTION,
        specific_character_set=UTF_8,
    )
    _refer(made, [images[each.index] for each in shown])
    source = volume.sources[shown[0].index]
    for keyword in MODALITY_LUT:
        if keyword in source:
            made[keyword] = source[keyword]
    if "RescaleSlope" in made and "RescaleType" not in made:
        made.RescaleType = "HU" if volume.modality == "CT" else "US"
    area = made.DisplayedAreaSelectionSequence[0]
    del area.PresentationPixelAspectRatio
    area.PresentationPixelSpacing = [
        DS(float(spacing), auto_format=True) for spacing in first.PixelSpacing
    ]
    copy_body_part(made, source)
    stamp(made, first, model, provenance)
    made.PresentationCreationDate, made.PresentationCreationTime = (
        made.ContentDate,
        made.ContentTime,
    )
    del made.ContentDate, made.ContentTime
    return made


def _stand_in(image: SourceImage, first: Dataset) -> Dataset:
    """Return what highdicom needs to know of an image that is referred to."""
    stand_in = constructor_header(first)
    for keyword in ("SOPInstanceUID", "Rows", "Columns"):
        stand_in[keyword] = image.header[keyword]
    # of frames highdicom would ask for whole headers; a new element, since that one is the header's
    stand_in["SOPClassUID"] = DataElement("SOPClassUID", "UI", CTImageStorage)
    stand_in.SamplesPerPixel = 1
    return stand_in


def _lines(index: int, there: Assessment, provenance: Provenance) -> Iterator[GraphicObject]:
    for segment in there.record.segments:
        mask = covered(there, segment.number, index)
        roi = tracking(segment, there.record.model, provenance)
        for line in _around(mask):
            yield GraphicObject(
                graphic_type=GraphicTypeValues.POLYLINE,
                graphic_data=line,
                units=AnnotationUnitsValues.PIXEL,
                tracking_id=roi.identifier[:64],
                tracking_uid=roi.uid,
            )


def _around(mask: Mask) -> Iterator[Outline]:
    """Yield the lines around a mask and its holes, in parts that an element can hold."""
    for line in (*outlines(mask), *holes(mask)):
        for start in range(0, len(line) - 1, MOST_POINTS - 1):
            yield line[start : start + MOST_POINTS]


def _texts(picture: KeyImage, model: ModelIdentity) -> list[TextObject]:
    boxes: Mapping[str, tuple[float, float, float, float]] = {
        "\r\n".join(picture.shows): NAMES_BOX,
        warning(model): WARNING_BOX,
    }
    return [
        TextObject(
            text_value=text,
            units=AnnotationUnitsValues.DISPLAY,
            bounding_box=box,
            text_justification=TextJustificationValues.LEFT,
        )
        for text, box in boxes.items()
    ]


def _refer(made: GrayscaleSoftcopyPresentationState, images: Sequence[SourceImage]) -> None:
    """Give the references to the stand-ins the classes and frame numbers of the images."""
    of_instance: dict[str, list[SourceImage]] = {}
    for image in images:
        of_instance.setdefault(str(image.header.SOPInstanceUID), []).append(image)
    references = [
        (annotation.ReferencedImageSequence[0], [image])
        for annotation, image in zip(made.GraphicAnnotationSequence, images, strict=True)
    ]
    for series in made.ReferencedSeriesSequence:
        references += [
            (item, of_instance[item.ReferencedSOPInstanceUID])
            for item in series.ReferencedImageSequence
        ]
    for item, named in references:
        item.ReferencedSOPClassUID = named[0].header.SOPClassUID
        frames = sorted(image.frame for image in named if image.frame is not None)
        if frames:
            item.ReferencedFrameNumber = frames
