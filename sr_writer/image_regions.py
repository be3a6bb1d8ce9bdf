"""Where on an image a finding is, as lines in its pixels (PS3.3 C.18.6), for viewers without SEG.

A box says no more than that the finding lies in it. Where nothing outlines a finding, its box is
the whole image: that it is there, and nothing invented about where. Outlines are those of all that
a segment covers, holes and all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom import sr

from inference.assessment import AssessmentRecord, Evidence, LabelMap, Mask
from sr_writer.contours import Outline, outlines
from sr_writer.source_images import SourceImage

MOST_POINTS = 8000
"""Of one line: explicit VR can hold 65534 bytes of FL (PS3.5 Section 7.1.2)."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What a report is about, in terms of the images: evidence and masks count in `images`.

    `images` are those of the volume, in slice order, or whatever instances there are where nothing
    was assessed. `mosaics` has rows and columns of each instance whose tiles are among them, by SOP
    Instance UID.
    """

    record: AssessmentRecord
    images: Sequence[SourceImage]
    masks: Mapping[int, Mask]
    mosaics: Mapping[str, tuple[int, int]]

    def mask_on(self, segment: int, index: int) -> Mask:
        """Return what a segment covers of an image, [row, column]."""
        if isinstance(self.masks, LabelMap):
            covered: Mask = self.masks.labels[index] == segment
            return covered
        mask: Mask = self.masks[segment][index]
        return mask


def box(mask: Mask) -> Outline:
    """Return the box around a mask [row, column] that is not empty, along the sides of pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return rectangle(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def whole_image(rows: int, columns: int) -> Outline:
    """Return the border of an image."""
    return rectangle(0, 0, columns, rows)


def best_region(evidence: Evidence, subject: Subject) -> sr.ImageRegion:
    """Return the box around a finding on its best slice; the whole image where nothing outlines it.

    A tile of a mosaic has the whole mosaic for a box: where it lies in there is not known here.

    Raises ValueError where the segment of the finding is not on its best slice.
    """
    image = subject.images[evidence.best_slice]
    if evidence.segment is None or image.is_tile:
        own = (int(image.header.Rows), int(image.header.Columns))
        matrix = subject.mosaics[image.reference[0]] if image.is_tile else own
        return image_region(image, whole_image(*matrix))
    mask = subject.mask_on(evidence.segment, evidence.best_slice)
    if not mask.any():
        raise ValueError(
            f"segment {evidence.segment} is not on slice {evidence.best_slice}, its best"
        )
    return image_region(image, box(mask))


def outline_regions(segment: int, index: int, subject: Subject) -> list[sr.ImageRegion]:
    """Return the outlines of a segment on an image, the largest first where they are short."""
    mask = subject.mask_on(segment, index)
    return [image_region(subject.images[index], line) for line in _drawn(mask)]


def _drawn(mask: Mask) -> list[Outline]:
    """Return the outlines of a mask, cut where they are too long to be written."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return []
    top, left = rows[0], columns[0]
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    lines = [line + np.array([left, top]) for line in outlines(part)]
    if all(len(line) <= MOST_POINTS for line in lines):
        return lines
    upper, middle = mask.copy(), rows[rows.size // 2]
    upper[middle:] = False
    return [*_drawn(upper), *_drawn(mask & ~upper)]


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


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    """Return the corners of a rectangle, clockwise from the top left, the first again last."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.array(corners, np.float64)
