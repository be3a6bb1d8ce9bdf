"""What the gate asks of objects of many frames: that they lie on the source images they name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from sr_writer.segmentation_reading import ReadFrame
from sr_writer.source_images import Reference, SourceImage, even_step, reference_of

POSITION_TOLERANCE_MM = 0.01
COSINE_TOLERANCE = 1e-5
SPACING_TOLERANCE = 0.01
"""Relative; slice distances are averages over a stack, pixel spacings copies."""

Images = Mapping[Reference, Sequence[SourceImage]]
"""The images that references may name; the tiles of a mosaic have one reference."""


def check_planes(
    made: Dataset,
    frames: Sequence[ReadFrame],
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
) -> Iterator[str]:
    """Yield where an object or one of its frames is not on `images`, or names others.

    `headers` are the plain ones of all instances of the series.
    """
    by_uid = {str(header.SOPInstanceUID): header for header in headers}
    first = images[0].header
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        if made.get(keyword) != first.get(keyword):
            yield f"{keyword} is not the source's; write the object on its geometry"
    yield from _check_shared_groups(made, [image.header for image in images])
    if int(made.get("NumberOfFrames", 0)) != len(frames) or not frames:
        yield "NumberOfFrames is not that of PerFrameFunctionalGroupsSequence; write both again"
    indices = [frame.indices for frame in frames]
    if len(set(indices)) < len(indices):
        yield "DimensionIndexValues are the same in two frames; number the frames anew"
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


def images_by_reference(images: Sequence[SourceImage]) -> Images:
    """Return images by what names them."""
    found: dict[Reference, list[SourceImage]] = {}
    for image in images:
        found.setdefault(image.reference, []).append(image)
    return found


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


def is_close(found: Sequence[float] | None, expected: Sequence[float] | None, by: float) -> bool:
    """Return whether two lists of numbers differ by no more than `by` anywhere."""
    if not found or not expected or len(found) != len(expected):
        return False
    differences = np.array(found, dtype=float) - np.array(expected, dtype=float)
    return bool(np.abs(differences).max() <= by)


def _check_shared_groups(made: Dataset, headers: Sequence[Dataset]) -> Iterator[str]:
    shared = (made.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    orientation = _nested(shared, "PlaneOrientationSequence", "ImageOrientationPatient")
    if not is_close(orientation, headers[0].get("ImageOrientationPatient"), COSINE_TOLERANCE):
        yield "ImageOrientationPatient is not the source's; write the object on its geometry"
    spacing = _nested(shared, "PixelMeasuresSequence", "PixelSpacing")
    if not is_close(spacing, headers[0].get("PixelSpacing"), POSITION_TOLERANCE_MM):
        yield "PixelSpacing is not the source's; write the object on its geometry"
    between = _nested(shared, "PixelMeasuresSequence", "SpacingBetweenSlices")
    expected = even_step(headers)
    if expected is None:
        if between is not None:
            yield "SpacingBetweenSlices is stated, but the images are unevenly spaced; leave it out"
    elif between is None or abs(float(between) - expected) > SPACING_TOLERANCE * expected:
        yield "SpacingBetweenSlices is not the distance of the source slices; measure it again"


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
