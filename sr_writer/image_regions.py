"""Where on an image a finding is, as lines in its pixels (PS3.3 C.18.6), for viewers without SEG.

A box says no more than that the finding lies in it. Where nothing outlines a finding, its box is
the whole image: that it is there, and nothing invented about where.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom import sr

from inference.assessment import AssessmentRecord, Evidence, Mask
from sr_writer.contours import Outline
from sr_writer.source_images import SourceImage


@dataclass(frozen=True, eq=False)
class Subject:
    """What a report is about, in terms of the images: evidence and masks count in `images`.

    `images` are those of the volume, in slice order, or whatever instances there are where nothing
    was assessed. `matrices` has rows and columns of each whole instance, by SOP Instance UID: those
    of a mosaic are not those of its tiles.
    """

    record: AssessmentRecord
    images: Sequence[SourceImage]
    masks: Mapping[int, Mask]
    matrices: Mapping[str, tuple[int, int]]


def box(mask: Mask) -> Outline:
    """Return the box around a mask [row, column] that is not empty, along the sides of pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return _rectangle(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def whole_image(rows: int, columns: int) -> Outline:
    """Return the border of an image."""
    return _rectangle(0, 0, columns, rows)


def best_region(evidence: Evidence, subject: Subject) -> sr.ImageRegion:
    """Return the box around a finding on its best slice; the whole image where nothing outlines it.

    A tile of a mosaic has the whole mosaic for a box: where it lies in there is not known here.

    Raises ValueError where the segment of the finding is not on its best slice.
    """
    image = subject.images[evidence.best_slice]
    if evidence.segment is None or image.is_tile:
        matrix = subject.matrices[str(image.header.SOPInstanceUID)]
        return image_region(image, whole_image(*matrix))
    mask = subject.masks[evidence.segment][evidence.best_slice]
    if not mask.any():
        raise ValueError(
            f"segment {evidence.segment} is not on slice {evidence.best_slice}, its best"
        )
    return image_region(image, box(mask))


def image_region(image: SourceImage, line: Outline) -> sr.ImageRegion:
    """Return the content item for a closed line on an image, with the image it is selected from."""
    frames = None if image.frame is None else [image.frame]
    return sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=line,
        source_image=sr.SourceImageForRegion(
            image.header.SOPClassUID, image.header.SOPInstanceUID, frames
        ),
    )


def _rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.array(corners, np.float64)
