"""A CT scanner that exists only for the demonstration and the tests.

It writes complete head studies of simulated patients, whose haemorrhage is known to the voxel.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from itertools import count, repeat
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import UID, CTImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from inference.assessment import Laterality, Mask
from inference.phantom import Lesion
from node.simulated_slices import (
    STORED_AIR,
    PhantomChoice,
    SliceRun,
    in_a_process,
    place,
    write_image,
    write_run,
)

Plane = Literal["axial", "oblique", "sagittal"]
ScoutPlan = tuple[Path, Dataset, PhantomChoice, npt.NDArray[np.float64]]

VOXELS_WORTH_A_SECOND_PROCESS = 2**23
"""A series of more voxels is rendered and written by two processes, each one half."""

COVERAGE_MM = 176.0
"""Extent of the stack along its normal: a head from skull base to vertex, or ear to ear."""

FIELD_OF_VIEW_MM = 250.0
"""Reconstruction diameter, the side of the square image."""

ISOCENTRE_ABOVE_HEAD_CENTRE_MM = 8.0
"""The stack's middle lies so far above the middle of the skull, so that the vertex is in it."""

OBLIQUE_TURN_DEGREES = (-14.0, 4.0, 6.0)
"""Turn of the oblique stack about x, y and z, as when it follows the orbitomeatal line."""

SCOUT_STEP_MM = 22.0
SCOUT_PIXEL_MM = 1.0
"""The scout is the mean of sagittal planes so far apart, in pixels of this size."""


STUDY_ATTRIBUTES = {
    "SpecificCharacterSet": "ISO_IR 192",
    "SOPClassUID": CTImageStorage,
    "Modality": "CT",
    "Manufacturer": "Overread",
    "InstitutionName": "Overread Demonstration Hospital (fictional)",
    "ReferringPhysicianName": "REFERRER^DEMO",
    "StationName": "SIMCT1",
    "StudyDescription": "CT HEAD WITHOUT CONTRAST",
    "ManufacturerModelName": "Simulated CT",
    "PatientName": "OVERREAD^DEMO",
    "PatientBirthDate": "19500101",
    "PatientSex": "O",
    "BodyPartExamined": "HEAD",
    "KVP": "120",
    "DeviceSerialNumber": "0001",
    "SoftwareVersions": "1",
    "ProtocolName": "HEAD ROUTINE",
    "PatientPosition": "HFS",
    "StudyID": "1",
    "AcquisitionNumber": 1,
    "PositionReferenceIndicator": "OM",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 1,
    "RescaleIntercept": str(STORED_AIR),
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "LossyImageCompression": "00",
    "PerformedProcedureStepID": "PPS1",
}
"""What all images of all simulated studies share."""

SERIES_ATTRIBUTES = {
    "SeriesNumber": 2,
    "ScanOptions": "HELICAL MODE",
    "DataCollectionDiameter": str(FIELD_OF_VIEW_MM),
    "ReconstructionDiameter": str(FIELD_OF_VIEW_MM),
    "GantryDetectorTilt": "0",
    "TableHeight": "150",
    "RotationDirection": "CW",
    "ExposureTime": 1000,
    "XRayTubeCurrent": 250,
    "Exposure": 250,
    "FilterType": "HEAD",
    "FocalSpots": "0.7",
    "ConvolutionKernel": "STANDARD",
    "SpiralPitchFactor": 0.55,
    "WindowCenter": "40",
    "WindowWidth": "80",
}
"""What the images of the CT series share beyond these: the acquisition and its window."""


@dataclass(frozen=True, eq=False)
class SimulatedStudy:
    """What was written, and the truth about it.

    `paths` are the files in the order in which a scanner would send them, the scout first.
    `truth` [slice, row, column] is the haemorrhage on the grid of the CT series in the order of
    its instance numbers, and `affine` (4, 4) maps its indices to LPS mm.
    """

    paths: tuple[Path, ...]
    study_uid: str
    series_uid: str
    accession_number: str
    truth: Mask
    affine: npt.NDArray[np.float64]
    lesion: Lesion | None


