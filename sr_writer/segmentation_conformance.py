"""What the gate asks of a SEG: that its frames lie on the source images they say they come from."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, SegmentationStorage

from sr_writer.plane_conformance import check_planes
from sr_writer.results import LABEL_MAP_SEGMENTATION_STORAGE
from sr_writer.segmentation_reading import (
    ReadFrame,
    described_segments,
    frame_bits,
    pixels_by_segment,
    read_frames,
)
from sr_writer.source_images import SourceImage

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


def check_segmentation(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    _siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a SEG on `images` of the series whose plain headers are given."""
    yield from _check_form(made)
    yield from _check_segments(made)
    frames = read_frames(made)
    yield from check_planes(made, frames, headers, images)
    yield from _check_frames(made, frames)


def _place(frame: ReadFrame) -> str:
    return str(frame.position.get("ImagePositionPatient"))


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


def _check_frames(made: Dataset, frames: Sequence[ReadFrame]) -> Iterator[str]:
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
