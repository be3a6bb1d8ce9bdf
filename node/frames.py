"""The two-dimensional images that an instance holds, each with its attributes as if it were alone.

Everything after this reads `Frame.header` and need not know how an instance was encoded.
"""

from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from node.functional_groups import PER_FRAME, enhanced_headers
from node.image_header import unreadable_frames
from node.instances import Instance, UnreadableInstanceError, integer_of, text_of
from node.mosaic import MosaicTile, is_mosaic, mosaic_tiles
from node.spatial_frames import spatial_headers
from node.uih_grid import grid_tiles, is_grid

SINGLE_FRAME = {CTImageStorage: "CT", MRImageStorage: "MR"}
ENHANCED = {
    EnhancedCTImageStorage: "CT",
    LegacyConvertedEnhancedCTImageStorage: "CT",
    EnhancedMRImageStorage: "MR",
    LegacyConvertedEnhancedMRImageStorage: "MR",
}
MODALITY_OF_CLASS = SINGLE_FRAME | ENHANCED
"""The SOP classes whose images can be slices."""


@dataclass(frozen=True)
class Tile:
    """A part of a stored frame that is an image of its own: its first row and column."""

    top: int
    left: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of an instance.

    `header` is that of a single-frame image (Rows, Columns, Image Position and Orientation, Pixel
    Spacing, Rescale, and what tells images at one position apart). `index` counts the frames of
    the instance's pixel data from 0; `number` is what a reference calls it (from 1), None where it
    is the whole instance, or a `tile` of one.
    """

    instance: Instance
    header: Dataset
    index: int = 0
    number: int | None = None
    tile: Tile | None = None


def frames_of(instance: Instance) -> tuple[Frame, ...]:
    """Return the images of an instance in the order in which it holds them.

    Enhanced images by their functional groups (PS3.3 C.7.6.16), other multi-frame ones by the
    distance of their frames, Siemens mosaics and United Imaging grids by their private headers.
    Raises UnreadableInstanceError where they cannot be told apart.
    """
    try:
        return _frames(instance)
    except UnreadableInstanceError:
        raise
    except Exception as error:  # values are parsed on access, and hostile ones raise anything
        raise unreadable_frames(
            "the description of its frames is damaged", "其帧描述信息已损坏"
        ) from error


def _frames(instance: Instance) -> tuple[Frame, ...]:
    header = instance.header
    sop_class = text_of(header, "SOPClassUID")
    frames = integer_of(header, "NumberOfFrames", 1)
    if sop_class in ENHANCED or (sop_class in SINGLE_FRAME and PER_FRAME in header):
        return _numbered(instance, enhanced_headers(instance))
    if frames > 1 and sop_class not in SINGLE_FRAME:
        raise unreadable_frames(
            "only CT and MR images are read frame by frame", "仅支持逐帧读取 CT 与 MR 图像"
        )
    if frames > 1:
        return _numbered(instance, spatial_headers(instance))
    if sop_class == MRImageStorage and is_grid(header):
        return _tiles(instance, grid_tiles(instance))
    if sop_class == MRImageStorage and is_mosaic(header):
        return _tiles(instance, mosaic_tiles(instance))
    return (Frame(instance, header),)


def _tiles(instance: Instance, tiles: list[MosaicTile]) -> tuple[Frame, ...]:
    return tuple(Frame(instance, made, tile=Tile(top, left)) for top, left, made in tiles)


def _numbered(instance: Instance, headers: list[Dataset]) -> tuple[Frame, ...]:
    return tuple(
        Frame(instance, header, index, number=index + 1) for index, header in enumerate(headers)
    )
