"""Where one image lies in the patient, and whether two lie alike.

Patient coordinates are LPS in mm throughout (PS3.3 C.7.6.2.1.1).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

COSINE_TOLERANCE = 1e-3
"""Direction cosines closer than this are one orientation, written with different rounding."""

PIXEL_SPACING_TOLERANCE = 1e-3
"""Pixel spacings that differ by less than this fraction are one spacing."""


@dataclass(frozen=True, eq=False)
class Plane:
    """Where one slice lies: its Image Plane attributes (PS3.3 C.7.6.2)."""

    position: Floats
    """Patient coordinates of the centre of the first pixel, shape (3,)."""
    row_direction: Floats
    """Cosines along which the column index grows, shape (3,)."""
    column_direction: Floats
    """Cosines along which the row index grows, shape (3,)."""
    row_spacing: float
    """Distance between rows, the first value of Pixel Spacing."""
    column_spacing: float
    """Distance between columns, the second value of Pixel Spacing."""
    rows: int
    columns: int
    thickness: float | None = None
    """Slice Thickness in mm, None where it is not given."""

    def is_parallel(self, other: "Plane") -> bool:
        """Tell whether both are the same orientation, within `COSINE_TOLERANCE`."""
        return (
            float(np.abs(self.row_direction - other.row_direction).max()) < COSINE_TOLERANCE
            and float(np.abs(self.column_direction - other.column_direction).max())
            < COSINE_TOLERANCE
        )

    def has_spacing_of(self, other: "Plane") -> bool:
        """Tell whether both have the same pixel spacing, within `PIXEL_SPACING_TOLERANCE`."""
        return (
            abs(self.row_spacing / other.row_spacing - 1) < PIXEL_SPACING_TOLERANCE
            and abs(self.column_spacing / other.column_spacing - 1) < PIXEL_SPACING_TOLERANCE
        )

    def corners(self) -> Floats:
        """Patient coordinates of the four corner pixels' centres, shape (4, 3)."""
        down = self.column_direction * self.row_spacing * (self.rows - 1)
        across = self.row_direction * self.column_spacing * (self.columns - 1)
        corners: Floats = self.position + np.array([0 * down, down, across, down + across])
        return corners
