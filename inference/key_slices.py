"""Slices of a volume as pictures for a model of two dimensions, hung as a radiologist hangs them.

Which slices: spread evenly over the part of the stack that shows the body, or the best of such a
spread by a first pass of scores. A picture is one slice of the acquisition, or a montage of some.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from inference.assessment import NotForThisModel
from inference.manifest import KeySlices
from inference.volume import Volume

Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

BODY_HU = -300.0
"""CT above this is body (the lung's air is not, its vessels and the chest wall are)."""

BODY_SHARE = 0.15
"""MR above this share of its 99.5th percentile is body."""

COARSE_MM = 3.0
"""The body is sought on pixels of about this size: a table top or a sheet is thinner than 3."""

EXTENT_SHARE = 0.1
"""The body's extent ends where a slice shows less of it than this share of the fullest slice."""

MIN_BODY_CM2 = 5.0
CANDIDATES = 4
"""Slices that a first pass looks at, for each one that is then shown."""

PERCENTILES = (1.0, 99.0)
SQUARE_TOLERANCE = 0.01
"""Pixels whose sides differ by less than this share are square."""

ACROSS, DOWN, FIRST_TO_LAST = range(3)
VIEWS = np.array(
    [
        [[0, 1, 0], [0, 0, -1], [1, 0, 0]],
        [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, -1]],
    ]
)
"""Sagittal, coronal, axial (the patient axis that slices follow): direction (LPS) in which a
picture goes across and down, and slices go on. Patient's right, or front, on the left; head up;
from the right, the front, the head."""


@dataclass(frozen=True)
class Hanging:
    """How the acquisition's arrays become pictures: transposed first, then flipped.

    `reverse`: the first slice in viewing order is the last of the acquisition.
    """

    transpose: bool
    flip_down: bool
    flip_across: bool
    reverse: bool


def hanging(affine: Affine) -> Hanging:
    """How slices with this affine (slice, row, column) -> LPS mm are hung."""
    slices, rows, columns = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    view = VIEWS[int(np.abs(np.cross(rows, columns)).argmax())]
    straight = abs(columns @ view[ACROSS]) + abs(rows @ view[DOWN])
    crossed = abs(rows @ view[ACROSS]) + abs(columns @ view[DOWN])
    across, down = (rows, columns) if crossed > straight else (columns, rows)
    return Hanging(
        transpose=bool(crossed > straight),
        flip_down=bool(down @ view[DOWN] < 0),
        flip_across=bool(across @ view[ACROSS] < 0),
        reverse=bool(slices @ view[FIRST_TO_LAST] < 0),
    )


