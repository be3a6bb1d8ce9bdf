"""What the gate asks of image regions: closed, on an image of the volume, around what is there."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from sr_writer.content_items import is_named, name_of
from sr_writer.contours import Outline
from sr_writer.image_regions import box, rectangle, whole_image
from sr_writer.plane_conformance import Images
from sr_writer.segmentation_reading import ReadSegmentation
from sr_writer.source_images import Reference, reference_of

FEWEST_POINTS = 4
"""Three corners and the first again (PS3.3 C.18.6.1.2)."""

Shown = tuple[int, Reference]
"""A segment's number and an image that shows it."""

Matrices = Mapping[str, tuple[int, int]]
"""Rows and columns of each instance, by SOP Instance UID."""


def regions_of(items: Sequence[Dataset]) -> list[Dataset]:
    """Return the items that are coordinates on an image."""
    return [item for item in items if item.get("ValueType") == "SCOORD"]


def check_region(region: Dataset, named: Images, matrices: Matrices) -> Iterator[str]:
    """Yield what is wrong with the shape of one region, or with the image that it lies on."""
    if not is_named(region, codes.DCM.ImageRegion):
        yield f"SCOORD is named {name_of(region)}; write Image Region"
    selected = region.get("ContentSequence", [])
    if [(each.get("ValueType"), each.get("RelationshipType")) for each in selected] != [
        ("IMAGE", "SELECTED FROM")
    ]:
        yield "Image Region is not SELECTED FROM exactly one image; name the one that it lies on"
        return
    reference = reference_of(selected[0].ReferencedSOPSequence[0])
    if reference not in named:
        yield "Image Region lies on no image of the volume; correct instance and frame number"
        return
    line = line_of(region)
    if line is None:
        yield "GraphicData is no closed POLYLINE around an area; write the region's corners"
        return
    rows, columns = matrices[reference[0]]
    if line.min() < 0 or line[:, 0].max() > columns or line[:, 1].max() > rows:
        yield "GraphicData leaves the image; coordinates run from 0 to columns and to rows"


def line_of(region: Dataset) -> Outline | None:
    """Return the points [n, (column, row)] of a region, None where it is no closed line."""
    data = np.array(region.get("GraphicData") or [], dtype=np.float64)
    if region.get("GraphicType") != "POLYLINE" or data.size % 2 or data.size < 2 * FEWEST_POINTS:
        return None
    line: Outline = data.reshape(-1, 2)
    if not np.isfinite(data).all() or (line[0] != line[-1]).any() or _area(line) == 0:
        return None
    return line


def enclosed(region: Dataset) -> float:
    """Return the area in pixels that a region encloses."""
    line = line_of(region)
    return 0.0 if line is None else _area(line)


def _area(line: Outline) -> float:
    column, row = line.T
    return float(abs(column[:-1] @ row[1:] - column[1:] @ row[:-1])) / 2


def box_around(regions: Sequence[Dataset]) -> Outline:
    """Return the box around regions on one image."""
    points = np.concatenate([line for line in map(line_of, regions) if line is not None])
    return rectangle(*points.min(axis=0), *points.max(axis=0))


def lies_on(region: Dataset) -> Reference:
    """Return what names the image that a region was selected from."""
    return reference_of(region.ContentSequence[0].ReferencedSOPSequence[0])


def is_whole_image(region: Dataset, matrices: Matrices) -> bool:
    """Return whether a region is all of its image."""
    return _is_same(line_of(region), whole_image(*matrices[lies_on(region)[0]]))


def is_box_around(region: Dataset, others: Sequence[Dataset]) -> bool:
    """Return whether a region is the box around those of `others` that lie on its image."""
    there = [each for each in others if lies_on(each) == lies_on(region)]
    return bool(there) and _is_same(line_of(region), box_around(there))


def is_around(line: Outline | None, segmentation: ReadSegmentation, which: Shown) -> bool:
    """Return whether a box is the one around what a segment covers of an image.

    Of a fractional one, nobody can say which part that is: then it has to be within.
    """
    number, reference = which
    if line is None or reference not in segmentation.segments[number].frames:
        return False
    expected = box(segmentation.pixels(number, reference))
    if segmentation.is_exact:
        return _is_same(line, expected)
    lowest, highest = expected.min(axis=0), expected.max(axis=0)
    return bool(((line >= lowest) & (line <= highest)).all())


def _is_same(line: Outline | None, expected: Outline) -> bool:
    return line is not None and np.array_equal(line, expected)
