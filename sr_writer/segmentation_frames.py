"""The frames of a SEG: what each shows, and their functional groups, encoded for all at once.

highdicom makes an object for each attribute of each frame, and pydicom encodes each of them. A
hundred segments have thousands of frames, but the items of these are made of few distinct parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from struct import pack
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from highdicom.seg import SegmentsOverlapValues
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from inference.assessment import Assessment
from sr_writer.kinds import SegmentationForm
from sr_writer.segmentation_pixels import (
    Piece,
    label_frames,
    outline,
    overlap,
    packed_bits,
    pixels_of,
    probability_frames,
    shapes_of,
)

ITEM = b"\xfe\xff\x00\xe0"
FRAME_CONTENT = Tag("FrameContentSequence")


class Frame(NamedTuple):
    """What distinguishes a frame: the index along each dimension, its image and its segment.

    `segment` is None where a frame shows all of them, or they all show one.
    """

    indices: tuple[int, ...]
    image: int
    segment: int | None


@dataclass(frozen=True)
class Frames:
    """All frames in their order, their pixels, and the images of any of them in their order."""

    form: SegmentationForm
    overlap: SegmentsOverlapValues
    each: Sequence[Frame]
    images: Sequence[int]
    pixels: bytes


def frames_of(shown: Assessment, form: SegmentationForm, depths: npt.NDArray[np.float64]) -> Frames:
    """Return the frames of an assessment on images that lie at `depths`, segment by segment.

    Raises ValueError where a mask is empty or has a voxel of no probability.
    """

    def in_order(piece: Piece) -> tuple[int, float]:
        return piece.segment, float(depths[piece.image])

    masks, maps = shown.masks, shown.probabilities
    pieces = sorted(outline(masks), key=in_order)
    for number in masks.keys() - {piece.segment for piece in pieces}:
        raise ValueError(f"mask {number} is empty: leave the segment out of the assessment")
    overlaps = SegmentsOverlapValues("YES" if overlap(pieces, masks) else "NO")
    form = _possible(form, shown, overlaps)
    size = prod(*(shape[1:] for shape in shapes_of(masks)))
    if form is SegmentationForm.FRACTIONAL:
        _check_probabilities(pieces, shown)
        pieces = sorted(outline(maps), key=in_order)
        pixels = probability_frames(pieces, maps, size)
        if len(maps) > 1:  # that two may be there does not say that both are
            overlaps = SegmentsOverlapValues.UNDEFINED
    images = sorted({piece.image for piece in pieces}, key=depths.__getitem__)
    place = {image: index for index, image in enumerate(images, 1)}
    if form is SegmentationForm.LABELMAP:
        each = [Frame((place[image],), image, None) for image in images]
        pixels = label_frames(images, pieces, masks, size)
    else:
        each = [
            Frame((piece.segment, place[piece.image]), piece.image, piece.segment)
            for piece in pieces
        ]
    if form is SegmentationForm.BINARY:
        pixels = packed_bits(pieces, masks, size)
    return Frames(form, overlaps, each, images, pixels)


def _possible(
    form: SegmentationForm, shown: Assessment, overlaps: SegmentsOverlapValues
) -> SegmentationForm:
    """Return `form` if it can say what is shown, else BINARY, which can say anything."""
    is_possible = {
        SegmentationForm.BINARY: True,
        SegmentationForm.LABELMAP: overlaps is SegmentsOverlapValues.NO,
        SegmentationForm.FRACTIONAL: shown.probabilities.keys() == shown.masks.keys(),
    }
    return form if is_possible[form] else SegmentationForm.BINARY


def _check_probabilities(pieces: Sequence[Piece], shown: Assessment) -> None:
    for piece in pieces:
        probable = shown.probabilities[piece.segment][piece.image].reshape(-1) > 0
        if (pixels_of(piece, shown.masks) & ~probable[piece.start : piece.stop]).any():
            raise ValueError(f"mask {piece.segment} has voxels that are certainly no part of it")


def encoded_groups(
    frames: Sequence[Frame],
    of_image: Mapping[int, Dataset],
    of_segment: Mapping[int | None, Dataset],
) -> RawDataElement:
    """Return the Per-Frame Functional Groups Sequence, encoded in Explicit VR Little Endian.

    Each item has the groups of the frame's image and of its segment, and its Frame Content.
    """
    before = {image: _encoded(groups[:FRAME_CONTENT]) for image, groups in of_image.items()}
    after = {image: _encoded(groups[FRAME_CONTENT:]) for image, groups in of_image.items()}
    last = {segment: _encoded(groups) for segment, groups in of_segment.items()}
    content = _frame_content(len(frames[0].indices))
    parts = []
    for frame in frames:
        indices = pack(f"<{len(frame.indices)}L", *frame.indices)
        end = after[frame.image] + last.get(frame.segment, b"")
        length = len(before[frame.image]) + len(content) + len(indices) + len(end)
        parts += [ITEM, pack("<L", length), before[frame.image], content, indices, end]
    value = b"".join(parts)
    return RawDataElement(
        Tag("PerFrameFunctionalGroupsSequence"),
        "SQ",
        len(value),
        value,
        0,
        is_implicit_VR=False,
        is_little_endian=True,
    )


def _frame_content(dimensions: int) -> bytes:
    """Return Frame Content as encoded, up to the Dimension Index Values with which it ends."""
    item, groups = Dataset(), Dataset()
    item.DimensionIndexValues = [0] * dimensions
    groups.FrameContentSequence = [item]
    return _encoded(groups)[: -len(pack(f"<{dimensions}L", *[0] * dimensions))]


def _encoded(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())
