"""The Volume type: voxels on a patient grid, where they came from, and the geometry verdict.

Made by `node.assembly`, read by models and writers. Nothing downstream re-sorts slices.
"""

from dataclasses import dataclass
from enum import StrEnum

import highdicom as hd
import numpy as np
from pydicom import Dataset

from inference.assessment import Text


class Geometry(StrEnum):
    """What the slices of a series turned out to be; only UNIFORM is a volume today."""

    UNIFORM = "uniform"
    TILTED = "tilted"
    GAPPED = "gapped"
    DUPLICATED = "duplicated"
    INCONSISTENT = "inconsistent"
    MULTI_FRAME = "multi-frame"
    NO_POSITIONS = "no positions"
    TOO_FEW_SLICES = "too few slices"
    UNREADABLE = "unreadable"
    NOT_A_VOLUME = "not a volume"


@dataclass(frozen=True)
class GeometryVerdict:
    """What was found, and what follows from it.

    `deviation_mm` is the distance of the farthest slice from where a uniform stack would have it.
    `reason` is written for the technologist who can repeat the scan or the export; it is None
    where the series is accepted as it came.
    """

    geometry: Geometry
    accepted: bool
    slices: int
    deviation_mm: float = 0.0
    spacing_mm: tuple[float, float, float] | None = None
    reason: Text | None = None
    set_aside: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Volume:
    """One accepted series.

    `grid.array` is float32 [slice, row, column] in rescaled units (HU for CT); `grid.affine` maps
    (slice, row, column) indices to patient coordinates in mm, LPS (PS3.3 C.7.6.2.1.1).
    `sources[k]` is the header, without pixel data, of the SOP instance that slice k came from.
    """

    grid: hd.Volume
    sources: tuple[Dataset, ...]
    verdict: GeometryVerdict
    modality: str
    limitations: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        if len(self.sources) != self.grid.spatial_shape[0]:
            raise ValueError(
                f"{len(self.sources)} source instances for {self.grid.spatial_shape[0]} slices"
            )

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.grid.affine[:3, :3]))) / 1000.0
