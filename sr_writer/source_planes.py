"""The planes of source images, as objects of many frames lie on them (SEG, Parametric Map).

What such an object says of each frame: where it lies, and which image it was drawn on.
"""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.spatial import get_normal_vector
from pydicom import DataElement, Dataset
from pydicom.uid import CTImageStorage

from inference.volume import Volume
from sr_writer.header import constructor_header
from sr_writer.source_images import SourceImage, even_step, places

POSITION_TOLERANCE = 0.25
"""How far an image may lie from its slice, in voxels; the sources' own positions win."""
HALF_A_VOXEL = 0.5 + 1e-6
"""How far an image of a resampled volume may reach beyond its grid: voxels are points there."""


def check_positions(images: Sequence[SourceImage], volume: Volume) -> None:
    """Raise ValueError unless each image is its slice, or lies within a resampled grid in order."""
    for image in images:
        if not image.header.get("FrameOfReferenceUID"):
            raise ValueError(f"source {image.reference} has no frame of reference")
    found = volume.first_pixels()
    if volume.verdict.resampled:
        matrix = (1, int(images[0].header.Rows), int(images[0].header.Columns))
        room = np.array(volume.grid.spatial_shape) - matrix
        lies = np.all((found >= -HALF_A_VOXEL) & (found <= room + HALF_A_VOXEL), axis=1)
        lies[1:] &= np.diff(found[:, 0]) > 0
    else:
        slices = np.arange(len(images))[:, None] * [1, 0, 0]
        lies = np.all(np.abs(found - slices) <= POSITION_TOLERANCE, axis=1)
    if not lies.all():
        index = int(lies.argmin())
        raise ValueError(
            f"source {images[index].reference} lies at index {found[index].round(2)} of the grid, "
            f"as image {index} of the volume: the sources are not in slice order"
        )


def depths_of(images: Sequence[SourceImage]) -> npt.NDArray[np.float64]:
    """Return where images lie along their normal, in mm; frames are in this order."""
    normal = get_normal_vector(images[0].header.ImageOrientationPatient, index_convention="DR")
    positions = np.array([image.header.ImagePositionPatient for image in images], dtype=float)
    found: npt.NDArray[np.float64] = positions @ normal
    return found


def pixel_measures(images: Sequence[SourceImage]) -> hd.PixelMeasuresSequence:
    """Return spacing and thickness of all; Spacing Between Slices is left out where it varies."""
    headers = [image.header for image in images]
    thickness = float(np.median([float(header.get("SliceThickness") or 0) for header in headers]))
    return hd.PixelMeasuresSequence(
        pixel_spacing=headers[0].PixelSpacing,
        slice_thickness=thickness or round(float(np.median(np.diff(places(headers)))), 6),
        spacing_between_slices=even_step(headers),
    )


def stand_in(image: SourceImage, first: Dataset, measures: hd.PixelMeasuresSequence) -> Dataset:
    """Return a header for an image as if it were an instance of its own.

    highdicom takes either single-frame instances or all frames of one multi-frame instance; frames
    of several, some frames of one and tiles of a mosaic are neither. It also wants a Slice
    Thickness even where it is not used. What is of the whole series stands in the header of the
    `first`.
    """
    own = Dataset()  # new elements: a copied header shares its own with the original
    own.SOPClassUID = CTImageStorage  # one of single-frame instances, whatever the image is of
    own.ImageOrientationPatient = first.ImageOrientationPatient
    own.PixelSpacing = measures[0].PixelSpacing
    own.SliceThickness = measures[0].SliceThickness
    header = constructor_header(first)
    header.update(constructor_header(image.header))
    header.update(own)
    return header


def plane_position(image: SourceImage) -> hd.PlanePositionSequence:
    """Return where the image lies."""
    return hd.PlanePositionSequence(
        hd.CoordinateSystemNames.PATIENT, image.header.ImagePositionPatient
    )


def refer_to_images(made: Dataset, images: Sequence[SourceImage]) -> None:
    """Name every image of the volume where the template names the one that it is drawn on."""
    of_instance: dict[str, list[SourceImage]] = {}
    for image in images:
        of_instance.setdefault(image.header.SOPInstanceUID, []).append(image)
    made.SourceImageSequence = [
        _reference(each[0].header, [image.frame for image in each if image.frame is not None])
        for each in of_instance.values()
    ]
    series = made.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence = [
        _reference(each[0].header) for each in of_instance.values()
    ]


def groups_of(image: SourceImage, pattern: Dataset) -> Dataset:
    """Return the groups of a frame that lies on an image."""
    (derivation,) = pattern.DerivationImageSequence
    (source,) = derivation.SourceImageSequence
    on_image = Dataset()
    on_image.update(source)
    on_image.update(_reference(image.header, [] if image.frame is None else [image.frame]))
    if image.is_tile:
        on_image["SpatialLocationsPreserved"] = DataElement("SpatialLocationsPreserved", "CS", "NO")
    derived = Dataset()
    derived.update(derivation)
    derived["SourceImageSequence"] = DataElement("SourceImageSequence", "SQ", [on_image])
    groups = Dataset()
    groups.DerivationImageSequence = [derived]
    groups.PlanePositionSequence = plane_position(image)
    return groups


def _reference(header: Dataset, frames: Sequence[int] = ()) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frames:
        item.ReferencedFrameNumber = sorted(frames)
    return item