class Lightbox:
    """One volume, hung: gives its slices as normalised pictures (3, size, size).

    Raises NotForThisModel where the modality is not the model's or no body is seen.
    """

    def __init__(self, volume: Volume, spec: KeySlices) -> None:
        if volume.modality not in spec.modalities:
            raise NotForThisModel(
                f"The model reads {' and '.join(spec.modalities)}, this series is "
                f"{volume.modality}.",
                f"该模型仅适用于{'、'.join(spec.modalities)}，本序列为{volume.modality}。",
            )
        self.spec = spec
        self._array = volume.grid.array
        self._affine = np.asarray(volume.grid.affine, dtype=np.float64)
        self._hanging = hanging(self._affine)
        self._step = _coarse_step(self._affine)
        self._threshold = _body_threshold(volume)
        self.extent = self._body_extent()
        hu = spec.window if volume.modality == "CT" else None
        self._window = hu or self._percentiles()

    def spread(self, count: int) -> tuple[int, ...]:
        """At most `count` slices in the middles of as many equal parts of the body's extent.

        In viewing order: from the head, the front or the patient's right.
        """
        first, last = self.extent
        depth = last - first + 1
        count = min(count, depth)
        chosen = [first + int((part + 0.5) * depth / count) for part in range(count)]
        return self.in_viewing_order(chosen)

    def candidates(self) -> tuple[int, ...]:
        """Slices among which a first pass of scores chooses."""
        return self.spread(CANDIDATES * self.spec.count)

    def in_viewing_order(self, slices: Sequence[int]) -> tuple[int, ...]:
        """Each slice once, as they are hung."""
        return tuple(sorted(set(slices), reverse=self._hanging.reverse))

    def pictures(self, slices: Sequence[int]) -> Floats:
        """Each slice as a picture of its own: (slices, 3, size, size)."""
        return np.stack([self._normalised(self._slice(index)) for index in slices])

    def montage(self, slices: Sequence[int]) -> Floats:
        """All slices in one picture (1, 3, size, size), row by row from the top left.

        The grid is as near to a square as it can be; what is left of it has the padding's colour.
        """
        tiles = [_squared(self._slice(index), self._padding()) for index in slices]
        side = tiles[0].width
        columns = math.ceil(math.sqrt(len(tiles)))
        rows = math.ceil(len(tiles) / columns)
        sheet = Image.new("RGB", (columns * side, rows * side), self._padding())
        for place, tile in enumerate(tiles):
            sheet.paste(tile, (place % columns * side, place // columns * side))
        return self._normalised(sheet)[None]

    def present(self, slices: Sequence[int]) -> Floats:
        """As the bundle wants slices shown together: (pictures, 3, size, size)."""
        if self.spec.presentation == "montage":
            return self.montage(slices)
        return self.pictures(slices)

    def _slice(self, index: int) -> Image.Image:
        """One slice hung, windowed to 8 bits, with square pixels."""
        low, high = self._window
        share = (self._array[index].astype(np.float64) - low) / (high - low)
        grey = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
        row_mm, column_mm = np.linalg.norm(self._affine[:3, 1:3], axis=0)
        if self._hanging.transpose:
            grey, row_mm, column_mm = grey.T, column_mm, row_mm
        if self._hanging.flip_down:
            grey = grey[::-1]
        if self._hanging.flip_across:
            grey = grey[:, ::-1]
        image = Image.fromarray(np.ascontiguousarray(grey))
        if abs(row_mm / column_mm - 1) > SQUARE_TOLERANCE:
            fine = min(row_mm, column_mm)
            size = (round(image.width * column_mm / fine), round(image.height * row_mm / fine))
            image = image.resize(size, Image.Resampling.BICUBIC)
        return image.convert("RGB")

    def _normalised(self, image: Image.Image) -> Floats:
        """Padded to a square, resized on 8 bits as the published preprocessing does, normalised."""
        square = _squared(image, self._padding())
        resized = square.resize((self.spec.size, self.spec.size), Image.Resampling.BICUBIC)
        share = (np.asarray(resized, dtype=np.float64) / 255).astype(np.float32)
        mean, std = (np.array(each, np.float32) for each in (self.spec.mean, self.spec.std))
        return np.ascontiguousarray(((share - mean) / std).transpose(2, 0, 1))

    def _padding(self) -> tuple[int, int, int]:
        red, green, blue = (int(255 * share) for share in self.spec.mean)
        return red, green, blue

    def _body_extent(self) -> tuple[int, int]:
        """First and last slice of the acquisition that show enough of the body."""
        rows, columns = self._step
        coarse = self._array[:, ::rows, ::columns]
        # A table top, a sheet or tubing is thin: it does not survive the opening.
        body = ndimage.binary_opening(coarse > self._threshold, np.ones((1, 3, 3), dtype=bool))
        pixel_mm2 = np.prod(np.linalg.norm(self._affine[:3, 1:3], axis=0)) * rows * columns
        area = body.sum(axis=(1, 2)) * pixel_mm2 / 100
        if area.max() < MIN_BODY_CM2:
            raise NotForThisModel("No body is seen in the images.", "图像中未见人体组织。")
        full = np.flatnonzero(area >= EXTENT_SHARE * area.max())
        return int(full[0]), int(full[-1])

    def _percentiles(self) -> tuple[float, float]:
        first, last = self.extent
        rows, columns = self._step
        shown = self._array[first : last + 1, ::rows, ::columns]
        low, high = np.percentile(shown[shown > self._threshold], PERCENTILES)
        return float(low), max(float(high), float(low) + 1e-6)


def _coarse_step(affine: Affine) -> tuple[int, int]:
    rows, columns = np.linalg.norm(affine[:3, 1:3], axis=0)
    return max(1, round(COARSE_MM / float(rows))), max(1, round(COARSE_MM / float(columns)))


def _body_threshold(volume: Volume) -> float:
    if volume.modality == "CT":
        return BODY_HU
    rows, columns = _coarse_step(np.asarray(volume.grid.affine))
    return BODY_SHARE * float(np.percentile(volume.grid.array[:, ::rows, ::columns], 99.5))


def _squared(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Padded on both sides to a square; where that is uneven, the right or lower side has more."""
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