def write_head_study(
    folder: Path,
    *,
    seed: int,
    slices: int = 160,
    matrix: int = 512,
    plane: Plane = "axial",
    descending: bool = False,
    haemorrhage: bool | None = None,
    side: Laterality | None = None,
    diameter_mm: float | None = None,
    uid_seed: str | None = None,
) -> SimulatedStudy:
    """Write a CT head study into `folder`: one scout, and `slices` images of `matrix` squared.

    `seed` is the patient: with the same `haemorrhage`, `side` and `diameter_mm` it is the same
    head, whatever the acquisition. `descending` runs the slices against the normal of their
    image plane. All UIDs are new with each call, unless `uid_seed` fixes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    choice = PhantomChoice(seed, haemorrhage, diameter_mm, side)
    phantom = choice.phantom()
    isocentre = phantom.centre + np.array([0, 0, ISOCENTRE_ABOVE_HEAD_CENTRE_MM])
    affine = _grid(plane, isocentre, slices, matrix, descending=descending)
    uids = _uids(uid_seed)
    shared = _study_header(seed, next(uids), next(uids))

    series = _series_header(shared, next(uids), plane)
    sop_uids = tuple(str(next(uids)) for _ in range(slices))
    paths = tuple(folder / f"CT-2-{number:04}.dcm" for number in range(1, slices + 1))
    processes = 2 if slices * matrix**2 > VOXELS_WORTH_A_SECOND_PROCESS else 1
    size = -(-slices // processes)
    runs = [
        SliceRun(
            choice=choice,
            affine=affine,
            matrix=matrix,
            first=first,
            header=series,
            paths=paths[first : first + size],
            sop_uids=sop_uids[first : first + size],
        )
        for first in range(0, slices, size)
    ]
    scout = folder / "CT-1-0001.dcm"
    scout_header = _scout_header(shared, next(uids), next(uids))
    scouts: list[ScoutPlan | None] = [
        (scout, scout_header, choice, isocentre),
        *[None] * (len(runs) - 1),
    ]
    with ThreadPoolExecutor(len(runs)) as threads:
        masks = list(threads.map(in_a_process, repeat(write_part), runs, scouts))
    return SimulatedStudy(
        paths=(scout, *paths),
        study_uid=str(shared.StudyInstanceUID),
        series_uid=str(series.SeriesInstanceUID),
        accession_number=str(shared.AccessionNumber),
        truth=np.concatenate(masks),
        affine=affine,
        lesion=phantom.lesion,
    )


def _uids(seed: str | None) -> Iterator[UID]:
    for number in count():
        yield generate_uid(entropy_srcs=None if seed is None else [seed, str(number)])


def _grid(
    plane: Plane, isocentre: npt.NDArray[np.float64], slices: int, matrix: int, *, descending: bool
) -> npt.NDArray[np.float64]:
    row, column = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    if plane == "sagittal":
        row, column = np.array([0, 1.0, 0]), np.array([0, 0, -1.0])
    if plane == "oblique":
        turn = Rotation.from_euler("xyz", OBLIQUE_TURN_DEGREES, degrees=True)
        row, column = turn.apply(row), turn.apply(column)
    pixel = FIELD_OF_VIEW_MM / matrix
    affine = np.eye(4)
    affine[:3, 0] = np.cross(row, column) * (COVERAGE_MM / slices) * (-1 if descending else 1)
    affine[:3, 1] = column * pixel
    affine[:3, 2] = row * pixel
    middle = np.array([slices - 1, matrix - 1, matrix - 1]) / 2
    affine[:3, 3] = isocentre - affine[:3, :3] @ middle
    return affine


def _study_header(seed: int, study: UID, frame_of_reference: UID) -> Dataset:
    """What all images of the study share: patient, study, equipment, frame of reference."""
    now = datetime.now().astimezone()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    header = Dataset()
    for keyword, value in STUDY_ATTRIBUTES.items():
        setattr(header, keyword, value)
    header.InstanceCreationDate = header.StudyDate = header.SeriesDate = date
    header.AcquisitionDate = header.ContentDate = date
    header.InstanceCreationTime = header.StudyTime = header.SeriesTime = time
    header.AcquisitionTime = header.ContentTime = time
    header.AccessionNumber = f"OVR{int(str(study).rpartition('.')[2]) % 10**8:08}"
    header.PatientID = f"DEMO{seed:06}"
    header.StudyInstanceUID = study
    header.FrameOfReferenceUID = frame_of_reference
    header.PerformedProcedureStepStartDate = date
    header.PerformedProcedureStepStartTime = time
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.RequestedProcedureDescription = "CT head without contrast"
    request.ScheduledProcedureStepID = "SPS1"
    request.ScheduledProcedureStepDescription = "CT head routine"
    header.RequestAttributesSequence = [request]
    return header


def _series_header(shared: Dataset, series: UID, plane: Plane) -> Dataset:
    header = deepcopy(shared)
    for keyword, value in SERIES_ATTRIBUTES.items():
        setattr(header, keyword, value)
    is_primary = plane == "axial"
    header.ImageType = (
        ["ORIGINAL", "PRIMARY", "AXIAL"] if is_primary else ["DERIVED", "SECONDARY", "AXIAL"]
    )
    header.SeriesDescription = f"HEAD {plane.upper()}"
    header.SeriesInstanceUID = series
    return header


def _scout_header(shared: Dataset, series: UID, sop_uid: UID) -> Dataset:
    header = deepcopy(shared)
    header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    del header.RescaleType  # a projection has no Hounsfield units
    header.SeriesDescription = "SCOUT LATERAL"
    header.SeriesInstanceUID = series
    header.SOPInstanceUID = sop_uid
    header.SeriesNumber = 1
    header.InstanceNumber = 1
    header.WindowCenter = "-400"
    header.WindowWidth = "1200"
    return header


def write_part(run: SliceRun, scout: ScoutPlan | None) -> Mask:
    """Write a run of slices, after the scout if there is one; return the run's truth."""
    if scout is not None:
        _write_scout(*scout)
    return write_run(run)


def _write_scout(
    path: Path, header: Dataset, choice: PhantomChoice, isocentre: npt.NDArray[np.float64]
) -> None:
    """Write the lateral localizer: the head summed along left and right."""
    planes = round(COVERAGE_MM / SCOUT_STEP_MM)
    pixels = round(FIELD_OF_VIEW_MM / SCOUT_PIXEL_MM)
    affine = _grid("sagittal", isocentre, planes, pixels, descending=False)
    hounsfield, _ = choice.phantom().render(affine, (planes, pixels, pixels), noise=False)
    place(header, affine[:3, :3] @ (planes / 2, 0, 0) + affine[:3, 3], affine)
    write_image(path, header, hounsfield.mean(axis=0))
