"""What the gate asks of a SEG: that its frames lie on the source images they say they come from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, SegmentationStorage

from sr_writer.segmentation_frames import LABEL_MAP_SEGMENTATION_STORAGE
from sr_writer.segmentation_reading import (
    ReadFrame,
    described_segments,
    frame_bits,
    pixels_by_segment,
    read_frames,
)
from sr_writer.source_images import Reference, SourceImage, even_step, reference_of

POSITION_TOLERANCE_MM = 0.01
COSINE_TOLERANCE = 1e-5
SPACING_TOLERANCE = 0.01
"""Relative; slice distances are averages over a stack, pixel spacings copies."""

ONE_SAMPLE = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
}
PIXELS_OF_BITS = {
    bits: {**ONE_SAMPLE, "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    for bits in (1, 8, 16)
}
FORMS: Mapping[UID, Mapping[str, Mapping[str, object]]] = {
    SegmentationStorage: {
        "BINARY": PIXELS_OF_BITS[1],
        "FRACTIONAL": {
            **PIXELS_OF_BITS[8],
            "SegmentationFractionalType": "PROBABILITY",
            "MaximumFractionalValue": 255,
        },
    },
    LABEL_MAP_SEGMENTATION_STORAGE: {"LABELMAP": {"PixelPaddingValue": 0}},
}
"""What a Segmentation Type asks for, by SOP class (PS3.3 Table C.8.20-2)."""

Images = Mapping[Reference, Sequence[SourceImage]]
"""The images that references may name; the tiles of a mosaic have one reference."""


def images_by_reference(images: Sequence[SourceImage]) -> Images:
    """Return images by what names them."""
    found: dict[Reference, list[SourceImage]] = {}
    for image in images:
        found.setdefault(image.reference, []).append(image)
    return found


def check_segmentation(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    _siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a SEG on `images` of the series whose plain headers are given."""
    by_uid = {str(header.SOPInstanceUID): header for header in headers}
    first = images[0].header
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        if made.get(keyword) != first.get(keyword):
            yield f"{keyword} is not the source's; write the SEG on the source's geometry"
    yield from _check_form(made)
    yield from _check_segments(made)
    yield from _check_shared_groups(made, [image.header for image in images])
    frames = read_frames(made)
    yield from _check_frames(made, frames)
    yield from _check_images(frames, by_uid, images_by_reference(images))
    for reference in made.get("SourceImageSequence", []):
        yield from check_reference(reference, by_uid, "SourceImageSequence")
    for series in made.get("ReferencedSeriesSequence", []):
        if series.get("SeriesInstanceUID") != first.SeriesInstanceUID:
            yield "ReferencedSeriesSequence names another series; refer to the source series"
        for reference in series.get("ReferencedInstanceSequence", []):
            yield from check_reference(reference, by_uid, "ReferencedSeriesSequence")
    if not made.get("ReferencedSeriesSequence"):
        yield "ReferencedSeriesSequence is missing; refer to the source series"


def check_reference(reference: Dataset, known: Mapping[str, Dataset], where: str) -> Iterator[str]:
    """Yield what is wrong with one referenced instance."""
    target = known.get(reference.get("ReferencedSOPInstanceUID", ""))
    if target is None:
        yield f"{where} refers to an instance that is neither source nor sent along; correct it"
    elif target.SOPClassUID != reference.get("ReferencedSOPClassUID"):
        yield f"{where} has the wrong ReferencedSOPClassUID; copy it from the instance"


def check_image(item: Dataset, named: Images, where: str) -> Iterator[str]:
    """Yield what is wrong with a reference to one image of the volume."""
    if reference_of(item) not in named:
        yield f"{where} refers to no image of the volume; correct instance and frame number"


def _place(frame: ReadFrame) -> str:
    return str(frame.position.get("ImagePositionPatient"))


def is_close(found: Sequence[float] | None, expected: Sequence[float] | None, by: float) -> bool:
    """Return whether two lists of numbers differ by no more than `by` anywhere."""
    if not found or not expected or len(found) != len(expected):
        return False
    differences = np.array(found, dtype=float) - np.array(expected, dtype=float)
    return bool(np.abs(differences).max() <= by)


def _check_form(made: Dataset) -> Iterator[str]:
    """Yield where the attributes of a Segmentation Type are not those of PS3.3 Table C.8.20-2."""
    form, sop_class = made.get("SegmentationType"), made.get("SOPClassUID")
    if form not in FORMS.get(sop_class, ()):
        yield f"SegmentationType is {form}, which is not of the SOP class; write one that is"
        return
    expected = dict(FORMS[sop_class][form])
    if form == "LABELMAP":
        expected |= PIXELS_OF_BITS.get(made.get("BitsAllocated"), PIXELS_OF_BITS[8])
    for keyword, value in expected.items():
        if made.get(keyword) != value:
            yield f"{keyword} is {made.get(keyword)}, but {form} needs {value}; write that"


