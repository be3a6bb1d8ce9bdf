"""The images that results lie on and refer to, as the radiologist's viewer has them.

A volume may be resampled and its images may be frames of one instance or tiles of a mosaic; here
what was said of the slices of its grid becomes what is said of its images.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from inference.assessment import Assessment, Evidence, Finding, Mask
from inference.volume import Volume
from sr_writer.header import plain_headers

Reference = tuple[str, int | None]
"""What a reference names: a SOP Instance UID and a frame number, None for the whole instance."""

Depths = npt.NDArray[np.float64]
"""Where images lie along the first axis of the grid, in its slices."""

EVEN_STEP_TOLERANCE = 0.05
"""How far an image may lie from its place in an even stack, in steps; as `node.geometry` has it."""


@dataclass(frozen=True, eq=False)
class SourceImage:
    """One image: its plain header, and its frame number where it is a frame of its instance.

    A tile of a mosaic has no number of its own: a reference can only name the whole mosaic.
    """

    header: Dataset
    frame: int | None = None
    is_tile: bool = False

    @property
    def reference(self) -> Reference:
        """What names this image in a reference."""
        return str(self.header.SOPInstanceUID), self.frame


def source_images(volume: Volume) -> list[SourceImage]:
    """Return the images of a volume, in the order of its slices.

    Raises ValueError where one does not say which object it is.
    """
    headers = plain_headers(volume.sources)
    numbers = volume.frame_numbers or repeat(None)
    images = [SourceImage(header, number) for header, number in zip(headers, numbers, strict=False)]
    times = Counter(image.reference for image in images)
    return [
        SourceImage(image.header, image.frame, is_tile=times[image.reference] > 1)
        for image in images
    ]


def each_once(images: Iterable[SourceImage]) -> list[SourceImage]:
    """Return the first image of each reference, in the order given."""
    first: dict[Reference, SourceImage] = {}
    for image in images:
        first.setdefault(image.reference, image)
    return list(first.values())


def reference_of(item: Dataset) -> Reference:
    """Return what an item of a sequence of references names (PS3.3 Table 10-3)."""
    number = item.get("ReferencedFrameNumber")
    return str(item.get("ReferencedSOPInstanceUID")), None if number is None else int(number)


def even_step(headers: Sequence[Dataset]) -> float | None:
    """Return the distance in mm of neighbouring images along their normal, None where it varies."""
    along = places(headers)
    numbers = np.arange(len(along))
    step, start = np.polyfit(numbers, along, 1)
    if np.abs(along - (start + step * numbers)).max() > EVEN_STEP_TOLERANCE * step:
        return None
    return float(along[-1] - along[0]) / (len(along) - 1)


def places(headers: Sequence[Dataset]) -> npt.NDArray[np.float64]:
    """Return where images lie along the normal of the first, ascending, in mm."""
    orientation = np.array(headers[0].ImageOrientationPatient, dtype=float)
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    found: npt.NDArray[np.float64] = np.sort(positions @ np.cross(orientation[:3], orientation[3:]))
    return found


def on_images(assessment: Assessment, volume: Volume) -> Assessment:
    """Return the assessment with masks and slice indices of the images instead of the grid.

    Measurements stay those of the grid, and probabilities go where their masks go. A finding with
    a segment is seen on the images that the segment lies on; without one, on those nearest to its
    slices.

    Raises ValueError where a segment lies on no image.
    """
    if not volume.verdict.resampled:
        return assessment
    record = assessment.record
    masks = {number: volume.on_sources(mask) for number, mask in assessment.masks.items()}
    shown = {number: _images_showing(number, mask) for number, mask in masks.items()}
    depths = volume.first_pixels()[:, 0]
    key_images: list[int] = []
    for index in record.key_slices:
        visible = [shown[number] for number, mask in assessment.masks.items() if mask[index].any()]
        key_images += [_nearest(images, index, depths) for images in visible]
        key_images += [] if visible else [volume.source_of(index)]
    findings = tuple(
        _finding_on_images(finding, shown, volume, depths) for finding in record.findings
    )
    update = {"findings": findings, "key_slices": tuple(dict.fromkeys(key_images))}
    probabilities = {
        number: volume.probabilities_on_sources(probability, assessment.masks[number])
        for number, probability in assessment.probabilities.items()
    }
    return Assessment(record.model_copy(update=update), masks, probabilities)


def _images_showing(number: int, mask: Mask) -> list[int]:
    images = [int(index) for index in np.flatnonzero(mask.any(axis=(1, 2)))]
    if not images:
        raise ValueError(f"mask {number} lies beside every image, where nothing was measured")
    return images


def _finding_on_images(
    finding: Finding, shown: dict[int, list[int]], volume: Volume, depths: Depths
) -> Finding:
    evidence = finding.evidence
    if evidence is None:
        return finding
    if evidence.segment is None:
        images = sorted({volume.source_of(index) for index in evidence.slices})
        best = volume.source_of(evidence.best_slice)
    else:
        images = shown[evidence.segment]
        best = _nearest(images, evidence.best_slice, depths)
    there = Evidence(segment=evidence.segment, slices=tuple(images), best_slice=best)
    return finding.model_copy(update={"evidence": there})


def _nearest(images: Sequence[int], index: int, depths: Depths) -> int:
    """Return which of `images` lies nearest to a slice of the grid."""
    return min(images, key=lambda image: abs(depths[image] - index))
