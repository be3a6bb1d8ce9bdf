"""Simulated acquisitions: a phantom scanned on a grid of one's choice, as a Volume."""

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from scipy.spatial.transform import Rotation

from inference.phantom import HeadPhantom
from inference.phantom_anatomy import Field
from inference.volume import Geometry, GeometryVerdict, Volume

Affine = npt.NDArray[np.float64]

PLANES = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "sagittal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
"""Directions (LPS) in which slice, row and column index rise."""

SCAN_CENTRE_ABOVE_MM = 12.0
"""A head scan reaches from the skull base to above the vertex: so its middle is above."""


def scan_grid(
    phantom: HeadPhantom,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    *,
    plane: str = "axial",
    reverse: bool = False,
    turn_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Affine:
    """Affine (slice, row, column) -> LPS mm of a scan centred on the phantom's head.

    `reverse` stacks the slices the other way; `turn_degrees` (about x, y, z) makes it oblique.
    """
    directions = np.array(PLANES[plane], dtype=np.float64).T
    if reverse:
        directions[:, 0] *= -1
    turned = Rotation.from_euler("xyz", turn_degrees, degrees=True).as_matrix() @ directions
    affine = np.eye(4)
    affine[:3, :3] = turned * np.array(spacing_mm)
    middle = phantom.centre + np.array([0, 0, SCAN_CENTRE_ABOVE_MM])
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def volume_of(hu: Field, affine: Affine, *, modality: str = "CT") -> Volume:
    """A Volume around `hu` [slice, row, column], with empty headers as its sources."""
    grid = hd.Volume(array=hu, affine=affine, coordinate_system="PATIENT")
    verdict = GeometryVerdict(geometry=Geometry.UNIFORM, accepted=True, slices=hu.shape[0])
    return Volume(grid, tuple(Dataset() for _ in hu), verdict, modality)