def _check_segments(made: Dataset) -> Iterator[str]:
    items = list(made.get("SegmentSequence", []))
    numbers = [int(item.get("SegmentNumber", 0)) for item in items]
    if made.get("SegmentationType") == "LABELMAP":
        background = items[0] if numbers[:1] == [0] else Dataset()
        if _type_of(background) != codes.DCM.Background.value:
            yield "SegmentSequence does not begin with the background, number 0; describe it"
            return
        del numbers[0], items[0]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        yield f"SegmentSequence has the numbers {numbers}; count 1, 2, ..."
    for item in items:
        which = f"segment {item.get('SegmentNumber')}"
        for keyword in (
            "SegmentLabel",
            "SegmentedPropertyCategoryCodeSequence",
            "SegmentedPropertyTypeCodeSequence",
            "SegmentAlgorithmName",
            "SegmentationAlgorithmIdentificationSequence",
            "TrackingID",
            "TrackingUID",
        ):
            if not item.get(keyword):
                yield f"{which} lacks {keyword}; write it"
        if item.get("SegmentAlgorithmType") != "AUTOMATIC":
            yield f"{which} has a SegmentAlgorithmType other than AUTOMATIC; no human drew it"
        if _type_of(item) == codes.DCM.Background.value:
            yield f"{which} is described as background; describe what it outlines"
    uids = [item.get("TrackingUID") for item in items]
    if len(set(uids)) < len(uids):
        yield "TrackingUID is the same in two segments; derive one for each"


def _type_of(item: Dataset) -> str | None:
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
    value: str | None = kinds[0].get("CodeValue")
    return value


def _check_shared_groups(made: Dataset, headers: Sequence[Dataset]) -> Iterator[str]:
    shared = (made.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    orientation = _nested(shared, "PlaneOrientationSequence", "ImageOrientationPatient")
    if not is_close(orientation, headers[0].get("ImageOrientationPatient"), COSINE_TOLERANCE):
        yield "ImageOrientationPatient is not the source's; write the SEG on the source's geometry"
    spacing = _nested(shared, "PixelMeasuresSequence", "PixelSpacing")
    if not is_close(spacing, headers[0].get("PixelSpacing"), POSITION_TOLERANCE_MM):
        yield "PixelSpacing is not the source's; write the SEG on the source's geometry"
    between = _nested(shared, "PixelMeasuresSequence", "SpacingBetweenSlices")
    expected = even_step(headers)
    if expected is None:
        if between is not None:
            yield "SpacingBetweenSlices is stated, but the images are unevenly spaced; leave it out"
    elif between is None or abs(float(between) - expected) > SPACING_TOLERANCE * expected:
        yield "SpacingBetweenSlices is not the distance of the source slices; measure it again"


def _check_frames(made: Dataset, frames: Sequence[ReadFrame]) -> Iterator[str]:
    if int(made.get("NumberOfFrames", 0)) != len(frames) or not frames:
        yield "NumberOfFrames is not that of PerFrameFunctionalGroupsSequence; write both again"
    indices = [frame.indices for frame in frames]
    if len(set(indices)) < len(indices):
        yield "DimensionIndexValues are the same in two frames; number the frames anew"
    try:
        pixels = list(pixels_by_segment(made, frames))
    except ValueError as error:
        yield f"PixelData cannot be read: {error}; encode the masks again"
        return
    background = {0} if made.get("SegmentationType") == "LABELMAP" else set()
    for index, numbers in enumerate(pixels, 1):
        if not numbers.keys() - background:
            yield f"frame {index} shows no segment; leave it out"
    shown = set().union(*pixels) - background
    described = set(described_segments(made))
    if shown != described:
        yield f"frames show segments {sorted(shown)}, described are {sorted(described)}; match them"
    if made.get("SegmentsOverlap") != _overlap(made, frames, described):
        yield "SegmentsOverlap is not what the frames show; write YES, NO or UNDEFINED"


def _overlap(made: Dataset, frames: Sequence[ReadFrame], described: set[int]) -> str:
    """Return what Segments Overlap is; of probabilities of several segments it is undefined."""
    if made.SegmentationType == "FRACTIONAL" and len(described) > 1:
        return "UNDEFINED"
    if made.SegmentationType != "BINARY" or len(described) == 1:
        return "NO"
    data, size = np.frombuffer(made.PixelData, np.uint8), int(made.Rows) * int(made.Columns)
    places = {id(frame.position): _place(frame) for frame in frames}
    taken: dict[str, npt.NDArray[np.uint8]] = {}
    for index, frame in enumerate(frames):
        bits, place = frame_bits(data, index, size), places[id(frame.position)]
        if place in taken and (taken[place] & bits).any():
            return "YES"
        taken[place] = taken[place] | bits if place in taken else bits
    return "NO"


def _check_images(
    frames: Sequence[ReadFrame], by_uid: Mapping[str, Dataset], named: Images
) -> Iterator[str]:
    """Yield where a frame does not lie on the image that it names."""
    known: dict[tuple[int, ...], list[str]] = {}
    for index, frame in enumerate(frames, 1):
        items = tuple(map(id, (frame.position, *frame.sources)))
        if items not in known:
            known[items] = [each.strip() for each in _image_problems(frame, by_uid, named)]
        for problem in known[items]:
            yield f"frame {index} {problem}"


def _image_problems(
    frame: ReadFrame, by_uid: Mapping[str, Dataset], named: Images
) -> Iterator[str]:
    if not frame.sources:
        yield "has no source image; name the slice it was drawn on"
    for source in frame.sources:
        yield from check_reference(source, by_uid, "")
        yield from check_image(source, named, "")
        expected = [
            image.header.get("ImagePositionPatient")
            for image in named.get(reference_of(source), [])
        ]
        position = frame.position.get("ImagePositionPatient")
        if not any(is_close(position, each, POSITION_TOLERANCE_MM) for each in expected):
            yield "does not lie on its source image; copy ImagePositionPatient"


def _nested(group: Dataset, sequence: str, keyword: str) -> Any:
    items = group.get(sequence) or [Dataset()]
    return items[0].get(keyword)
