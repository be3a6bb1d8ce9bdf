"""What the gate asks of a SEG: that its frames lie on the source slices they say they come from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

POSITION_TOLERANCE_MM = 0.01
COSINE_TOLERANCE = 1e-5
SPACING_TOLERANCE = 0.01
"""Relative; slice distances are averages over a stack, pixel spacings copies."""


def check_segmentation(
    made: Dataset, headers: Sequence[Dataset], _siblings: Sequence[Dataset]
) -> Iterator[str]:
    """Yield what is wrong with a SEG of the series whose plain headers are given."""
    by_uid = {header.SOPInstanceUID: header for header in headers}
    first = headers[0]
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        if made.get(keyword) != first.get(keyword):
            yield f"{keyword} is not the source's; write the SEG on the source's geometry"
    if made.get("SegmentationType") != "BINARY":
        yield f"SegmentationType is {made.get('SegmentationType')}; write BINARY"
    yield from _check_segments(made)
    yield from _check_shared_groups(made, headers)
    yield from _check_frames(made, by_uid)
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


def segments_by_number(segmentation: Dataset) -> dict[int, Dataset]:
    """Return the items of the Segment Sequence by Segment Number."""
    return {int(item.SegmentNumber): item for item in segmentation.get("SegmentSequence", [])}


def sources_by_segment(segmentation: Dataset) -> dict[int, set[str]]:
    """Return, by Segment Number, the SOP Instance UIDs of the slices that its frames lie on."""
    found: dict[int, set[str]] = {}
    for frame in segmentation.get("PerFrameFunctionalGroupsSequence", []):
        number = _segment_of(segmentation, frame)
        found.setdefault(number, set()).update(
            str(source.get("ReferencedSOPInstanceUID")) for source in _sources_of(frame)
        )
    return found


def segment_volume_ml(segmentation: Dataset, number: int) -> float:
    """Return the volume of one segment's voxels in millilitres, from the encoded bits."""
    shape = (int(segmentation.Rows), int(segmentation.Columns))
    frames = segmentation.PerFrameFunctionalGroupsSequence
    size = shape[0] * shape[1]
    bits = np.unpackbits(
        np.frombuffer(segmentation.PixelData, np.uint8), count=size * len(frames), bitorder="little"
    ).reshape(len(frames), size)
    of_segment = [_segment_of(segmentation, frame) == number for frame in frames]
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    voxel = float(np.prod([float(each) for each in measures.PixelSpacing]))
    voxel *= float(measures.SpacingBetweenSlices)
    return float(bits[of_segment].sum()) * voxel / 1000.0


def _check_segments(made: Dataset) -> Iterator[str]:
    items = made.get("SegmentSequence", [])
    numbers = [int(item.get("SegmentNumber", 0)) for item in items]
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
    uids = [item.get("TrackingUID") for item in items]
    if len(set(uids)) < len(uids):
        yield "TrackingUID is the same in two segments; derive one for each"


def _check_shared_groups(made: Dataset, headers: Sequence[Dataset]) -> Iterator[str]:
    shared = (made.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    orientation = _nested(shared, "PlaneOrientationSequence", "ImageOrientationPatient")
    if not _close(orientation, headers[0].get("ImageOrientationPatient"), COSINE_TOLERANCE):
        yield "ImageOrientationPatient is not the source's; write the SEG on the source's geometry"
    spacing = _nested(shared, "PixelMeasuresSequence", "PixelSpacing")
    if not _close(spacing, headers[0].get("PixelSpacing"), POSITION_TOLERANCE_MM):
        yield "PixelSpacing is not the source's; write the SEG on the source's geometry"
    between = _nested(shared, "PixelMeasuresSequence", "SpacingBetweenSlices")
    expected = _slice_distance(headers)
    if between is None or abs(float(between) - expected) > SPACING_TOLERANCE * expected:
        yield "SpacingBetweenSlices is not the distance of the source slices; measure it again"


def _slice_distance(headers: Sequence[Dataset]) -> float:
    orientation = np.array(headers[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    return float(np.median(np.diff(np.sort(positions @ normal))))


def _check_frames(made: Dataset, by_uid: Mapping[str, Dataset]) -> Iterator[str]:
    frames = made.get("PerFrameFunctionalGroupsSequence", [])
    if int(made.get("NumberOfFrames", 0)) != len(frames) or not frames:
        yield "NumberOfFrames is not that of PerFrameFunctionalGroupsSequence; write both again"
    bits = int(made.Rows) * int(made.Columns) * len(frames)
    bytes_needed = -(-bits // 8)
    if len(made.get("PixelData", b"")) != bytes_needed + bytes_needed % 2:
        yield "PixelData has not one bit for each pixel of each frame; encode the masks again"
    numbers = set(segments_by_number(made))
    shown = {_segment_of(made, frame) for frame in frames}
    if shown != numbers:
        yield f"frames show segments {sorted(shown)}, described are {sorted(numbers)}; match them"
    for index, frame in enumerate(frames, 1):
        position = _nested(frame, "PlanePositionSequence", "ImagePositionPatient")
        sources = _sources_of(frame)
        if not sources:
            yield f"frame {index} has no source image; name the slice it was drawn on"
        for source in sources:
            yield from check_reference(source, by_uid, f"frame {index}")
            header = by_uid.get(source.get("ReferencedSOPInstanceUID", ""), Dataset())
            expected = header.get("ImagePositionPatient")
            if not _close(position, expected, POSITION_TOLERANCE_MM):
                yield f"frame {index} does not lie on its source image; copy ImagePositionPatient"


def _segment_of(made: Dataset, frame: Dataset) -> int:
    shared = (made.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for group in (frame, shared):
        number = _nested(group, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        if number is not None:
            return int(number)
    return 0


def _sources_of(frame: Dataset) -> list[Dataset]:
    return [
        source
        for derivation in frame.get("DerivationImageSequence", [])
        for source in derivation.get("SourceImageSequence", [])
    ]


def _nested(group: Dataset, sequence: str, keyword: str) -> Any:
    items = group.get(sequence) or [Dataset()]
    return items[0].get(keyword)


def _close(found: Sequence[float] | None, expected: Sequence[float] | None, by: float) -> bool:
    if not found or not expected or len(found) != len(expected):
        return False
    differences = np.array(found, dtype=float) - np.array(expected, dtype=float)
    return bool(np.abs(differences).max() <= by)
