"""The model grid and how volumes are brought on it: the same for training and for the manifest."""

from inference.manifest import HeadGrid, Plausibility

GRID = (64, 80, 64)
SPACING_MM = 2.5

WINDOWS_HU = ((-20.0, 120.0), (-200.0, 1000.0))
"""Brain with blood, and everything up to bone."""

PLAUSIBILITY = Plausibility(
    max_spacing_mm=7.0,
    min_coverage_mm=85.0,
    min_slices=12,
    bone_hu=250.0,
    tissue_hu=(-15.0, 110.0),
    min_enclosed_area_cm2=50.0,
    min_enclosed_mm=35.0,
    min_tissue_fraction=0.85,
)

PREPROCESSING = HeadGrid(
    modality="CT",
    spacing_mm=(SPACING_MM, SPACING_MM, SPACING_MM),
    size=GRID,
    interpolation="linear",
    windows_hu=WINDOWS_HU,
    foreground_hu=-300.0,
    centre_below_vertex_mm=72.0,
    plausibility=PLAUSIBILITY,
)
