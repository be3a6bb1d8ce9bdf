"""What the gate asks of results as the words and outlines of a model: no more, no less, no other.

Within one object everything may fit together and still not be what the model said. So findings,
sides, certainties, measurements and pixels are compared with the assessment itself.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.assessment import (
    Assessment,
    AssessmentRecord,
    Finding,
    LabelMap,
    Mask,
    Presence,
    ProbabilityMap,
)
from sr_writer.coding import LATERALITY, PRESENCE
from sr_writer.content_items import is_named, name_of, number_of, value_of, walk
from sr_writer.plane_conformance import POSITION_TOLERANCE_MM
from sr_writer.segmentation_reading import described_segments, frame_bits, read_frames
from sr_writer.source_images import SourceImage

Plane = Mask | ProbabilityMap
Planes = Mapping[int, Mask] | Mapping[int, ProbabilityMap]
"""By segment number, [image, row, column]: what is part of it, or how probably."""

MEASUREMENT_TOLERANCE = 1e-3
"""Relative; measurements are written with four significant digits."""


class Statement(NamedTuple):
    """What is said of one finding; `side` is empty where none is."""

    code: str
    presence: str
    side: str
    certainty: float | None


def check_findings(made: Dataset, record: AssessmentRecord) -> Iterator[str]:
    """Yield where an SR with measurement groups does not say what the assessment says."""
    groups = [
        item
        for item in walk(made)
        if is_named(item, codes.DCM.MeasurementGroup) and not _is_place(item)
    ]
    said = Counter(_statement_of_group(group) for group in groups)
    said.update(_answers(made))
    meant = Counter(_statement(finding) for finding in record.findings)
    for statement in said - meant:
        yield (
            f"finding {statement.code} is said to be {_words(statement)}, which the assessment "
            "does not say; write the report again"
        )
    for statement in meant - said:
        yield (
            f"finding {statement.code} is {_words(statement)} in the assessment, but is not said "
            "to be; write the report again"
        )
    for group in groups:
        yield from _check_measurements(group, record)


def check_outlines(
    made: Dataset, assessment: Assessment, images: Sequence[SourceImage]
) -> Iterator[str]:
    """Yield where a SEG does not show the masks or probabilities, which are those of `images`."""
    described = described_segments(made)
    for segment in assessment.record.segments:
        item = described.get(segment.number, Dataset())
        for code, keyword in (
            (segment.category, "SegmentedPropertyCategoryCodeSequence"),
            (segment.type, "SegmentedPropertyTypeCodeSequence"),
        ):
            found = (item.get(keyword) or [Dataset()])[0]
            if (found.get("CodeValue"), found.get("CodingSchemeDesignator")) != (
                code.value,
                code.scheme,
            ):
                yield f"segment {segment.number} has another {keyword} than the assessment; match"
        if item.get("SegmentLabel") != segment.label[:64]:
            yield f"segment {segment.number} has another SegmentLabel than the assessment; match"
    if set(described) != {segment.number for segment in assessment.record.segments}:
        yield "SegmentSequence has other segments than the assessment; write the SEG again"
    elif made.get("SegmentationType") == "FRACTIONAL":
        yield from _check_pixels(made, assessment.probabilities, images)
    else:
        yield from _check_pixels(made, assessment.masks, images)


def _check_pixels(made: Dataset, masks: Planes, images: Sequence[SourceImage]) -> Iterator[str]:
    positions = np.array([image.header.ImagePositionPatient for image in images], dtype=float)
    shown: set[tuple[int, int]] = set()
    for index, frame in enumerate(read_frames(made)):
        place = np.array(frame.position.ImagePositionPatient, dtype=float)
        distances = np.abs(positions - place).max(axis=1)
        image = int(distances.argmin())
        if distances[image] > POSITION_TOLERANCE_MM:
            yield f"frame {index + 1} lies on no image; write the SEG again"
            continue
        numbers = (
            set(masks) if made.SegmentationType == "LABELMAP" else {frame.segment} & set(masks)
        )
        shown |= {(number, image) for number in numbers}
        if not _is_shown(made, index, {number: _plane(masks, number, image) for number in numbers}):
            yield f"frame {index + 1} is not the mask of its segment on its image; encode it again"
    if not set(_outlined(masks)) <= shown:
        yield "a mask is not shown on an image that it lies on; write the SEG again"


def _is_shown(made: Dataset, index: int, planes: Mapping[int, Plane]) -> bool:
    """Return whether a frame shows these planes, by segment number, and nothing else."""
    size = int(made.Rows) * int(made.Columns)
    if made.SegmentationType == "BINARY":
        bits = frame_bits(np.frombuffer(made.PixelData, np.uint8), index, size)
        packed = [np.packbits(plane, bitorder="little") for plane in planes.values()]
        return len(packed) == 1 and np.array_equal(bits, packed[0])
    labels = np.frombuffer(made.PixelData, f"<u{made.BitsAllocated // 8}")
    found = labels[index * size : (index + 1) * size]
    if made.SegmentationType == "FRACTIONAL":
        values = [plane.reshape(-1) for plane in planes.values()]
        return len(values) == 1 and np.array_equal(found, values[0])
    expected = np.zeros_like(found)
    for number, plane in planes.items():
        expected[plane.reshape(-1)] = number
    return np.array_equal(found, expected)


def _plane(masks: Planes, number: int, image: int) -> Plane:
    plane: Plane = (
        masks.labels[image] == number if isinstance(masks, LabelMap) else masks[number][image]
    )
    return plane


def _outlined(masks: Planes) -> Iterator[tuple[int, int]]:
    """Yield the numbers of segments and the indices of images that they lie on."""
    if isinstance(masks, LabelMap):
        for image, plane in enumerate(masks.labels):
            numbers = np.flatnonzero(np.bincount(plane.reshape(-1)))
            yield from ((int(number), image) for number in numbers if number)
        return
    for number, mask in masks.items():
        yield from ((number, int(image)) for image in np.flatnonzero(mask.any(axis=(1, 2))))


def _is_place(group: Dataset) -> bool:
    """Tell whether a group says only where a finding is, which its partner says (TID 1410)."""
    template = (group.get("ContentTemplateSequence") or [Dataset()])[0]
    return bool(template.get("TemplateIdentifier") == "1410")


def _statement(finding: Finding) -> Statement:
    is_present = finding.presence is Presence.PRESENT
    side = "" if finding.laterality is None else LATERALITY[finding.laterality].value
    return Statement(
        finding.code.value,
        PRESENCE[finding.presence].value,
        side if is_present else "",
        None if finding.probability is None else round(100 * finding.probability, 1),
    )


def _statement_of_group(group: Dataset) -> Statement:
    items = group.get("ContentSequence", [])
    finding = next((value_of(item) for item in items if is_named(item, codes.DCM.Finding)), "")
    presence = next((value_of(item) for item in items if name_of(item) == finding), "")
    side = next(
        (value_of(item) for item in walk(group) if is_named(item, codes.SCT.Laterality)), ""
    )
    return Statement(finding, presence, side, _certainty(items))


def _answers(made: Dataset) -> Iterator[Statement]:
    """Yield what is said of findings outside groups: absent or undetermined."""
    values = {code.value for code in PRESENCE.values()}
    for container in walk(made):
        if container.get("ValueType") == "CONTAINER" and not is_named(
            container, codes.DCM.MeasurementGroup
        ):
            for item in container.get("ContentSequence", []):
                if item.get("ValueType") == "CODE" and value_of(item) in values:
                    certainty = _certainty(item.get("ContentSequence", []))
                    yield Statement(name_of(item), value_of(item), "", certainty)


def _certainty(items: Sequence[Dataset]) -> float | None:
    for item in items:
        if is_named(item, codes.DCM.CertaintyOfFinding):
            found = number_of(item)
            return None if found is None else round(found, 1)
    return None


def _words(statement: Statement) -> str:
    meanings = {code.value: code.meaning for code in (*PRESENCE.values(), *LATERALITY.values())}
    words = [meanings.get(statement.presence, statement.presence)]
    words += [meanings.get(statement.side, statement.side)] if statement.side else []
    words += [] if statement.certainty is None else [f"{statement.certainty} % certain"]
    return ", ".join(words)


def _check_measurements(group: Dataset, record: AssessmentRecord) -> Iterator[str]:
    """Yield where a group on a segment has other measurements than the assessment of it."""
    items = group.get("ContentSequence", [])
    regions = [item for item in items if is_named(item, codes.DCM.ReferencedSegment)]
    if not regions:
        return
    number = int(regions[0].ReferencedSOPSequence[0].get("ReferencedSegmentNumber", 0))
    statement = _statement_of_group(group)
    candidates = [
        finding
        for finding in record.findings
        if finding.evidence is not None
        and finding.evidence.segment == number
        and _statement(finding) == statement
    ]
    found = {
        name_of(item): number_of(item) or 0.0
        for item in items
        if item.get("ValueType") == "NUM" and not is_named(item, codes.DCM.CertaintyOfFinding)
    }
    if not any(_has_measurements(finding, found) for finding in candidates):
        yield (
            f"finding {statement.code} has another segment or other measurements than in the "
            "assessment; write the report again"
        )


def _has_measurements(finding: Finding, found: Mapping[str, float]) -> bool:
    meant = {each.code.value: each.value for each in finding.measurements}
    return set(meant) == set(found) and all(
        isclose(found[code], value, rel_tol=MEASUREMENT_TOLERANCE) for code, value in meant.items()
    )
