"""An outline encloses exactly the pixels that it stands for, in DICOM's image coordinates."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from sr_writer.contours import holes, outlines

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
CORNERS_TOO = np.ones((3, 3))


def enclosed(line, shape):
    """The pixels whose centres a closed line goes around, counted by crossings (even-odd)."""
    rows, columns = np.indices(shape) + 0.5
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in pairwise(line):
        if x0 == x1:
            inside ^= (columns < x0) & (rows > min(y0, y1)) & (rows < max(y0, y1))
    return inside


def parts(mask):
    """The parts of a mask joined by sides, filled where the outside does not reach."""
    labels, count = ndimage.label(mask)
    for number in range(1, count + 1):
        yield ndimage.binary_fill_holes(labels == number, CORNERS_TOO)


@given(MASKS)
def test_each_outline_encloses_one_part_of_the_mask_with_its_holes(mask):
    found = [enclosed(line, mask.shape) for line in outlines(mask)]
    expected = sorted(parts(mask), key=lambda part: (-part.sum(), tuple(np.argwhere(part)[0])))
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]


@given(MASKS)
def test_outlines_without_holes_are_the_mask(mask):
    around = np.zeros(mask.shape, int)
    for lines, sign in ((outlines(mask), 1), (holes(mask), -1)):
        for line in lines:
            around += sign * enclosed(line, mask.shape)
    assert (around == mask).all()


@given(MASKS)
def test_outlines_are_closed_and_have_corners_only(mask):
    for line in outlines(mask) + holes(mask):
        assert line.dtype == np.float64
        assert (line[0] == line[-1]).all()
        steps = np.sign(np.diff(line, axis=0))
        assert (np.abs(steps).sum(axis=1) == 1).all()
        turned = np.abs(steps) != np.abs(np.roll(steps, 1, axis=0))
        assert turned.all()
        assert (line >= 0).all()
        assert (line <= mask.shape[::-1]).all()


@pytest.mark.parametrize(
    ("place", "corners"),
    [
        ((0, 0), [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]),
        ((2, 4), [(4, 2), (5, 2), (5, 3), (4, 3), (4, 2)]),
    ],
)
def test_the_first_pixel_reaches_from_0_0_to_1_1_column_before_row(place, corners):
    mask = np.zeros((3, 5), bool)
    mask[place] = True
    (line,) = outlines(mask)
    assert line.tolist() == [list(corner) for corner in corners]


def test_the_largest_outline_comes_first_and_nothing_has_none():
    mask = np.zeros((20, 20), bool)
    mask[1:3, 1:3] = mask[5:12, 4:9] = mask[15:18, 15:18] = True
    assert [enclosed(line, mask.shape).sum() for line in outlines(mask)] == [35, 9, 4]
    assert outlines(np.zeros((4, 4), bool)) == []
