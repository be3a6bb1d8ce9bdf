"""A volume as a NIfTI-1 file, for those who want to look at it or to work with it elsewhere."""

import gzip
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np

from inference.volume import Volume

SUFFIXES = (".nii", ".nii.gz")

SCANNER_COORDINATES = 1
"""NIFTI_XFORM_SCANNER_ANAT: the affine gives the scanner's own coordinates."""

MAX_EXTENT = 32767
"""A NIfTI-1 header counts voxels along an axis in 16 bits."""


def nifti_image(volume: Volume) -> nibabel.Nifti1Image:
    """Return the volume as float32 [column, row, slice] with an affine to RAS mm.

    No voxel is moved: the first index is the images' column, the second their row, the third the
    slice. Only the axes' signs change, as DICOM's coordinates are LPS (PS3.3 C.7.6.2.1.1) and
    NIfTI's RAS. sform and qform are the same. The header names nobody. Raises ValueError where the
    volume has more voxels along an axis than the format can count.
    """
    if max(volume.grid.spatial_shape) > MAX_EXTENT:
        raise ValueError(f"a NIfTI file holds at most {MAX_EXTENT} voxels along an axis")
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(volume.grid.array.transpose(2, 1, 0), to_ras)
    image.set_sform(to_ras, SCANNER_COORDINATES)
    image.set_qform(to_ras, SCANNER_COORDINATES)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"Overread {version('overread')}, not for diagnosis"
    return image


def write_nifti(image: nibabel.Nifti1Image, path: Path) -> None:
    """Write the image to `path`, compressed where that ends in .gz, whole or not at all.

    Raises OSError where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            if path.suffix == ".gz":
                # Level 1 takes a third of the usual level's time and makes the file 5% larger; no
                # name and time inside, so that the same volume is the same file.
                with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
                    image.to_stream(packed)
            else:
                image.to_stream(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
