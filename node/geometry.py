"""Whether single-frame slices form one uniform stack, and the grid that they lie on.

Patient coordinates are LPS in mm throughout (PS3.3 C.7.6.2.1.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference.assessment import Text
from inference.volume import Geometry, GeometryVerdict

Floats = npt.NDArray[np.float64]

COSINE_TOLERANCE = 1e-3
"""Direction cosines closer than this are one orientation, written with different rounding."""

ORTHONORMAL_TOLERANCE = 5e-3
"""How far row and column directions may be from unit length and from a right angle."""

PIXEL_SPACING_TOLERANCE = 1e-3
"""Pixel spacings that differ by less than this fraction are one spacing."""

SAME_POSITION_MM = 0.02
"""Slices closer than this along the normal lie at one position; no scanner steps so finely."""

SLICE_SHIFT_TOLERANCE = 0.1
"""How far a slice may lie from its even place along the normal, in slice spacings."""

MISSING_SLICE_FACTOR = 1.5
"""A step longer than this many usual steps is a gap, with slices missing in it."""

LATERAL_SHIFT_TOLERANCE = 0.2
"""How far a slice may lie beside the normal through the stack's middle, in pixels."""

MIN_SLICES = 5
"""Fewer parallel slices than this are a survey or a remnant, not a volume."""

MAX_GAPS_NAMED = 3
"""So many gaps are located in the reason; more are only counted."""


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


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel slices in the order of their positions along the normal.

    `order[k]` is the index of the plane that becomes slice k; the normal is the cross product of
    row and column direction, and positions ascend along it. `affine` (4, 4) maps (slice, row,
    column) indices to patient coordinates; it is None where the slices make no grid at all.
    """

    order: tuple[int, ...]
    affine: Floats | None
    verdict: GeometryVerdict


def stack_planes(planes: Sequence[Plane]) -> Stack:
    """Order parallel planes of one matrix and pixel spacing, and judge whether they are a stack.

    The grid is the best uniform one: even steps along the normal by least squares, through the
    middle of all positions; so neither the first slice nor the first pair decides.
    """
    as_given = tuple(range(len(planes)))
    if len(planes) < MIN_SLICES:
        return Stack(as_given, None, _refusal(Geometry.TOO_FEW_SLICES, planes, _too_few(planes)))
    row, column = _orthonormal(planes)
    if row is None or column is None:
        return Stack(as_given, None, _refusal(Geometry.INCONSISTENT, planes, _SKEWED_AXES))
    normal = np.cross(row, column)
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ normal, kind="stable")
    ordered = tuple(int(index) for index in order)
    positions = positions[order]
    along = positions @ normal
    steps = np.diff(along)
    if (steps < SAME_POSITION_MM).any():
        verdict = _refusal(Geometry.DUPLICATED, planes, _duplicated(steps))
        return Stack(ordered, None, verdict)

    numbers = np.arange(len(planes)) - (len(planes) - 1) / 2
    spacing = float(numbers @ along / (numbers @ numbers))
    drift = (numbers @ positions) / (numbers @ numbers) - spacing * normal
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing
    affine[:3, 1] = column * planes[0].row_spacing
    affine[:3, 2] = row * planes[0].column_spacing
    affine[:3, 3] = positions.mean(axis=0) + numbers[0] * spacing * normal

    shifts = positions - (affine[:3, 3] + np.outer(np.arange(len(planes)), affine[:3, 0]))
    along_shift = np.abs(shifts @ normal)
    beside = np.linalg.norm(shifts - np.outer(shifts @ normal, normal), axis=1)
    pixel = min(planes[0].row_spacing, planes[0].column_spacing)
    geometry, reason = Geometry.UNIFORM, None
    if steps.max() > MISSING_SLICE_FACTOR * np.median(steps):
        geometry, reason = Geometry.GAPPED, _gapped(along, steps)
    elif along_shift.max() > SLICE_SHIFT_TOLERANCE * spacing:
        geometry, reason = Geometry.GAPPED, _uneven(steps)
    elif beside.max() > LATERAL_SHIFT_TOLERANCE * pixel:
        unexplained = np.linalg.norm(
            shifts - np.outer(shifts @ normal, normal) - np.outer(numbers, drift), axis=1
        )
        if unexplained.max() > LATERAL_SHIFT_TOLERANCE * pixel:
            geometry, reason = Geometry.INCONSISTENT, _shifted(float(beside.max()))
        else:
            angle = float(np.degrees(np.arctan2(np.linalg.norm(drift), spacing)))
            geometry, reason = Geometry.TILTED, _tilted(angle)
    verdict = GeometryVerdict(
        geometry=geometry,
        accepted=geometry is Geometry.UNIFORM,
        slices=len(planes),
        deviation_mm=_deviation([planes[index] for index in ordered], affine),
        spacing_mm=(spacing, planes[0].row_spacing, planes[0].column_spacing),
        reason=reason,
    )
    return Stack(ordered, affine, verdict)


def _orthonormal(planes: Sequence[Plane]) -> tuple[Floats, Floats] | tuple[None, None]:
    row = np.mean([plane.row_direction for plane in planes], axis=0)
    column = np.mean([plane.column_direction for plane in planes], axis=0)
    error = max(
        abs(float(np.linalg.norm(row)) - 1),
        abs(float(np.linalg.norm(column)) - 1),
        abs(float(row @ column)),
    )
    if error > ORTHONORMAL_TOLERANCE:
        return None, None
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _deviation(planes: Sequence[Plane], affine: Floats) -> float:
    """Largest distance in mm between a slice's corner pixel and its place on the grid."""
    last_row, last_column = planes[0].rows - 1, planes[0].columns - 1
    edges = np.array([[0, 0], [last_row, 0], [0, last_column], [last_row, last_column]])
    in_plane = edges @ affine[:3, 1:3].T + affine[:3, 3]
    return max(
        float(np.linalg.norm(plane.corners() - (in_plane + k * affine[:3, 0]), axis=1).max())
        for k, plane in enumerate(planes)
    )


