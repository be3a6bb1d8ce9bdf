"""A picture of a volume's three middle planes, to see at a glance whether it is right.

As radiologists look at it: the patient's right is at the left of axial and coronal planes, and
sagittal ones look to the left of the picture. Each side has the letters of where it points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from inference.volume import Volume
from node.instances import numbers_of

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

PANEL = 480
"""Height and width of each plane's panel in pixels; all three have one scale."""

MARGIN = 26
"""Around a panel, for its letters."""

OBLIQUE = 0.26
"""A side is named for a second axis too from this cosine on: a turn of 15 degrees."""

CT_WINDOW = (-160.0, 240.0)
"""Soft tissue, where the images have no window of their own."""

MR_PERCENTILES = (1.0, 99.5)

GREEN, GREY = (120, 220, 140), (70, 70, 70)


class _View(NamedTuple):
    """How a plane of the canonical volume (axes towards R, A, S) is shown.

    `fixed` is the axis through it; the picture's rows and columns run against the axes `down` and
    `across`, so that right, anterior and superior end up where radiologists expect them.
    """

    fixed: int
    across: int
    down: int


VIEWS = (_View(2, 0, 1), _View(1, 0, 2), _View(0, 1, 2))
"""Axial, coronal, sagittal."""


def three_planes(
    image: nibabel.Nifti1Image, window: tuple[float, float], point: Sequence[float] | None = None
) -> Image.Image:
    """Draw the planes of the voxel grid through `point`, by default through the middle.

    `point` is LPS mm; it is marked where it is given. `image` is as `nifti_image` makes it,
    `window` the values of black and white. Planes are those of the voxels, nothing is interpolated
    between slices: an oblique volume is shown as it was acquired. Raises ValueError where the
    point is not in the volume.
    """
    canonical = nibabel.as_closest_canonical(image)
    affine: Floats = canonical.affine
    voxels = np.asanyarray(canonical.dataobj)
    extents = np.array(canonical.shape)
    centre = (extents - 1) / 2 if point is None else _indices(affine, point)
    index = np.rint(centre).astype(int)
    if (index < 0).any() or (index >= extents).any():
        raise ValueError("the point lies outside the volume")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    scale = PANEL / float((extents * spacing).max())
    side = PANEL + 2 * MARGIN
    sheet = Image.new("RGB", (len(VIEWS) * side, side))
    for number, view in enumerate(VIEWS):
        plane = np.moveaxis(voxels, view.fixed, 0)[index[view.fixed]]
        shown = _shades(plane[::-1, ::-1].T, window)
        size = [
            max(1, round(float(extents[axis] * spacing[axis]) * scale))
            for axis in (view.across, view.down)
        ]
        panel = Image.fromarray(shown).resize((size[0], size[1]), Image.Resampling.BILINEAR)
        left = number * side + (side - size[0]) // 2
        top = (side - size[1]) // 2
        sheet.paste(panel.convert("RGB"), (left, top))
        _letter(sheet, affine, view, (number * side, side))
        if point is not None:
            from_right = (extents - 1 - centre + 0.5) * spacing * scale
            _mark(sheet, left + from_right[view.across], top + from_right[view.down])
    return sheet


def window_of(volume: Volume) -> tuple[float, float]:
    """Values of black and white: for CT what the images ask for, for MR what they contain."""
    if volume.modality == "CT":
        header = volume.sources[len(volume.sources) // 2]
        centre, width = (
            numbers_of(header, keyword, 1) for keyword in ("WindowCenter", "WindowWidth")
        )
        if centre is None or width is None or width[0] < 1:
            return CT_WINDOW
        return centre[0] - width[0] / 2, centre[0] + width[0] / 2
    low, high = np.percentile(volume.grid.array[:, ::2, ::2], MR_PERCENTILES)
    return float(low), float(high)


def sides(direction: Floats) -> str:
    """Letters of where an RAS direction points, the strongest first (PS3.3 C.7.6.1.1.1)."""
    cosines = direction / np.linalg.norm(direction)
    names = ["RAS"[axis] if cosines[axis] > 0 else "LPI"[axis] for axis in range(3)]
    strongest = np.argsort(-np.abs(cosines), kind="stable")
    return "".join(
        names[axis]
        for place, axis in enumerate(strongest)
        if place == 0 or abs(cosines[axis]) >= OBLIQUE
    )


def _indices(affine: Floats, point: Sequence[float]) -> Floats:
    ras = (-point[0], -point[1], point[2], 1.0)
    found: Floats = (np.linalg.inv(affine) @ ras)[:3]
    return found


def _shades(plane: npt.NDArray[np.float32], window: tuple[float, float]) -> Bytes:
    low, high = window
    shades = (plane - low) * (255 / max(high - low, 1e-6))
    return np.ascontiguousarray(shades.clip(0, 255).astype(np.uint8))


def _letter(sheet: Image.Image, affine: Floats, view: _View, place: tuple[int, int]) -> None:
    """Write on each side of a panel where the patient's sides are; `place` is left and size."""
    left, size = place
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    draw.rectangle((left, 0, left + size - 1, size - 1), outline=GREY)
    middle, edge = size / 2, MARGIN / 2
    across, down = affine[:3, view.across], affine[:3, view.down]
    for text, x, y, anchor in (
        (sides(across), 4, middle, "lm"),
        (sides(-across), size - 4, middle, "rm"),
        (sides(down), middle, edge, "mm"),
        (sides(-down), middle, size - edge, "mm"),
    ):
        draw.text(
            (left + x, y), text, GREEN, font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0)
        )


def _mark(sheet: Image.Image, x: float, y: float) -> None:
    """Draw four short lines around a point, which leave it free."""
    draw = ImageDraw.Draw(sheet)
    for along_x, along_y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        start = (x + 6 * along_x, y + 6 * along_y)
        draw.line((*start, x + 18 * along_x, y + 18 * along_y), GREEN, 1)
