"""Pictures of the key images with what was found on them, for people without a DICOM viewer.

A picture shows an image of the source, counted and placed as the radiologist's viewer has it.
Segments are drawn; a finding that slices alone show is named on these, since nothing outlines it.

A picture carries on itself what it must not be separated from: patient sides, slice position, that
an AI drew it and nobody verified it. It carries nothing that identifies the patient.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from inference.assessment import (
    Assessment,
    AssessmentRecord,
    Evidence,
    Finding,
    LabelMap,
    Mask,
    ModelIdentity,
    Presence,
)
from inference.volume import Volume
from sr_writer.source_images import on_images

LONGER_SIDE = 768
"""Pixels of the longer side of a picture; shorter pixels of the source are enlarged to match."""

FOOTER_HEIGHT = 36
"""Rows below the picture for the warning, so that it hides nothing."""
UNVERIFIED = "AI, unverified"
DEMONSTRATION = "DEMONSTRATION, not for clinical use"
NO_OUTLINE = " (no outline)"
INTERPOLATED = ", interpolated"

FILL_OPACITY = 0.15
CONTOUR_PIXELS = 2
MARGIN = 12
FONT_SIZE = 20
LETTER_SIZE = 28
WHITE = (255, 255, 255)
AMBER = (255, 200, 60)
BLACK = (0, 0, 0)

SEGMENT_COLOURS = (
    (255, 70, 70),
    (90, 210, 90),
    (80, 150, 255),
    (250, 210, 60),
    (225, 95, 225),
    (70, 215, 215),
)

BRAIN_WINDOW = (40.0, 80.0)
"""Centre and width in HU, where the CT series does not bring a window of its own."""
PERCENTILES = (1.0, 99.0)
"""What is black and white where values have no unit (MR), over every third voxel each way."""
SAMPLING = 3

OBLIQUE_FRACTION = 0.25
"""Share of a direction's main component above which another one gets a letter too."""
AXES = (("L", "R"), ("P", "A"), ("H", "F"))
"""Letters of increasing and decreasing LPS coordinates (PS3.3 C.7.6.1.1.1)."""

OWN_VOXELS = 0.05
"""An image whose pixels lie no farther from voxels of the grid is shown as it was measured."""

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class KeyImage:
    """A picture of the image `index` of the volume's sources, uint8 [row, column, RGB].

    `shows` names the segments and findings that are on it, in English.
    """

    index: int
    pixels: Picture
    shows: tuple[str, ...]


def draw_key_images(assessment: Assessment, volume: Volume) -> list[KeyImage]:
    """Return a picture of every key image, in the assessment's order.

    The best slice of a finding that nothing outlines is one, whether the assessment says so or not.
    A key slice of a resampled volume is the nearest image that shows what was outlined on it.
    """
    window = display_window(volume)
    there = on_images(assessment, volume)
    best = (evidence.best_slice for _, evidence in _on_slices(there.record))
    return [
        _draw(there, volume, index, window)
        for index in dict.fromkeys((*there.record.key_slices, *best))
    ]


def draw_key_slices(assessment: Assessment, volume: Volume) -> list[tuple[int, bytes]]:
    """Return (index into the volume's sources, PNG) of every key image."""
    return [(image.index, _png(image)) for image in draw_key_images(assessment, volume)]


def _png(image: KeyImage) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image.pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _on_slices(record: AssessmentRecord) -> list[tuple[Finding, Evidence]]:
    """Return the findings that are present and have slices for evidence, but no segment."""
    return [
        (finding, finding.evidence)
        for finding in record.findings
        if finding.presence is Presence.PRESENT
        and finding.evidence is not None
        and finding.evidence.segment is None
    ]


