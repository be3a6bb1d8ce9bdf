"""United Imaging grids: all slices of a volume as tiles of one image, each with its own position.

As many tiles lie beside each other as there are columns in the smallest square that holds all;
there are only as many rows as are needed.
"""

import math
from typing import Any

from pydicom import Dataset
from pydicom.tag import BaseTag

from node.image_header import elements_of, image_header, parsed_elements, private_value
from node.instances import Instance, integer_of, numbers_of, text_of, value_of
from node.mosaic import MAX_TILES, MosaicTile, unreadable_mosaic
from node.sequence_items import items_of

CREATOR, GROUP = "Image Private Header", 0x0065
B_VALUE, GRADIENT, SLICES, SLICE_SEQUENCE = 0x09, 0x37, 0x50, 0x51
"""Private elements (0065,xx09) and so on."""


def is_grid(header: Dataset) -> bool:
    """Tell whether an image that is not multi-frame is a grid of slices."""
    return "VFRAME" in text_of(header, "ImageType") or private_value(
        header, GROUP, CREATOR, SLICES
    ) not in (None, 1)


def grid_tiles(instance: Instance) -> list[MosaicTile]:
    """Return the slices of a grid in its own order, row by row.

    Raises UnreadableInstanceError where their number, layout or positions are unknown.
    """
    header = instance.header
    slices = _slices(header)
    rows, columns = integer_of(header, "Rows"), integer_of(header, "Columns")
    count = len(slices)
    if private_value(header, GROUP, CREATOR, SLICES) != count or not 0 < count <= MAX_TILES:
        raise unreadable_mosaic(
            "its United Imaging header does not describe all of its slices",
            "其联影私有头信息未描述全部层面",
        )
    beside = math.isqrt(count - 1) + 1
    below = -(-count // beside)
    if rows % below or columns % beside or not rows or not columns:
        raise unreadable_mosaic(
            f"{count} slices do not tile its matrix of {columns} x {rows}",
            f"{count} 层无法拼成 {columns} x {rows} 的矩阵",
        )
    common = parsed_elements(header, without=("NumberOfFrames", "SliceLocation"))
    tiles = []
    for tile, item in enumerate(slices):
        own = elements_of(
            {
                "Rows": rows // below,
                "Columns": columns // beside,
                "ImagePositionPatient": _position(item),
                **_diffusion(header),
            }
        )
        top, left = tile // beside * (rows // below), tile % beside * (columns // beside)
        tiles.append(MosaicTile(top, left, image_header(header, common, own)))
    return tiles


def _slices(header: Dataset) -> list[Dataset]:
    try:
        tag = header.private_block(GROUP, CREATOR).get_tag(SLICE_SEQUENCE)
    except KeyError:
        return []
    return items_of(header, BaseTag(tag))


def _position(item: Dataset) -> list[float]:
    position = numbers_of(item, "ImagePositionPatient", 3)
    if position is None:
        raise unreadable_mosaic("a slice has no Image Position", "有层面缺少图像位置")
    return list(position)


def _diffusion(header: Dataset) -> dict[str, Any]:
    """Return the diffusion weighting, where the public attributes lack it."""
    return {
        keyword: value
        for keyword, value in (
            ("DiffusionBValue", private_value(header, GROUP, CREATOR, B_VALUE)),
            ("DiffusionGradientOrientation", private_value(header, GROUP, CREATOR, GRADIENT)),
        )
        if value is not None and value_of(header, keyword) is None
    }
