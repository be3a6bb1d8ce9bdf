"""The Volume type: voxels on a patient grid, where they came from, and the geometry verdict.

Made by `node.assembly`, read by models and writers. Nothing downstream re-sorts slices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TypeVar

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from scipy import ndimage

from inference.assessment import Mask, ProbabilityMap, Text

Voxel = TypeVar("Voxel", np.bool_, np.uint8)


class Geometry(StrEnum):
    """What the images of a series turned out to be; the first four can become a volume."""

    UNIFORM = "uniform"
    TILTED = "tilted"
    UNEVEN = "unevenly spaced"
    GAPPED = "gapped"
    DUPLICATED = "duplicated"
    INCONSISTENT = "inconsistent"
    NO_POSITIONS = "no positions"
    TOO_FEW_SLICES = "too few slices"
    UNREADABLE = "unreadable"
    NOT_A_VOLUME = "not a volume"


@dataclass(frozen=True)
class GeometryVerdict:
    """What was found, what was done, and how far it is from ideal.

    `geometry` is the gravest of what was found; `slices` counts the images of the stack.
    `deviation_mm` is the distance of the farthest pixel from where a uniform stack would have it,
    `steps_mm` the smallest, median and largest distance of neighbouring slices along the normal,
    `missing_slices` how many median steps the gaps lack. `resampled` says that the voxels are
    interpolated between those of the images. `reason` says why a series is refused, to the
    technologist who can repeat the scan or the export; `notes` say what was done to an accepted
    one and what it lacks.
    """

    geometry: Geometry
    accepted: bool
    slices: int
    deviation_mm: float = 0.0
    spacing_mm: tuple[float, float, float] | None = None
    steps_mm: tuple[float, float, float] | None = None
    tilt_degrees: float = 0.0
    missing_slices: int = 0
    resampled: bool = False
    reason: Text | None = None
    notes: tuple[Text, ...] = ()
    set_aside: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Volume:
    """One accepted series.

    `grid.array` is float32 [slice, row, column] in rescaled units (HU for CT); `grid.affine` maps
    (slice, row, column) indices to patient coordinates in mm, LPS (PS3.3 C.7.6.2.1.1). Its rows
    and columns run as those of the images do.

    `sources` are the headers, without pixel data, of the images that it was made of, in the order
    of the slices; without resampling `sources[k]` is slice k, pixel by pixel. Each is that of a
    single-frame image: for a frame of a multi-frame SOP instance, with what its functional groups
    say. `frame_numbers[k]` is what a reference to it names besides the instance, from 1; None
    means the whole instance (a single-frame image, or a tile of a mosaic), and so does no number
    at all.
    """

    grid: hd.Volume
    sources: tuple[Dataset, ...]
    verdict: GeometryVerdict
    modality: str
    limitations: tuple[Text, ...] = ()
    frame_numbers: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        slices = self.grid.spatial_shape[0]
        if not self.verdict.resampled and len(self.sources) != slices:
            raise ValueError(f"{len(self.sources)} source images for {slices} slices")
        if self.frame_numbers and len(self.frame_numbers) != len(self.sources):
            raise ValueError(f"{len(self.frame_numbers)} frame numbers, {len(self.sources)} images")

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.grid.affine[:3, :3]))) / 1000.0

    def source_of(self, index: int) -> int:
        """Index into `sources` of the image that lies nearest to the middle of slice `index`."""
        if not self.verdict.resampled:
            return index
        return int(np.abs(self.first_pixels()[:, 0] - index).argmin())

    def slice_of(self, source: int) -> int:
        """Slice of the grid that lies nearest to a source image."""
        if not self.verdict.resampled:
            return source
        last = self.grid.spatial_shape[0] - 1
        return int(np.clip(np.rint(self.first_pixels()[source, 0]), 0, last))

    def on_sources(self, mask: Mask) -> Mask:
        """Return a mask of the grid as one of the source images, bool [source, row, column].

        Each pixel takes the voxel that its centre lies in. A structure that lies only between two
        images is put on the nearer one, so that none is lost.
        """
        return mask if not self.verdict.resampled else self._on_sources(mask, mask)

    def probabilities_on_sources(self, probabilities: ProbabilityMap, mask: Mask) -> ProbabilityMap:
        """Return the probabilities that `mask` was cut from, uint8 [source, row, column].

        Each pixel takes the voxels that it takes of the mask, the most probable where a structure
        between the images is put on it: over the threshold is what `on_sources` outlines.
        """
        if not self.verdict.resampled:
            return probabilities
        return self._on_sources(probabilities, mask)

    def _on_sources(self, voxels: npt.NDArray[Voxel], mask: Mask) -> npt.NDArray[Voxel]:
        first = self.sources[0]
        shape = (len(self.sources), int(first.Rows), int(first.Columns))
        made = np.zeros(shape, voxels.dtype)
        starts = np.rint(self.first_pixels()).astype(int)
        for plane, (index, top, left) in zip(made, starts, strict=True):
            if 0 <= index < len(voxels):
                _copy_overlap(voxels[index], plane, top, left)
        for index, unseen in _between(mask, starts[:, 0]):
            source = self.source_of(index)
            _copy_overlap(voxels[index] * unseen, made[source], *starts[source, 1:])
        return made

    def first_pixels(self) -> npt.NDArray[np.float64]:
        """Grid index of the centre of each source's first pixel, [source, (slice, row, column)]."""
        positions = np.array([source.ImagePositionPatient for source in self.sources], dtype=float)
        affine = self.grid.affine
        found: npt.NDArray[np.float64] = np.linalg.solve(
            affine[:3, :3], (positions - affine[:3, 3]).T
        ).T
        return found


def _between(mask: Mask, slices: npt.NDArray[np.int_]) -> Iterator[tuple[int, Mask]]:
    """Yield, slice by slice, the connected parts of a mask that none of `slices` (sorted) shows."""
    for below, above in pairwise(slices):
        if not mask[below + 1 : above].any():
            continue
        labels, _ = ndimage.label(mask[below : above + 1], np.ones((3, 3, 3)))
        shown = np.union1d(labels[0], labels[-1])
        for index, plane in enumerate(labels[1:-1], below + 1):
            unseen = mask[index] & ~np.isin(plane, shown)
            if unseen.any():
                yield index, unseen


def _copy_overlap(
    voxels: npt.NDArray[Voxel], pixels: npt.NDArray[Voxel], top: int, left: int
) -> None:
    """Raise `pixels` [row, column] to the voxels from (top, left) on, as far as there are any."""
    rows, columns = voxels.shape
    above, beside = max(0, -top), max(0, -left)
    found = voxels[
        max(0, top) : max(0, min(rows, top + pixels.shape[0])),
        max(0, left) : max(0, min(columns, left + pixels.shape[1])),
    ]
    covered = pixels[above : above + found.shape[0], beside : beside + found.shape[1]]
    np.maximum(covered, found, out=covered)
