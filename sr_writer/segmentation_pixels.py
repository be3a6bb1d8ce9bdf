"""The pixels of a SEG's frames, from masks or a label map, without an array of all frames."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inference.assessment import LabelMap, Mask, ProbabilityMap

MAX_VALUE_LENGTH = 0xFFFFFFFE
"""Of native Pixel Data, in bytes (PS3.5 Section 7.1.1)."""

Masks = Mapping[int, Mask]
Bytes = npt.NDArray[np.uint8]


class Piece(NamedTuple):
    """What one image shows of one segment; none of it is beyond `start` <= flat pixel < `stop`.

    `image` is an index along the first axis of the masks.
    """

    segment: int
    image: int
    start: int
    stop: int


def shapes_of(masks: Masks) -> set[tuple[int, ...]]:
    """Return the shapes of masks, which are to be one."""
    if isinstance(masks, LabelMap):
        return {masks.labels.shape}
    return {mask.shape for mask in masks.values()}


def outline(masks: Masks | Mapping[int, ProbabilityMap]) -> list[Piece]:
    """Return the pieces of all segments: of any probability, where that is given for masks.

    Raises ValueError where a label map has numbers of no segment.
    """
    if isinstance(masks, LabelMap):
        return list(_labelled(masks))
    return [
        Piece(number, int(image), 0, mask[image].size)
        for number, mask in masks.items()
        for image in np.flatnonzero(mask.any(axis=(1, 2)))
    ]


def _labelled(masks: LabelMap) -> Iterator[Piece]:
    """Yield the pieces of a label map, by the runs of equal numbers in its images."""
    for image, plane in enumerate(masks.labels):
        flat = plane.reshape(-1)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts, stops = np.append(0, edges), np.append(edges, flat.size)
        order = np.argsort(flat[starts], kind="stable")
        numbers, first = np.unique(flat[starts][order], return_index=True)
        last = np.append(first[1:], order.size) - 1
        for number, start, stop in zip(
            numbers, starts[order[first]], stops[order[last]], strict=True
        ):
            if number > len(masks):
                raise ValueError(f"the label map has the number {number} of no segment")
            if number:
                yield Piece(int(number), image, int(start) & ~7, int(stop))  # on a whole byte


def pixels_of(piece: Piece, masks: Masks) -> npt.NDArray[np.bool_]:
    """Return the flat pixels of a piece."""
    found: npt.NDArray[np.bool_]
    if isinstance(masks, LabelMap):
        plane = masks.labels[piece.image].reshape(-1)
        found = plane[piece.start : piece.stop] == piece.segment
    else:
        found = masks[piece.segment][piece.image].reshape(-1)[piece.start : piece.stop]
    return found


def overlap(pieces: Sequence[Piece], masks: Masks) -> bool:
    """Return whether any pixel is part of two segments."""
    if isinstance(masks, LabelMap):
        return False
    by_image = sorted(pieces, key=lambda piece: piece.image)
    for _, group in groupby(by_image, key=lambda piece: piece.image):
        first, *others = group
        taken = pixels_of(first, masks).copy()
        for piece in others:
            pixels = pixels_of(piece, masks)
            if (taken & pixels).any():
                return True
            taken |= pixels
    return False


def packed_bits(pieces: Sequence[Piece], masks: Masks, size: int) -> bytes:
    """Return a frame of `size` bits for each piece, one after the other (PS3.5 Section 8.1.1)."""

    def fill(data: Bytes) -> None:
        # image by image, so that a label map is read from memory once
        for index, piece in sorted(enumerate(pieces), key=lambda each: each[1].image):
            first = index * size + piece.start
            pixels = pixels_of(piece, masks)
            if first % 8:
                pixels = np.pad(pixels, (first % 8, 0))
            bits = np.packbits(pixels, bitorder="little")
            data[first // 8 : first // 8 + bits.size] |= bits

    return _filled(-(-len(pieces) * size // 8), fill)


def label_frames(images: Sequence[int], pieces: Sequence[Piece], masks: Masks, size: int) -> bytes:
    """Return a frame of segment numbers for each of `images`, in 8 bits a pixel if they fit."""
    dtype = np.dtype("<u1" if len(masks) <= 0xFF else "<u2")

    def fill(data: Bytes) -> None:
        labels = data[: len(images) * size * dtype.itemsize].view(dtype).reshape(-1, size)
        frames = dict(zip(images, labels, strict=True))
        for piece in pieces:
            pixels = frames[piece.image][piece.start : piece.stop]
            np.putmask(pixels, pixels_of(piece, masks), piece.segment)

    return _filled(len(images) * size * dtype.itemsize, fill)


def probability_frames(
    pieces: Sequence[Piece], maps: Mapping[int, ProbabilityMap], size: int
) -> bytes:
    """Return a frame of probabilities for each piece, in 255ths."""

    def fill(data: Bytes) -> None:
        for frame, piece in zip(data[: len(pieces) * size].reshape(-1, size), pieces, strict=True):
            frame[:] = maps[piece.segment][piece.image].reshape(-1)

    return _filled(len(pieces) * size, fill)


def _filled(length: int, fill: Callable[[Bytes], None]) -> bytes:
    """Return as many zeros, and one for an even length, after `fill` has written into them.

    They are not copied, and pages that nothing is written to take no memory.
    """
    length += length % 2
    if length > MAX_VALUE_LENGTH:
        raise ValueError(
            f"the pixels of the SEG take {length / 2**30:.1f} GB, an object can hold 4 GB"
        )
    memory = BytesIO(bytes(length))
    with memory.getbuffer() as view:
        fill(np.frombuffer(view, np.uint8))
    return memory.getvalue()
