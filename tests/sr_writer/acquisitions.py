"""Simulated series that are no even stack of single-frame images, and where their pixels lie."""

import numpy as np

from tests.sr_writer.series import LESION_AT, LESION_RADIUS_MM, OBLIQUE, SAGITTAL, make_volume

UNEVEN = (*range(10), *range(11, 40, 2))
"""Slices of the grid with an image: thin below, thick above."""
GAPPED = (*range(16), *range(18, 26))
"""Two images are missing in the middle of the lesion."""

_FINE = {"shape": (24, 64, 56), "spacing": (6.0, 2.9, 2.7)}

ACQUISITIONS = {
    "tilted": {**_FINE, "tilt": 17.0},
    "tilted backwards": {**_FINE, "tilt": -22.5, "descending": True},
    "oblique, tilted": {**_FINE, "tilt": 12.0, "orientation": OBLIQUE},
    "uneven": {**_FINE, "shape": (25, 64, 56), "spacing": (3.0, 2.9, 2.7), "slots": UNEVEN},
    "gapped": {**_FINE, "slots": GAPPED},
    "tilted, gapped": {**_FINE, "slots": GAPPED, "tilt": 15.0},
    "enhanced": {**_FINE, "stored": "enhanced"},
    "enhanced MR, tilted, gapped": {
        **_FINE,
        "slots": GAPPED,
        "tilt": 9.0,
        "stored": "enhanced",
        "modality": "MR",
        "orientation": SAGITTAL,
        "descending": True,
    },
    "mosaic": {**_FINE, "stored": "mosaic", "modality": "MR"},
}


def acquired(name):
    """The volume of an acquisition."""
    return make_volume(**ACQUISITIONS[name])


def pixel_points(source):
    """Patient coordinates of a source's pixel centres, [row, column, xyz] (PS3.3 C.7.6.2.1.1)."""
    row, column = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, source.PixelSpacing)
    rows = np.arange(source.Rows)[:, None, None] * between_rows * column
    columns = np.arange(source.Columns)[None, :, None] * between_columns * row
    return np.array(source.ImagePositionPatient, float) + rows + columns


def in_lesion(points):
    """Which points lie in the simulated lesion."""
    return np.linalg.norm(points - LESION_AT, axis=-1) < LESION_RADIUS_MM