def _refusal(geometry: Geometry, planes: Sequence[Plane], reason: Text) -> GeometryVerdict:
    return GeometryVerdict(geometry=geometry, accepted=False, slices=len(planes), reason=reason)


_SKEWED_AXES = Text(
    en="The image rows and columns are not at a right angle according to Image Orientation "
    "(Patient), so positions cannot be trusted. Export the series again from the scanner.",
    zh="根据图像方位(患者)，图像的行与列不成直角，位置不可信。请从扫描设备重新导出该序列。",
)


def _too_few(planes: Sequence[Plane]) -> Text:
    return Text(
        en=f"The series has {len(planes)} parallel slice(s); a volume needs at least {MIN_SLICES}. "
        "If slices are missing, send the whole series again.",
        zh=f"该序列只有 {len(planes)} 层平行层面，构成容积至少需要 {MIN_SLICES} 层。"
        "如有层面缺失，请重新发送完整序列。",
    )


def _duplicated(steps: Floats) -> Text:
    images = len(steps) + 1
    places = int((steps >= SAME_POSITION_MM).sum()) + 1
    return Text(
        en=f"{images} images lie at only {places} slice positions: several phases, echoes or "
        "reconstructions share one series, or images were sent twice. "
        "Send each of them as a series of its own.",
        zh=f"{images} 幅图像仅位于 {places} 个层面位置：多个期相、回波或重建混在同一序列中，"
        "或图像被重复发送。请将其分别作为独立序列发送。",
    )


def _gapped(along: Floats, steps: Floats) -> Text:
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > MISSING_SLICE_FACTOR * usual)
    missing = int(sum(round(float(steps[gap]) / usual) - 1 for gap in gaps))
    places = [f"{along[gap]:.1f} – {along[gap + 1]:.1f} mm" for gap in gaps[:MAX_GAPS_NAMED]]
    more = len(gaps) - len(places)
    en_more = f" and {more} more" if more else ""
    zh_more = f" 等另外 {more} 处" if more else ""
    return Text(
        en=f"{missing} slice(s) missing, with the usual step of {usual:.2f} mm: between "
        f"{', '.join(places)}{en_more} along the slice direction. Send the whole series again.",
        zh=f"按常规层间距 {usual:.2f} mm 计，缺失 {missing} 层：沿层面方向 "
        f"{'、'.join(places)}{zh_more} 之间。请重新发送完整序列。",
    )


def _uneven(steps: Floats) -> Text:
    return Text(
        en=f"The distance between slices varies from {steps.min():.2f} to {steps.max():.2f} mm. "
        "Reconstruct the series with one slice spacing.",
        zh=f"层间距在 {steps.min():.2f} 至 {steps.max():.2f} mm 之间变化。"
        "请以单一层间距重建该序列。",
    )


def _shifted(largest: float) -> Text:
    return Text(
        en=f"Slices are shifted sideways against each other by up to {largest:.1f} mm, as when "
        "two acquisitions or fields of view are mixed. "
        "Send each acquisition as a series of its own.",
        zh=f"各层面之间存在最大 {largest:.1f} mm 的侧向偏移，如同混合了两次采集或不同视野。"
        "请将每次采集分别作为独立序列发送。",
    )


def _tilted(angle: float) -> Text:
    return Text(
        en=f"The slices are sheared by a gantry tilt of {angle:.1f} degrees. Send a reconstruction "
        "without tilt, or repeat with the gantry at 0 degrees if clinically warranted.",
        zh=f"扫描架倾斜 {angle:.1f} 度，层面呈剪切排列。请发送无倾斜的重建序列；"
        "如临床需要，可将扫描架置于 0 度重新扫描。",
    )
