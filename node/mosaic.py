"""Siemens mosaics: all slices of a volume as tiles of one image, and where each of them lies.

The image's own position is that of a single slice as large as the mosaic. The direction of the
slices is in the CSA header alone; where that cannot be had, a mosaic is refused, never guessed.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from inference.assessment import Text
from node.data_elements import Elements
from node.image_header import (
    elements_of,
    image_header,
    parsed_elements,
    private_value,
)
from node.instances import (
    Instance,
    UnreadableInstanceError,
    integer_of,
    numbers_of,
    text_of,
)
from node.siemens_csa import (
    IMAGE_HEADER,
    SERIES_HEADER,
    CsaTags,
    csa_tags,
    prescribed_slices,
)

Floats = npt.NDArray[np.float64]

MAX_TILES = 1024
"""No mosaic holds more slices; a header that says more is broken or hostile."""

ALIGNED = math.cos(math.radians(10))
"""Prospective motion correction turns slices, but by less than 10 degrees from the protocol."""

PROTOCOL_TOLERANCE = 0.5
"""By how much of a pixel, or of a slice, tiles and the protocol's slices may differ in extent."""


class MosaicTile(NamedTuple):
    """One slice of a mosaic: its first row and column in it, and its header."""

    top: int
    left: int
    header: Dataset


@dataclass(frozen=True, eq=False)
class _Layout:
    tiles: int
    rows: int
    columns: int
    beside: int

    def place(self, tile: int) -> tuple[int, int]:
        return tile // self.beside * self.rows, tile % self.beside * self.columns


@dataclass(frozen=True, eq=False)
class _Geometry:
    first: Floats
    """Centre of the first pixel of the first tile, LPS mm."""
    correction: Floats
    """From Image Position, which is for a slice as large as the mosaic, to there."""
    centre: Floats
    """Middle of the first tile."""
    step: Floats
    """From each tile to the next."""
    pixel: float
    """The larger pixel spacing."""


def is_mosaic(header: Dataset) -> bool:
    """Tell whether an image that is not multi-frame holds several slices as tiles."""
    if "MOSAIC" in text_of(header, "ImageType"):
        return True
    number = private_value(header, 0x0019, "SIEMENS MR HEADER", 0x0A)
    return isinstance(number, int) and number > 1


def mosaic_tiles(instance: Instance) -> list[MosaicTile]:
    """Return the slices of a mosaic in its own order, row by row.

    Raises UnreadableInstanceError where the number, the layout, the direction or the distance of
    the slices is unknown, or contradicts the protocol in the CSA header.
    """
    header = instance.header
    try:
        image, series = csa_tags(header, IMAGE_HEADER), csa_tags(header, SERIES_HEADER)
    except ValueError as error:
        raise unreadable_mosaic(
            "its Siemens CSA header is damaged", "其西门子 CSA 头信息已损坏"
        ) from error
    layout = _layout(header, image)
    geometry = _geometry(header, image, layout)
    _check_protocol(image, series, layout.tiles, geometry)
    common = parsed_elements(header, without=("NumberOfFrames", "SliceLocation"))
    diffusion = _diffusion(header, image)
    tiles = []
    for tile in range(layout.tiles):
        own = elements_of(
            {
                "Rows": layout.rows,
                "Columns": layout.columns,
                "ImagePositionPatient": list(geometry.first + tile * geometry.step),
            }
        )
        top, left = layout.place(tile)
        tiles.append(MosaicTile(top, left, image_header(header, common, diffusion, own)))
    return tiles