def _draw(
    assessment: Assessment, volume: Volume, index: int, window: tuple[float, float]
) -> KeyImage:
    width, height = _size(volume)
    grey = Image.fromarray(_windowed(_pixels(volume, index), window)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    picture = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    legend = []
    for segment in assessment.record.segments:
        colour = SEGMENT_COLOURS[(segment.number - 1) % len(SEGMENT_COLOURS)]
        mask = _enlarged(covered(assessment, segment.number, index), (width, height))
        if mask.any():
            picture = _overlay(picture, mask, colour)
            legend.append((segment.label, colour))
    legend += [
        (finding.code.meaning + NO_OUTLINE, WHITE)
        for finding, evidence in _on_slices(assessment.record)
        if index in (*evidence.slices, evidence.best_slice)
    ]
    image = Image.new("RGB", (width, height + FOOTER_HEIGHT))
    image.paste(Image.fromarray(picture))
    _annotate(image, assessment, volume, index, legend)
    return KeyImage(index, np.array(image), tuple(label for label, _ in legend))


def _pixels(volume: Volume, index: int) -> npt.NDArray[np.generic]:
    """Return the voxels that the pixels of an image lie in, [row, column], as its masks have it."""
    plane: npt.NDArray[np.generic] = volume.grid.array[volume.slice_of(index)]
    if not volume.verdict.resampled:
        return plane
    _, top, left = np.rint(volume.first_pixels()[index]).astype(int)
    header = volume.sources[index]
    rows = np.clip(np.arange(top, top + header.Rows), 0, plane.shape[0] - 1)
    columns = np.clip(np.arange(left, left + header.Columns), 0, plane.shape[1] - 1)
    found: npt.NDArray[np.generic] = plane[np.ix_(rows, columns)]
    return found


def _is_interpolated(volume: Volume, index: int) -> bool:
    first = volume.first_pixels()[index]
    return volume.verdict.resampled and bool(np.abs(first - np.rint(first)).max() > OWN_VOXELS)


def display_window(volume: Volume) -> tuple[float, float]:
    """Return the values that become black and white."""
    if volume.modality == "CT":
        centre, width = _own_window(volume) or BRAIN_WINDOW
        return centre - width / 2, centre + width / 2
    sampled = volume.grid.array[::SAMPLING, ::SAMPLING, ::SAMPLING]
    low, high = np.percentile(sampled, PERCENTILES)
    return float(low), float(max(high, low + 1))


def _own_window(volume: Volume) -> tuple[float, float] | None:
    header = volume.sources[len(volume.sources) // 2]
    values = [
        np.atleast_1d(np.asarray(header.get(keyword, []) or [], dtype=float))
        for keyword in ("WindowCenter", "WindowWidth")
    ]
    if any(each.size == 0 for each in values) or values[1][0] < 1:
        return None
    return float(values[0][0]), float(values[1][0])


def _windowed(plane: npt.NDArray[np.generic], window: tuple[float, float]) -> Picture:
    low, high = window
    scaled = (plane.astype(np.float32) - low) * (255.0 / (high - low))
    return np.asarray(np.clip(scaled, 0, 255), dtype=np.uint8)


def _size(volume: Volume) -> tuple[int, int]:
    """Return width and height in which a millimetre is as wide as it is high."""
    first = volume.sources[0]
    _, row_spacing, column_spacing = volume.grid.spacing
    wide, high = int(first.Columns) * column_spacing, int(first.Rows) * row_spacing
    scale = LONGER_SIDE / max(wide, high)
    return round(wide * scale), round(high * scale)


def covered(assessment: Assessment, segment: int, index: int) -> Mask:
    """Return what a segment covers of one slice, [row, column], whatever form the masks have."""
    masks = assessment.masks
    if isinstance(masks, LabelMap):
        plane: Mask = masks.labels[index] == segment
        return plane
    found: Mask = masks[segment][index]
    return found


def _enlarged(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=bool)


def _overlay(picture: Picture, mask: Mask, colour: tuple[int, int, int]) -> Picture:
    """Return the picture with the mask tinted and its inner edge drawn opaque."""
    inner = mask
    for _ in range(CONTOUR_PIXELS):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    painted = picture.astype(np.float32)
    painted[mask] += FILL_OPACITY * (np.array(colour) - painted[mask])
    painted[mask & ~inner] = colour
    return painted.astype(np.uint8)


def _annotate(
    image: Image.Image,
    assessment: Assessment,
    volume: Volume,
    index: int,
    legend: list[tuple[str, tuple[int, int, int]]],
) -> None:
    draw = ImageDraw.Draw(image)
    width, height = image.width, image.height - FOOTER_HEIGHT
    affine = volume.grid.affine
    right, down = patient_orientation(volume)
    left, up = sides(-affine[:3, 2]), sides(-affine[:3, 1])
    for letters, place, anchor in (
        (left, (MARGIN, height / 2), "lm"),
        (right, (width - MARGIN, height / 2), "rm"),
        (up, (width / 2, MARGIN), "ma"),
        (down, (width / 2, height - MARGIN), "md"),
    ):
        _write(draw, place, letters, colour=WHITE, anchor=anchor, size=LETTER_SIZE)
    number = f"Slice {index + 1} of {len(volume.sources)}"
    number += INTERPOLATED if _is_interpolated(volume, index) else ""
    lines = [(number, WHITE), (_position(volume, index), WHITE), *legend]
    for row, (line, colour) in enumerate(lines):
        corner = (MARGIN, MARGIN + row * (FONT_SIZE + 4))
        _write(draw, corner, line, colour=colour, anchor="la", size=FONT_SIZE)
    footer = (width / 2, height + FOOTER_HEIGHT / 2)
    said = warning(assessment.record.model)
    _write(draw, footer, said, colour=AMBER, anchor="mm", size=FONT_SIZE)


def warning(model: ModelIdentity) -> str:
    """Return what stands on every picture."""
    return f"{UNVERIFIED}. {DEMONSTRATION}" if model.demonstration else UNVERIFIED


def patient_orientation(volume: Volume) -> tuple[str, str]:
    """Return the patient sides to the right of an image and below it (PS3.3 C.7.6.1.1.1)."""
    affine = volume.grid.affine
    return sides(affine[:3, 2]), sides(affine[:3, 1])


def sides(direction: npt.NDArray[np.floating]) -> str:
    """Return the patient side that a direction (LPS) points to, main side first: `L`, `PH`, ..."""
    sizes = np.abs(direction)
    named = [axis for axis in np.argsort(-sizes) if sizes[axis] > OBLIQUE_FRACTION * sizes.max()]
    return "".join(AXES[axis][0 if direction[axis] > 0 else 1] for axis in named)


def _position(volume: Volume, index: int) -> str:
    """Return where the centre of an image lies along the patient axis that the stack runs in."""
    header, affine = volume.sources[index], volume.grid.affine
    to_centre = np.array([(int(header.Rows) - 1) / 2, (int(header.Columns) - 1) / 2])
    centre = np.array(header.ImagePositionPatient, dtype=float) + affine[:3, 1:3] @ to_centre
    axis = int(np.abs(affine[:3, 0]).argmax())
    return f"{AXES[axis][0 if centre[axis] >= 0 else 1]} {abs(centre[axis]):.1f} mm"


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    colour: tuple[int, int, int],
    anchor: str,
    size: int,
) -> None:
    """Write text that can be read on black and on white."""
    font = ImageFont.load_default(size)
    draw.text(place, text, fill=colour, anchor=anchor, font=font, stroke_width=2, stroke_fill=BLACK)
