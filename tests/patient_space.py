"""The truth about where pixels are: read by pydicom alone, compared with a NIfTI file.

Every source pixel has a patient coordinate that follows from Image Position, Image Orientation and
Pixel Spacing (PS3.3 C.7.6.2.1.1). A volume is right where it gives that pixel back there. Nothing
of the node is used here.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from scipy.ndimage import map_coordinates

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SourceImage:
    """One image of a series: rescaled pixels [row, column] and the place of each."""

    uid: str
    frame: int
    pixels: Floats
    position: Floats
    orientation: Floats
    spacing: tuple[float, float]
    """Distances between rows and between columns, as Pixel Spacing has them."""

    def points(self, step: int = 1) -> tuple[Floats, Floats]:
        """LPS mm (n, 3) of every `step`-th pixel of each row and column, and its value (n,)."""
        rows, columns = np.mgrid[: self.pixels.shape[0] : step, : self.pixels.shape[1] : step]
        along_row, along_column = self.orientation[:3], self.orientation[3:]
        points = (
            self.position
            + np.multiply.outer(columns.ravel() * self.spacing[1], along_row)
            + np.multiply.outer(rows.ravel() * self.spacing[0], along_column)
        )
        return points, self.pixels[::step, ::step].ravel()


@dataclass(frozen=True)
class Agreement:
    """How well a volume, sampled at the source pixels, gives these back."""

    images: int
    pixels: int
    correlation: float
    largest_difference: float
    share_outside: float
    """Part of the source pixels that lie outside the volume by more than half a voxel."""


def source_images(paths: Iterable[Path]) -> Iterator[SourceImage]:
    """Every image in the files that has a place: of single-frame, enhanced and mosaic instances."""
    for path in paths:
        dataset = dcmread(path, force=True)
        if "PixelData" not in dataset:
            continue
        if "PerFrameFunctionalGroupsSequence" in dataset:
            yield from _enhanced_images(dataset)
        elif "MOSAIC" in dataset.get("ImageType", ()):
            yield from _mosaic_images(dataset)
        elif "ImagePositionPatient" in dataset:
            yield _image(dataset, 0, dataset.pixel_array, dataset, dataset, dataset, dataset)


def agreement(images: Iterable[SourceImage], nifti: Path, *, step: int = 1) -> Agreement:
    """Sample the volume linearly at the pixels' patient coordinates and compare."""
    volume = nibabel.load(nifti)
    voxels = np.asarray(volume.dataobj, np.float32)
    to_voxels = np.linalg.inv(volume.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS from LPS
    count, found, expected, outside = 0, [], [], 0
    for image in images:
        points, values = image.points(step)
        where = to_voxels[:3, :3] @ points.T + to_voxels[:3, 3:]
        last = np.reshape(voxels.shape, (3, 1)) - 1.0
        inside = ((where > -0.5) & (where < last + 0.5)).all(axis=0)
        # Rounding in headers puts the outermost pixels a hair beyond the outermost voxels.
        where = np.clip(where[:, inside], 0, last)
        found.append(map_coordinates(voxels, where, np.float32, order=1, mode="nearest"))
        expected.append(values[inside])
        outside += int((~inside).sum())
        count += 1
    one, other = np.concatenate(found).astype(float), np.concatenate(expected).astype(float)
    return Agreement(
        images=count,
        pixels=len(one) + outside,
        correlation=float(np.corrcoef(one, other)[0, 1]),
        largest_difference=float(np.abs(one - other).max()),
        share_outside=outside / (len(one) + outside),
    )


def _enhanced_images(dataset: Dataset) -> Iterator[SourceImage]:
    frames = dataset.pixel_array
    frames = frames if frames.ndim == 3 else frames[np.newaxis]
    for index, pixels in enumerate(frames):

        def group(name: str, index: int = index) -> Dataset:
            """The functional group of this frame, or that which all frames share."""
            of_frame = dataset.PerFrameFunctionalGroupsSequence[index]
            holder = of_frame if name in of_frame else dataset.SharedFunctionalGroupsSequence[0]
            return holder[name].value[0] if name in holder else Dataset()

        yield _image(
            dataset,
            index,
            pixels,
            group("PlanePositionSequence"),
            group("PlaneOrientationSequence"),
            group("PixelMeasuresSequence"),
            group("PixelValueTransformationSequence"),
        )


def _mosaic_images(dataset: Dataset) -> Iterator[SourceImage]:
    with warnings.catch_warnings(action="ignore"):  # it calls itself experimental
        from nibabel.nicom.dicomwrappers import MosaicWrapper, wrapper_from_data  # noqa: PLC0415

    wrapper = wrapper_from_data(dataset)
    assert isinstance(wrapper, MosaicWrapper)
    columns_rows_slices = wrapper.get_data()
    orientation = np.array(dataset.ImageOrientationPatient, float)
    row_mm, column_mm, slice_mm = wrapper.voxel_sizes
    for index in range(columns_rows_slices.shape[2]):
        yield SourceImage(
            str(dataset.SOPInstanceUID),
            index,
            np.asarray(columns_rows_slices[:, :, index], float),
            wrapper.image_position + index * slice_mm * wrapper.slice_normal,
            orientation,
            (row_mm, column_mm),
        )


def _image(
    dataset: Dataset,
    frame: int,
    stored: npt.NDArray[np.generic],
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
    rescale: Dataset,
) -> SourceImage:
    slope = float(rescale.get("RescaleSlope") or 1)
    intercept = float(rescale.get("RescaleIntercept") or 0)
    return SourceImage(
        str(dataset.get("SOPInstanceUID") or dataset.file_meta.MediaStorageSOPInstanceUID),
        frame,
        stored * slope + intercept,
        np.array(position.ImagePositionPatient, float),
        np.array(orientation.ImageOrientationPatient, float),
        (float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1])),
    )
