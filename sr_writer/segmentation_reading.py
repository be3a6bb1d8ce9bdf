"""A SEG as its receiver reads it: what its frames show, by DICOM attributes alone.

A hundred segments have thousands of frames, whose functional groups are few and encoded again and
again. What is encoded as before is read once; what is not read stays encoded.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.tag import Tag

from inference.assessment import Mask
from sr_writer.source_images import Reference, SourceImage, places, reference_of

BITS_ALLOCATED = {"BINARY": (1,), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}
"""By Segmentation Type (PS3.3 Table C.8.20-2)."""

TAGS = {
    keyword: Tag(keyword)
    for keyword in (
        "DerivationImageSequence",
        "FrameContentSequence",
        "PlanePositionSequence",
        "SegmentIdentificationSequence",
    )
}

Bytes = npt.NDArray[np.uint8]
Read = dict[tuple[str, bytes], list[Dataset]]
"""Items of functional groups by keyword and encoding."""


@dataclass(frozen=True)
class ReadFrame:
    """The functional groups of one frame; frames that are encoded alike share the items.

    `segment` is 0 where a frame does not say which one it shows. `indices` are equal for frames of
    the same Dimension Index Values.
    """

    segment: int
    position: Dataset
    sources: Sequence[Dataset]
    indices: object


@dataclass(frozen=True)
class ShownSegment:
    """How a segment is described, what names the images that show it and their frames, its size."""

    description: Dataset
    frames: Mapping[Reference, int]
    volume_ml: float


@dataclass(frozen=True)
class ReadSegmentation:
    """The segments that are described and shown, by Segment Number.

    Where `is_exact` is False, they are fractional: each is a part of what is shown of it.
    """

    dataset: Dataset
    segments: Mapping[int, ShownSegment]
    is_exact: bool

    def pixels(self, number: int, reference: Reference) -> Mask:
        """Return the pixels [row, column] that may be part of a segment on an image."""
        rows, columns = int(self.dataset.Rows), int(self.dataset.Columns)
        index, size = self.segments[number].frames[reference], rows * columns
        if self.dataset.SegmentationType == "BINARY":
            data = np.frombuffer(self.dataset.PixelData, np.uint8)
            bits = np.unpackbits(frame_bits(data, index, size), bitorder="little")
            return bits[:size].reshape(rows, columns).astype(bool)
        data = np.frombuffer(self.dataset.PixelData, f"<u{self.dataset.BitsAllocated // 8}")
        pixels = data[index * size : (index + 1) * size].reshape(rows, columns)
        mask: Mask = pixels == number if self.is_exact else pixels > 0
        return mask


def read_frames(segmentation: Dataset) -> list[ReadFrame]:
    """Return the frames in their order."""
    read: Read = {}
    shared = (segmentation.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    one = _number(_items(shared, "SegmentIdentificationSequence", read))
    found = []
    for groups in segmentation.get("PerFrameFunctionalGroupsSequence", []):
        content = _stored(groups, "FrameContentSequence")
        found.append(
            ReadFrame(
                segment=_number(_items(groups, "SegmentIdentificationSequence", read)) or one,
                position=(_items(groups, "PlanePositionSequence", read) or [Dataset()])[0],
                sources=[
                    source
                    for derivation in _items(groups, "DerivationImageSequence", read)
                    for source in derivation.get("SourceImageSequence", [])
                ],
                indices=None if content is None else _indices(content),
            )
        )
    return found


def _number(items: Sequence[Dataset]) -> int:
    return int(items[0].get("ReferencedSegmentNumber", 0)) if items else 0


def _indices(content: Any) -> object:
    if content.is_raw:
        return content.value
    return str(content.value[0].get("DimensionIndexValues")) if content.value else None


def _stored(groups: Dataset, keyword: str) -> Any:
    """Return an element as it is stored, encoded if nobody has read it; None where it is not."""
    tag = TAGS[keyword]
    return groups.get_item(tag) if tag in groups else None


def _items(groups: Dataset, keyword: str, read: Read) -> Sequence[Dataset]:
    """Return the items of a functional group, those read before where they are encoded alike."""
    stored = _stored(groups, keyword)
    if stored is None or not stored.value:
        return []
    if not stored.is_raw:
        return list(stored.value)
    if (keyword, stored.value) not in read:
        read[keyword, stored.value] = list(groups[TAGS[keyword]].value)
    return read[keyword, stored.value]


def pixels_by_segment(
    segmentation: Dataset, frames: Sequence[ReadFrame]
) -> Iterator[Mapping[int, int]]:
    """Yield for each frame how many of its pixels may be part of which segment; none has 0.

    Raises ValueError where the pixels are not those of a SEG of so many frames.
    """
    form, bits = segmentation.get("SegmentationType"), int(segmentation.BitsAllocated)
    if bits not in BITS_ALLOCATED.get(form, ()):
        raise ValueError(f"Segmentation Type {form} in {bits} bits")
    size = int(segmentation.Rows) * int(segmentation.Columns)
    length = -(-size * len(frames) * bits // 8)
    if len(segmentation.PixelData) != length + length % 2:
        raise ValueError("PixelData has not the length of its frames")
    data = np.frombuffer(segmentation.PixelData, np.uint8, length)
    for index, frame in enumerate(frames):
        if form == "BINARY":
            found = {frame.segment: int(np.bitwise_count(frame_bits(data, index, size)).sum())}
        elif form == "FRACTIONAL":
            pixels = data[index * size : (index + 1) * size]
            found = {frame.segment: int(np.count_nonzero(pixels))}
        else:
            labels = data.view(f"<u{bits // 8}")[index * size : (index + 1) * size]
            found = dict(enumerate(np.bincount(labels).tolist()))
        yield {number: count for number, count in found.items() if count}


def frame_bits(data: Bytes, index: int, size: int) -> Bytes:
    """Return the packed bits of one frame of `size` pixels, from the first bit of a byte on."""
    first, last = index * size, (index + 1) * size
    if first % 8 == last % 8 == 0:
        return data[first // 8 : last // 8]
    bits = np.unpackbits(data[first // 8 : -(-last // 8)], bitorder="little")
    return np.packbits(bits[first % 8 :][:size], bitorder="little")


def described_segments(segmentation: Dataset) -> dict[int, Dataset]:
    """Return the items of the Segment Sequence by Segment Number, without the background."""
    found = {int(item.SegmentNumber): item for item in segmentation.get("SegmentSequence", [])}
    if segmentation.get("SegmentationType") == "LABELMAP":
        found.pop(0, None)
    return found


def read_segmentation(segmentation: Dataset, images: Sequence[SourceImage]) -> ReadSegmentation:
    """Return what a SEG on `images` shows.

    A pixel reaches half way to the images below and above, whatever their distance. Raises
    ValueError as `pixels_by_segment` does.
    """
    frames = read_frames(segmentation)
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    area = float(np.prod([float(each) for each in measures.PixelSpacing]))
    along = places([image.header for image in images])
    reach = np.gradient(along)
    orientation = np.array(images[0].header.ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    on: dict[int, dict[Reference, int]] = {}
    volumes: dict[int, float] = {}
    for index, (frame, pixels) in enumerate(
        zip(frames, pixels_by_segment(segmentation, frames), strict=True)
    ):
        place = float(normal @ np.array(frame.position.ImagePositionPatient, dtype=float))
        depth = float(reach[np.abs(along - place).argmin()])
        for number, count in pixels.items():
            volumes[number] = volumes.get(number, 0.0) + count * area * depth / 1000.0
            for source in frame.sources:
                on.setdefault(number, {}).setdefault(reference_of(source), index)
    segments = {
        number: ShownSegment(item, on[number], volumes[number])
        for number, item in described_segments(segmentation).items()
        if number in on
    }
    return ReadSegmentation(
        segmentation, segments, is_exact=segmentation.SegmentationType != "FRACTIONAL"
    )
