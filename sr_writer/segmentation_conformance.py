"""What the gate asks of a SEG: that its frames lie on the source images they say they come from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from sr_writer.source_images import Reference, SourceImage, even_step, places, reference_of

POSITION_TOLERANCE_MM = 0.01
COSINE_TOLERANCE = 1e-5
SPACING_TOLERANCE = 0.01
"""Relative; slice distances are averages over a stack, pixel spacings copies."""

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
    named = images_by_reference(images)
    first = images[0].header
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        if made.get(keyword) != first.get(keyword):
            yield f"{keyword} is not the source's; write the SEG on the source's geometry"
    if made.get("SegmentationType") != "BINARY":
        yield f"SegmentationType is {made.get('SegmentationType')}; write BINARY"
    yield from _check_segments(made)
    yield from _check_shared_groups(made, [image.header for image in images])
    yield from _check_frames(made, by_uid, named)
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


def segments_by_number(segmentation: Dataset) -> dict[int, Dataset]:
    """Return the items of the Segment Sequence by Segment Number."""
    return {int(item.SegmentNumber): item for item in segmentation.get("SegmentSequence", [])}


def sources_by_segment(segmentation: Dataset) -> dict[int, set[Reference]]:
    """Return, by Segment Number, what names the images that its frames lie on."""
    found: dict[int, set[Reference]] = {}
    for frame in segmentation.get("PerFrameFunctionalGroupsSequence", []):
        number = _segment_of(segmentation, frame)
        found.setdefault(number, set()).update(map(reference_of, _sources_of(frame)))
    return found


def segment_volume_ml(segmentation: Dataset, number: int, images: Sequence[SourceImage]) -> float:
    """Return the volume of one segment's voxels in millilitres, from the encoded bits.

    A pixel reaches half way to the images below and above, whatever their distance.
    """
    shape = (int(segmentation.Rows), int(segmentation.Columns))
    frames = segmentation.PerFrameFunctionalGroupsSequence
    size = shape[0] * shape[1]
    bits = np.unpackbits(
        np.frombuffer(segmentation.PixelData, np.uint8), count=size * len(frames), bitorder="little"
    ).reshape(len(frames), size)
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    area = float(np.prod([float(each) for each in measures.PixelSpacing]))
    along = places([image.header for image in images])
    reach = np.gradient(along)
    total = 0.0
    for frame, pixels in zip(frames, bits, strict=True):
        if _segment_of(segmentation, frame) == number:
            place = _place(frame, images[0].header)
            total += float(pixels.sum()) * area * float(reach[np.abs(along - place).argmin()])
    return total / 1000.0


def _place(frame: Dataset, header: Dataset) -> float:
    orientation = np.array(header.ImageOrientationPatient, dtype=float)
    position = _nested(frame, "PlanePositionSequence", "ImagePositionPatient")
    return float(np.cross(orientation[:3], orientation[3:]) @ np.array(position, dtype=float))


def is_close(found: Sequence[float] | None, expected: Sequence[float] | None, by: float) -> bool:
    """Return whether two lists of numbers differ by no more than `by` anywhere."""
    if not found or not expected or len(found) != len(expected):
        return False
    differences = np.array(found, dtype=float) - np.array(expected, dtype=float)
    return bool(np.abs(differences).max() <= by)


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


def _check_frames(made: Dataset, by_uid: Mapping[str, Dataset], named: Images) -> Iterator[str]:
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
            yield from check_image(source, named, f"frame {index}")
            expected = [
                image.header.get("ImagePositionPatient")
                for image in named.get(reference_of(source), [])
            ]
            if not any(is_close(position, each, POSITION_TOLERANCE_MM) for each in expected):
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
