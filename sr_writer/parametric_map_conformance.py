"""What the gate asks of a Parametric Map: probabilities of a segment, where the source images lie.

Where the segmentation is sent along, the map must be higher in the segment than beside it: one that
is flipped, shifted or of another segment is not.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.assessment import Assessment, AssessmentRecord
from sr_writer.coding import FRAME_LATERALITY
from sr_writer.content_items import is_named, value_of
from sr_writer.plane_conformance import check_planes
from sr_writer.segmentation_reading import ReadFrame, described_segments, frame_bits, read_frames
from sr_writer.source_images import SourceImage

Values = npt.NDArray[np.float32]
Planes = Mapping[tuple[float, ...], Values]
"""Values of frames by Image Position (Patient)."""

IDENTITY = {
    "DoubleFloatRealWorldValueFirstValueMapped": 0.0,
    "DoubleFloatRealWorldValueLastValueMapped": 1.0,
    "RealWorldValueSlope": 1.0,
    "RealWorldValueIntercept": 0.0,
}


def check_parametric_map(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a map on `images` of the series whose plain headers are given."""
    frames = read_frames(made)
    yield from check_planes(made, frames, headers, images)
    if made.get("ContentLabel") != "AI_UNVERIFIED":
        yield "ContentLabel does not say that nobody has verified it; write AI_UNVERIFIED"
    shape = (len(frames), int(made.Rows), int(made.Columns))
    values = np.frombuffer(made.get("FloatPixelData") or b"", "<f4")
    if values.size != np.prod(shape):
        yield "FloatPixelData has not one value for each pixel of each frame; write it again"
        return
    values = values.reshape(shape)
    yield from _check_values(values)
    uid = yield from _check_mapping(made)
    for sibling in siblings:
        if sibling.get("SegmentationType") == "BINARY":
            yield from _check_against(sibling, uid, _by_position(frames, values))


def _check_values(values: Values) -> Iterator[str]:
    for index, plane in enumerate(values, 1):
        if not ((plane >= 0) & (plane <= 1)).all():
            yield f"frame {index} has a value that is no probability; write 0 to 1"
    if not (values[0].any() and values[-1].any()):
        yield "FloatPixelData begins or ends with a frame that shows nothing; leave it out"


def _check_mapping(made: Dataset) -> Generator[str, None, str]:
    """Yield where the values are not said to be probabilities; return the segment's tracking."""
    shared = (made.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    mappings = shared.get("RealWorldValueMappingSequence") or []
    if len(mappings) != 1:
        yield f"RealWorldValueMappingSequence has {len(mappings)} items; write one for all frames"
        return ""
    for keyword, expected in IDENTITY.items():
        if mappings[0].get(keyword) != expected:
            yield f"{keyword} is not {expected}, though the values are probabilities; write that"
    unit = (mappings[0].get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
    if unit.get("CodeValue") != codes.UCUM.NoUnits.value:
        yield "MeasurementUnitsCodeSequence does not fit a probability; write (1, UCUM)"
    stated = list(mappings[0].get("QuantityDefinitionSequence") or [])
    if not any(value_of(item) == codes.DCM.Probability.value for item in stated):
        yield "QuantityDefinitionSequence does not say that this is a probability; write it"
    if not any(is_named(item, codes.DCM.Finding) for item in stated):
        yield "QuantityDefinitionSequence does not say of what; write the finding"
    uids = [
        str(item.get("UID") or "")
        for item in stated
        if is_named(item, codes.DCM.TrackingUniqueIdentifier)
    ]
    if not any(uids):
        yield "QuantityDefinitionSequence has no tracking UID; write that of the segment"
    return "".join(uids)


def _by_position(frames: Sequence[ReadFrame], values: Values) -> Planes:
    positions = [tuple(map(float, frame.position.ImagePositionPatient)) for frame in frames]
    return dict(zip(positions, values, strict=True))


def _check_against(segmentation: Dataset, uid: str, planes: Planes) -> Iterator[str]:
    """Yield where the map is not that of the segment with its tracking UID."""
    numbers = [
        number
        for number, item in described_segments(segmentation).items()
        if item.get("TrackingUID") == uid
    ]
    if not numbers:
        yield "QuantityDefinitionSequence has a tracking UID of no segment; write the segment's"
        return
    size = int(segmentation.Rows) * int(segmentation.Columns)
    data = np.frombuffer(segmentation.PixelData, np.uint8)
    beside, least = dict(planes), np.inf
    for index, frame in enumerate(read_frames(segmentation)):
        if frame.segment == numbers[0]:
            bits = np.unpackbits(frame_bits(data, index, size), count=size, bitorder="little")
            position = tuple(map(float, frame.position.ImagePositionPatient))
            plane = planes.get(position, np.zeros(size, np.float32)).ravel()
            least = min(least, float(plane[bits == 1].min(initial=np.inf)))
            beside[position] = plane[bits == 0]
    if least <= max(float(plane.max(initial=0)) for plane in beside.values()):
        yield "the map is not higher in its segment than beside it; write both of one assessment"


def check_probabilities(
    made: Dataset, assessment: Assessment, images: Sequence[SourceImage]
) -> Iterator[str]:
    """Yield where a map is not that of its segment, whose number is the map's Instance Number.

    `assessment` is in terms of `images`.
    """
    number = int(made.InstanceNumber)
    if number not in assessment.probabilities:
        yield "InstanceNumber is that of no segment with probabilities; number maps like segments"
        return
    yield from _check_words(made, number, assessment.record)
    frames, shape = read_frames(made), (int(made.Rows), int(made.Columns))
    planes = _by_position(frames, np.frombuffer(made.FloatPixelData, "<f4").reshape(-1, *shape))
    for image, expected in zip(images, assessment.probabilities[number], strict=True):
        position = tuple(map(float, image.header.ImagePositionPatient))
        plane = planes.get(position, np.zeros(shape, np.float32))
        if not np.array_equal(np.rint(plane * 255), expected):
            yield "FloatPixelData is not the assessment's probability on an image; write it again"
            return


def _check_words(made: Dataset, number: int, record: AssessmentRecord) -> Iterator[str]:
    """Yield where what is probable, or its side, is not what the assessment says."""
    segment = next(each for each in record.segments if each.number == number)
    sides = [
        finding.laterality
        for finding in record.findings
        if finding.evidence is not None and finding.evidence.segment == number
    ]
    shared = made.SharedFunctionalGroupsSequence[0]
    (mapping,) = shared.RealWorldValueMappingSequence
    said = [value_of(item) for item in mapping.QuantityDefinitionSequence]
    if segment.type.value not in said:
        yield "QuantityDefinitionSequence is of another finding than the assessment; match them"
    side = shared.FrameAnatomySequence[0].get("FrameLaterality")
    if side not in {FRAME_LATERALITY[each] for each in sides or [None]}:
        yield f"FrameLaterality is {side}, not the side that the assessment says; match them"