def _layout(header: Dataset, image: CsaTags) -> _Layout:
    """Tiles fill a square, of as many rows as columns of tiles, from the top left on."""
    numbers = _numbers(image, "NumberOfImagesInMosaic", 1)
    if numbers is None:
        raise unreadable_mosaic(
            "it has no Siemens CSA header that says how many slices it holds",
            "缺少注明层数的西门子 CSA 头信息",
        )
    tiles, rows, columns = (
        int(numbers[0]),
        integer_of(header, "Rows"),
        integer_of(header, "Columns"),
    )
    if not 0 < tiles <= MAX_TILES:
        raise unreadable_mosaic(f"it declares {tiles} slices", f"其声明的层数为 {tiles}")
    beside = math.isqrt(tiles - 1) + 1
    if rows % beside or columns % beside or not rows or not columns:
        raise unreadable_mosaic(
            f"{tiles} slices do not tile its matrix of {columns} x {rows}",
            f"{tiles} 层无法拼成 {columns} x {rows} 的矩阵",
        )
    return _Layout(tiles, rows // beside, columns // beside, beside)


def _geometry(header: Dataset, image: CsaTags, layout: _Layout) -> _Geometry:
    position = numbers_of(header, "ImagePositionPatient", 3)
    orientation = numbers_of(header, "ImageOrientationPatient", 6)
    spacing = numbers_of(header, "PixelSpacing", 2)
    distance = numbers_of(header, "SpacingBetweenSlices", 1)
    if position is None or orientation is None or spacing is None:
        raise unreadable_mosaic(
            "it has no Image Position, Image Orientation or Pixel Spacing",
            "缺少图像位置、图像方位或像素间距",
        )
    if distance is None or distance[0] <= 0:
        raise unreadable_mosaic("it has no Spacing Between Slices", "缺少层间距")
    direction = _numbers(image, "SliceNormalVector", 3)
    if direction is None:
        raise unreadable_mosaic(
            "its Siemens CSA header does not say in which direction the slices follow each other",
            "其西门子 CSA 头信息未注明层面的排列方向",
        )
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    cosine = _cosine(normal, np.array(direction))
    if abs(cosine) < ALIGNED:
        raise unreadable_mosaic(
            "Image Orientation contradicts the slice normal in its Siemens CSA header",
            "图像方位与西门子 CSA 头信息中的层面法向相互矛盾",
        )
    down, across = column * spacing[0], row * spacing[1]
    spare_rows = integer_of(header, "Rows") - layout.rows
    spare_columns = integer_of(header, "Columns") - layout.columns
    correction = down * spare_rows / 2 + across * spare_columns / 2
    first = np.array(position) + correction
    return _Geometry(
        first=first,
        correction=correction,
        centre=first + down * layout.rows / 2 + across * layout.columns / 2,
        step=normal / np.linalg.norm(normal) * math.copysign(distance[0], cosine),
        pixel=max(spacing),
    )


def _check_protocol(image: CsaTags, series: CsaTags, tiles: int, geometry: _Geometry) -> None:
    """Compare the tiles with the slices that the protocol prescribes, where it is there.

    The whole stack may have moved with the table or with the patient since; but the slices must
    be as many, as far from each other, and run the same way. A three-dimensional protocol has one
    slab for all of them.
    """
    try:
        centres = prescribed_slices(series)
    except ValueError as error:
        raise _contradiction() from error
    if centres is None or tiles == 1:
        return
    extent = (tiles - 1) * geometry.step
    if len(centres) > 1 and not (
        len(centres) == tiles
        and _is_spaced_alike(centres, extent, geometry)
        and abs(_cosine(centres[-1] - centres[0], extent)) >= ALIGNED
    ):
        raise _contradiction()
    planned = centres.mean(axis=0)
    table = np.array(_numbers(image, "ImaRelTablePosition", 3) or (0.0, 0.0, 0.0))
    if not any(_is_there(planned + sign * table, extent, geometry) for sign in (0, 1, -1)):
        raise _contradiction()


def _is_there(planned: Floats, extent: Floats, geometry: _Geometry) -> bool:
    """Tell whether the stack's middle is nearer to the planned one than if read in other ways.

    These are that the slices run the other way from the first, and that the position is already
    that of the first tile.
    """
    middle = geometry.centre + extent / 2
    offset = np.linalg.norm(middle - planned)
    others = (middle - extent, middle - geometry.correction)
    return all(np.linalg.norm(other - planned) >= offset for other in others)


def _is_spaced_alike(centres: Floats, extent: Floats, geometry: _Geometry) -> bool:
    planned = centres[-1] - centres[0]
    even = centres[0] + np.linspace(0, 1, len(centres))[:, None] * planned
    length = float(np.linalg.norm(extent))
    tolerance = PROTOCOL_TOLERANCE * min(geometry.pixel, length / (len(centres) - 1))
    return (
        abs(length - float(np.linalg.norm(planned))) <= tolerance
        and float(np.abs(centres - even).max()) <= tolerance
    )


def _cosine(one: Floats, other: Floats) -> float:
    """Return the cosine of the angle between two vectors, 0 where one has no length."""
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


def _diffusion(header: Dataset, image: CsaTags) -> Elements:
    """Return the diffusion weighting of the CSA header, where the public attributes lack it."""
    found: dict[str, object] = {}
    b_value = _numbers(image, "B_value", 1)
    if b_value is not None and not text_of(header, "DiffusionBValue"):
        found["DiffusionBValue"] = b_value[0]
    direction = _numbers(image, "DiffusionGradientDirection", 3)
    if direction is not None and not text_of(header, "DiffusionGradientOrientation"):
        found["DiffusionGradientOrientation"] = list(direction)
    return elements_of(found)


def _numbers(tags: CsaTags, name: str, count: int) -> tuple[float, ...] | None:
    values = tags.get(name, ())
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _contradiction() -> UnreadableInstanceError:
    return unreadable_mosaic(
        "the places of its slices contradict the scan protocol in its Siemens CSA header",
        "其层面位置与西门子 CSA 头信息中的扫描协议相互矛盾",
    )


def unreadable_mosaic(en: str, zh: str) -> UnreadableInstanceError:
    """Return the error that says why an image cannot be split into its slices."""
    return UnreadableInstanceError(
        Text(
            en=f"A mosaic image cannot be split into its slices: {en}. Send the series as enhanced "
            "or as single-slice images.",
            zh=f"马赛克（Mosaic）图像无法拆分为各层面：{zh}。请以增强型或单层图像发送该序列。",
        )
    )
