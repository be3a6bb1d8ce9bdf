"""The voxels of a stack whose images do not lie on the grid already.

A tilted image is shifted within its own plane; between images that are more than a step apart the
grid's slices are blended from both. Nothing is read from the images but their values.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from node.geometry import Stack

Plane = npt.NDArray[np.float32]
Decode = Callable[[Sequence[int], Sequence[Plane]], None]

KERNEL_RADIUS = 4
"""Shifts by a part of a pixel read a polynomial through so many pixels on either side, which moves
nothing by more or less than meant and keeps detail."""

SUBPIXEL = 2e-3
"""A shift is taken for a whole number of pixels where it is nearer to one than this."""

IMAGES_AT_ONCE = 8
"""Images that are decoded together, before they are put in place."""


def resample(stack: Stack, decode: Decode, background: float) -> Plane:
    """Return the voxels float32 [slice, row, column] on the stack's grid.

    `decode(numbers, outs)` writes the images of these numbers in the stack's order to the arrays,
    each of the stack's `extent`. Voxels that no image covers are
    `background`.
    """
    assert stack.slots is not None  # noqa: S101 - the caller has an accepted stack
    assert stack.offsets is not None  # noqa: S101
    voxels = np.full(stack.shape, background, np.float32)
    previous: tuple[float, Plane] | None = None
    for first in range(0, len(stack.order), IMAGES_AT_ONCE):
        numbers = range(first, min(first + IMAGES_AT_ONCE, len(stack.order)))
        images = [np.empty(stack.extent, np.float32) for _ in numbers]
        decode(numbers, images)
        for number, image in zip(numbers, images, strict=True):
            placed = _placed(image, stack.offsets[number], stack.shape[1:])
            slot = float(stack.slots[number])
            if previous is not None:
                _blend_between(voxels, previous, (slot, placed))
            if slot == round(slot):
                _put(voxels[round(slot)], placed)
            previous = slot, placed
    return voxels


def _placed(image: Plane, offset: npt.NDArray[np.float64], extent: tuple[int, int]) -> Plane:
    """Return the image on rows and columns of the grid, NaN beside it."""
    if image.shape == extent and not offset.any():
        return image
    whole = np.floor(offset + SUBPIXEL).astype(int)
    parts = np.maximum(offset - whole, 0.0)
    low, high = image.min(), image.max()
    for axis, part in enumerate(parts):
        if part > SUBPIXEL:
            image = _shifted(image, float(part), axis)
    top, left = whole
    rows, columns = (
        min(size, full - start)
        for size, full, start in zip(image.shape, extent, whole, strict=True)
    )
    placed = np.full(extent, np.nan, np.float32)
    inside = placed[top : top + rows, left : left + columns]
    np.clip(image[:rows, :columns], low, high, out=inside)
    return placed


def _shifted(image: Plane, part: float, axis: int) -> Plane:
    """Return the image moved on by `part` of a pixel along an axis, one pixel longer."""
    taps = np.arange(-KERNEL_RADIUS, KERNEL_RADIUS) + 1
    kernel = [
        np.prod((part - np.delete(taps, at)) / (tap - np.delete(taps, at)))
        for at, tap in enumerate(taps)
    ]
    widths = [(0, 0), (0, 0)]
    widths[axis] = (KERNEL_RADIUS, KERNEL_RADIUS)
    padded = np.pad(image, widths, mode="edge")
    length = image.shape[axis] + 1
    shape = (length, image.shape[1]) if axis == 0 else (image.shape[0], length)
    moved = np.zeros(shape, np.float32)
    for tap, weight in zip(taps, kernel, strict=True):
        begin = KERNEL_RADIUS - int(tap)
        window = [slice(None), slice(None)]
        window[axis] = slice(begin, begin + length)
        moved += padded[tuple(window)] * np.float32(weight)
    return moved


def _blend_between(voxels: Plane, before: tuple[float, Plane], after: tuple[float, Plane]) -> None:
    """Fill the slices strictly between two images."""
    (start, lower), (end, upper) = before, after
    for slot in range(int(np.floor(start)) + 1, int(np.ceil(end))):
        weight = np.float32((slot - start) / (end - start))
        blended = lower + weight * (upper - lower)
        for one in (lower, upper):  # where only one of the two has a value
            np.copyto(blended, one, where=np.isnan(blended))
        _put(voxels[slot], blended)


def _put(out: Plane, placed: Plane) -> None:
    np.copyto(out, placed, where=~np.isnan(placed))
