"""Outlines of masks along the sides of their pixels, for viewers that draw lines and no masks."""

import numpy as np
import numpy.typing as npt

from inference.assessment import Mask

Outline = npt.NDArray[np.float64]
"""Corners [n, (column, row)] of a closed line, the first repeated last, in image coordinates.

The top left corner of the image is (0, 0), its bottom right one (columns, rows), as in PS3.3
Sections C.10.5 and C.18.6.1: the centre of the first pixel lies at (0.5, 0.5).
"""

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""(row, column) that a side leads along: right, down, left, up; the pixel is on its right hand."""
_STRAIGHT, _RIGHT, _LEFT = 0, 1, 3


def outlines(mask: Mask) -> list[Outline]:
    """Return the outer outlines of a mask [row, column], the one around the largest area first.

    Each goes around pixels that share a side with another, clockwise on the screen; it lies on
    their outer sides and has no point between corners, so that it encloses exactly these pixels
    and the holes among them.
    """
    found = [line for line in _sides(mask) if _area(line) > 0]
    return sorted(found, key=lambda line: (-_area(line), *line[0, ::-1]))


def holes(mask: Mask) -> list[Outline]:
    """Return the outlines of what is left out inside a mask, the largest first."""
    found = [line for line in _sides(mask) if _area(line) < 0]
    return sorted(found, key=lambda line: (_area(line), *line[0, ::-1]))


def _area(line: Outline) -> float:
    """Return the area in pixels, negative where the line goes round counterclockwise."""
    column, row = line.T
    return float(column[:-1] @ row[1:] - column[1:] @ row[:-1]) / 2


def _sides(mask: Mask) -> list[Outline]:
    """Return all closed lines between the pixels of a mask and the others."""
    following = _following_sides(mask)
    vertices = (mask.shape[0] + 1) * (mask.shape[1] + 1)
    lines = []
    for start in list(following):
        if start not in following:
            continue
        path = [start]
        while (side := following.pop(path[-1])) != start:
            path.append(side)
        directions, places = np.divmod(np.array(path), vertices)
        corners = places[directions != np.roll(directions, 1)]
        first = corners.argmin()
        corners = np.append(np.roll(corners, -first), corners[first])
        rows, columns = np.divmod(corners, mask.shape[1] + 1)
        lines.append(np.column_stack([columns, rows]).astype(np.float64))
    return lines


def _following_sides(mask: Mask) -> dict[int, int]:
    """Return which outer side of a pixel leads on from which, as direction and starting vertex.

    Where two pixels touch at a corner alone, the line stays with its pixel.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    outer = np.zeros((4, mask.shape[0] + 1, mask.shape[1] + 1), bool)
    outer[0, :-1, :-1] = inside & ~padded[:-2, 1:-1]
    outer[1, :-1, 1:] = inside & ~padded[1:-1, 2:]
    outer[2, 1:, 1:] = inside & ~padded[2:, 1:-1]
    outer[3, 1:, :-1] = inside & ~padded[1:-1, :-2]
    direction, row, column = np.nonzero(outer)
    row_step, column_step = np.array(_STEPS)[direction].T
    ends = row + row_step, column + column_step
    ahead = [outer[((direction + turn) % 4, *ends)] for turn in (_RIGHT, _STRAIGHT)]
    turns = np.where(ahead[0], _RIGHT, np.where(ahead[1], _STRAIGHT, _LEFT))
    sides = np.ravel_multi_index((direction, row, column), outer.shape)
    nexts = np.ravel_multi_index(((direction + turns) % 4, *ends), outer.shape)
    return dict(zip(sides.tolist(), nexts.tolist(), strict=True))
