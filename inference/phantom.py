"""Simulated CT heads with known truth, evaluated on any grid in patient coordinates.

The built-in model is trained and tested on these heads, and the demonstration sends one. A phantom
is made from a seed alone; `render` then gives its Hounsfield units and the true haemorrhage on
whatever grid a scanner (axial, sagittal, oblique, either slice order) or a model asks for.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from inference.assessment import Laterality, Mask
from inference.phantom_anatomy import (
    AIR,
    CSF,
    DEEP_GREY,
    FAT,
    GREY,
    MUSCLE,
    PETROUS,
    SKIN,
    SKULL_BASE,
    WHITE,
    Field,
    SliceWindow,
    depth_table,
    distractors,
    look_up,
    noise_field,
    paint,
    paint_holder,
    touched,
    ventricles,
)
from inference.phantom_lesion import Lesion, draw_lesion, measure

__all__ = ["HeadPhantom", "Lesion"]

DEEP = np.float32(60.0)
"""A depth in mm at which nothing changes any more: stands in where depth does not matter."""

FAR_MM = 99.0
"""A distance at which a thin structure is not there."""

COARSE_STEP_MM = 2.0
"""Smooth fields of a slice are computed on points about this far apart."""


class HeadPhantom:
    """One simulated head. `haemorrhage` None lets the seed decide (about half have one).

    `pose` fixes (rotation vector in degrees, LPS centre in mm); by default the seed draws up to
    about 15 degrees and 25 mm. `diameter_mm` fixes the haemorrhage's size, `side` its side.
    """

    def __init__(
        self,
        seed: int,
        *,
        haemorrhage: bool | None = None,
        diameter_mm: float | None = None,
        side: Laterality | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        turn = rng.normal(0, (5.0, 4.0, 5.0)).clip(-15, 15)
        self.rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
        self.centre = rng.uniform(-25, 25, 3)
        size = rng.uniform(0.92, 1.07)
        self._half = np.array([78, 96, 84]) * size * rng.uniform(0.97, 1.03, 3)
        self._scalp = rng.uniform(3.5, 7.0)
        self._skull = rng.uniform(4.5, 8.0)
        self._csf = rng.uniform(1.0, 3.5)
        self._atrophy = rng.uniform(0.2, 1.0)
        self._floor = (rng.uniform(0.18, 0.3), rng.uniform(-48, -40))
        self._cupping = rng.uniform(0, 7)
        self._bias = rng.normal(0, 1.5)
        self._contrast = rng.uniform(0.6, 1.3)
        self._noise = rng.uniform(3.0, 9.0)
        self._holder = rng.random() < 0.7
        self._falx_hu, self._vessel_hu = rng.uniform(42, 56), rng.uniform(42, 62)
        self._warp, self._texture = noise_field(rng, 16.0), noise_field(rng, 4.5)
        self._ventricles = ventricles(rng.uniform(0.7, 1.7))
        self._distractors = distractors(rng, self._vessel_hu)
        present = rng.random() < 0.5 if haemorrhage is None else haemorrhage
        self._shape = (
            draw_lesion(rng, self._depth_inside, diameter_mm=diameter_mm, side=side)
            if present
            else None
        )
        self.lesion: Lesion | None = None
        if self._shape is not None:
            noise = self._warp, self._texture
            self.lesion = measure(
                self._shape, self._depth_inside, noise, self.rotation, self.centre
            )

    def render(
        self,
        affine: npt.NDArray[np.float64],
        shape: tuple[int, int, int],
        *,
        noise: bool = True,
    ) -> tuple[Field, Mask]:
        """HU (float32) and true haemorrhage (bool), both [slice, row, column].

        `affine` (4, 4) maps (slice, row, column) to LPS mm; slices are as thick as their spacing.
        Scanner noise depends on the seed, not on what was rendered before.
        """
        hu = np.full(shape, AIR, dtype=np.float32)
        truth = np.zeros(shape, dtype=bool)
        to_head = self.rotation.T @ (affine[:3, :3])
        origin = self.rotation.T @ (affine[:3, 3] - self.centre)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        parts = int(np.clip(round(spacing[0] / 2.5), 1, 4))
        offsets = (np.arange(parts) + 0.5) / parts - 0.5
        tables = self._tables(float(spacing[1:].max()))
        for index in range(shape[0]):
            filled = np.zeros(shape[1:], dtype=np.float32)
            for offset in offsets:
                start = origin + to_head[:, 0] * (index + offset)
                self._add_slice(
                    hu[index], filled, to_head[:, 1:], start, tables=tables, parts=parts
                )
            truth[index] = filled >= 0.5
        if noise:
            self._add_noise(hu, spacing)
        return hu, truth

    def _tables(self, pixel_mm: float) -> tuple[Field, Field]:
        skull, csf = self._skull, self._csf
        bone = [
            (-skull, FAT),
            (-skull + 0.4, 1150.0),
            (-skull * 0.65, 1000.0),
            (-skull * 0.5, 550.0),
            (-skull * 0.35, 1000.0),
            (-0.4, 1250.0),
        ]
        brain = [
            (0.0, CSF + 2),
            (csf, CSF + 4),
            (csf + 1.0, GREY + self._cupping),
            (csf + 4.0, GREY + self._cupping * 0.7),
            (csf + 6.0, WHITE + self._cupping * 0.5),
            (40.0, WHITE),
        ]
        body = [
            (-0.3, AIR),
            (0.3, SKIN),
            (1.8, SKIN),
            (2.6, FAT),
            (self._scalp, FAT + 20),
            (self._scalp + 3, MUSCLE - 20),
            (20.0, MUSCLE),
        ]
        blur = 0.35 * max(pixel_mm, 0.5)
        return depth_table(body, blur), depth_table(bone + brain, blur)

    def _add_slice(
        self,
        image: Field,
        filled: Field,
        matrix: npt.NDArray[np.float64],
        origin: npt.NDArray[np.float64],
        *,
        tables: tuple[Field, Field],
        parts: int,
    ) -> None:
        """Add one thin plane, weighted 1/parts, to the slice and to the lesion's fill."""
        area = touched(matrix, origin, (image.shape[0], image.shape[1]))
        if area is None:
            return
        rows, columns = area
        start = origin + matrix @ (rows.start, columns.start)
        pixel_mm = float(np.linalg.norm(matrix, axis=0).max())
        stride = max(1, round(COARSE_STEP_MM / pixel_mm))
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        window = SliceWindow(matrix, start, shape, stride, max(0.8, pixel_mm))
        plane, lesion = self._plane(window, tables)
        image[area] += (plane - AIR) / parts
        filled[area] += lesion / parts

    def _plane(self, window: SliceWindow, tables: tuple[Field, Field]) -> tuple[Field, Field]:
        x, y, z = window.coarse
        warp, coarse_texture = window.sample(self._warp), window.sample(self._texture)
        body, inside = self._depths(window.coarse, warp)
        depth, texture = window.fine(inside), window.fine(coarse_texture)
        surface = window.fine(body)
        plane = look_up(tables[0], surface)
        plane += (surface > 12) * np.clip(texture - 0.6, 0, 1) * np.float32(FAT - MUSCLE)
        outside = (depth < 0).astype(np.float32)
        paint(plane, window, SKULL_BASE, warp, outside * (surface > 3))
        cranial = depth > -self._skull
        cortex = np.float32(self._csf + 1.5)
        folded = np.where(depth > cortex, np.maximum(depth + 2.5 * texture, cortex), depth)
        head = look_up(tables[1], np.where(cranial, folded, DEEP))
        sulci = np.clip(1 - np.abs(texture) * 4, 0, 1) * np.clip((14 - depth) / 8, 0, 1)
        head += (depth > 1) * (
            np.clip(texture, -1.5, 1.5) * np.float32(2.5 * self._contrast)
            + window.fine(warp) * np.float32(1.5)
            - sulci * np.float32(24 * self._atrophy)
            + np.float32(self._bias)
        )
        np.copyto(plane, head, where=cranial)
        brain = np.clip(depth, 0, 1)
        paint(plane, window, DEEP_GREY, warp, brain)
        paint(plane, window, self._ventricles, warp, brain)
        self._paint_dura(plane, window, depth, (x, y, z), warp)
        paint(plane, window, self._distractors, warp, brain)
        paint(plane, window, PETROUS, warp, (surface > 4).astype(np.float32))
        lesion = self._paint_lesion(plane, window, (inside, warp, coarse_texture), brain, texture)
        if self._holder:
            paint_holder(plane, window)
        return plane, lesion

    def _depths(self, points: Field, warp: Field) -> tuple[Field, Field]:
        """Depth in mm below the skin, and below the inner table of the skull, at `points`."""
        x, y, z = points
        a, b, c = self._half.astype(np.float32)
        radius = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) + 1e-6
        slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2) + 1e-3
        cranium = (1 - radius) * radius / slope + 1.2 * warp
        neck = np.minimum((1 - np.hypot(x / 62, (y + 8) / 84)) * 62, -12 - z)
        slope_y, level = self._floor
        floor = z - (level - slope_y * y) + 2.5 * warp
        inside = np.minimum(cranium - (self._scalp + self._skull), floor)
        return np.maximum(cranium, neck), inside

    def _depth_inside(self, points: Field, warp: Field) -> Field:
        return self._depths(points, warp)[1]

    def _paint_dura(
        self,
        plane: Field,
        window: SliceWindow,
        depth: Field,
        points: tuple[Field, Field, Field],
        warp: Field,
    ) -> None:
        """Falx, tentorium and the superior sagittal sinus: normal, thin and slightly bright."""
        x, y, z = points
        falx = np.where((z > 12) | (y < -30) | (y > 45), np.abs(x + 1.2 * warp), FAR_MM)
        tent = np.where(y > 8 + 0.3 * np.abs(x), np.abs(z + 4 + 0.42 * np.abs(x)), FAR_MM)
        sinus = np.where((z > 10) | (y > 50), np.abs(x) - 1.0, FAR_MM)
        for sheet, thickness_mm, reach_mm, hu in (
            (falx, 0.9, 38.0, self._falx_hu),
            (tent, 0.8, FAR_MM, self._falx_hu),
            (sinus, 4.5, 5.0, self._vessel_hu),
        ):
            found = window.below(sheet.astype(np.float32), thickness_mm + window.soft_mm)
            if found is None:
                continue
            area, distance = found
            inward = depth[area]
            # The sinus is a wedge that narrows with depth; the dural sheets do not.
            taper = inward if sheet is sinus else 0
            fill = np.clip((thickness_mm - distance - taper) / window.soft_mm + 0.5, 0, 1)
            fill *= (inward > 0) & (inward < reach_mm)
            plane[area] += fill * np.clip(np.float32(hu) - plane[area], 0, 60)

    def _paint_lesion(
        self,
        plane: Field,
        window: SliceWindow,
        coarse: tuple[Field, Field, Field],
        brain: Field,
        texture: Field,
    ) -> Field:
        """Paint the haemorrhage; returns how much of each pixel it fills.

        `coarse` are depth below the skull, warp and texture at the window's coarse points.
        """
        fill = np.zeros(window.shape, dtype=np.float32)
        shape = self._shape
        if shape is None:
            return fill
        excess = shape.excess_mm(window.coarse, *coarse)
        if float(excess.max()) < -shape.oedema_mm - 6:
            return fill
        margin = window.fine(excess)
        oedema = np.clip(1 + margin / max(shape.oedema_mm, 0.5), 0, 1) * (shape.oedema_mm > 0.5)
        plane -= 9 * oedema * brain * (plane > WHITE - 6) * (plane < 60)
        fill = np.clip(margin / np.float32(window.soft_mm) + 0.5, 0, 1) * brain
        plane += fill * (np.float32(shape.hu) + 3 * texture - plane)
        return np.asarray(fill, dtype=np.float32)

    def _add_noise(self, hu: Field, spacing: npt.NDArray[np.float64]) -> None:
        """Quantum noise: correlated over about a pixel, less in larger voxels."""
        rng = np.random.default_rng([self.seed, 1])
        sigma = self._noise * float(np.clip(np.prod(spacing) ** -0.5, 0.35, 1.5))
        tile = rng.standard_normal((hu.shape[1] + 64, hu.shape[2] + 64), dtype=np.float32)
        tile = ndimage.gaussian_filter(tile, 0.6)
        tile *= np.float32(sigma / tile.std())
        for index in range(hu.shape[0]):
            row, column = rng.integers(0, 64, 2)
            part = tile[row : row + hu.shape[1], column : column + hu.shape[2]]
            hu[index] += part if rng.random() < 0.5 else -part
