"""Stacks of CT or MR slices written as Part 10 files, for tests that need a series."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation

Change = Callable[[Dataset, int], None]


def grid_affine(
    *,
    position: Sequence[float] = (-10.0, -20.0, 30.0),
    row: Sequence[float] = (1, 0, 0),
    column: Sequence[float] = (0, 1, 0),
    spacing: Sequence[float] = (2.0, 0.6, 0.5),
    descending: bool = False,
) -> npt.NDArray[np.float64]:
    """Affine (4, 4) from (slice, row, column) to LPS mm; `spacing` in the order of the indices."""
    normal = np.cross(row, column) * (-1 if descending else 1)
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing[0]
    affine[:3, 1] = np.array(column) * spacing[1]
    affine[:3, 2] = np.array(row) * spacing[2]
    affine[:3, 3] = position
    return affine


def turned(affine: npt.NDArray[np.float64], rotation: Rotation) -> npt.NDArray[np.float64]:
    """The same grid after a rotation of the patient space."""
    result = affine.copy()
    result[:3] = rotation.as_matrix() @ affine[:3]
    return result


def slice_header(
    modality: str, study: UID, series: UID, frame_of_reference: UID, number: int
) -> Dataset:
    """Everything of a CT or MR image but its geometry and pixels."""
    header = Dataset()
    header.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    header.SOPInstanceUID = generate_uid()
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = "20260102"
    header.StudyTime = header.SeriesTime = header.AcquisitionTime = header.ContentTime = "101112"
    header.AccessionNumber = "A100"
    header.Modality = modality
    header.Manufacturer = "Overread tests"
    header.ReferringPhysicianName = ""
    header.PatientName = "TEST^SLICES"
    header.PatientID = "T100"
    header.PatientBirthDate = ""
    header.PatientSex = ""
    header.PatientPosition = "HFS"
    header.StudyInstanceUID = study
    header.SeriesInstanceUID = series
    header.StudyID = "1"
    header.SeriesNumber = 1
    header.AcquisitionNumber = 1
    header.InstanceNumber = number
    header.FrameOfReferenceUID = frame_of_reference
    header.PositionReferenceIndicator = ""
    if modality == "CT":
        header.KVP = "120"
    else:
        header.ScanningSequence = "GR"
        header.SequenceVariant = "SP"
        header.ScanOptions = ""
        header.MRAcquisitionType = "3D"
        header.EchoTime = "3"
        header.RepetitionTime = "7"
        header.EchoTrainLength = 1
    return header


def write_slices(
    folder: Path,
    stored: npt.NDArray[np.int16],
    affine: npt.NDArray[np.float64],
    *,
    modality: str = "CT",
    slopes: Sequence[float] | None = None,
    intercepts: Sequence[float] | None = None,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> list[Path]:
    """Write one series of `stored` int16 [slice, row, column] and return its paths by slice.

    `change(header, k)` may alter the data set of slice k before it is written; its pixel data are
    set already. Rescaled values are `stored * slopes[k] + intercepts[k]`, by default 1 and 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    paths = []
    for k, pixels in enumerate(stored):
        header = slice_header(modality, study, series, frame_of_reference, k + 1)
        header.ImagePositionPatient = decimals(affine[:3, 3] + k * affine[:3, 0])
        header.ImageOrientationPatient = decimals(
            np.concatenate([affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1]])
        )
        header.PixelSpacing = decimals(spacing[1:])
        header.SliceThickness = decimals(spacing[:1])[0]
        header.SamplesPerPixel = 1
        header.PhotometricInterpretation = "MONOCHROME2"
        header.Rows, header.Columns = pixels.shape
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit = 15
        header.PixelRepresentation = 1
        if modality == "CT" or slopes is not None:
            header.RescaleSlope = decimals([1.0 if slopes is None else slopes[k]])[0]
            header.RescaleIntercept = decimals([0.0 if intercepts is None else intercepts[k]])[0]
        if modality == "CT":
            header.RescaleType = "HU"
        header.PixelData = np.ascontiguousarray(pixels).tobytes()
        header["PixelData"].VR = "OW"
        if change is not None:
            change(header, k)
        paths.append(folder / f"slice-{k:03}.dcm")
        write_part10(paths[-1], header, transfer_syntax)
    return paths


def write_part10(path: Path, dataset: Dataset, transfer_syntax: UID) -> None:
    """Write a data set with file meta information of its own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta = meta
    dcmwrite(path, dataset, enforce_file_format=True)


def decimals(values: npt.ArrayLike) -> list[DSfloat]:
    """Decimal strings of at most 16 characters, as near to the values as these allow."""
    return [DSfloat(float(value), auto_format=True) for value in np.asarray(values)]
