"""A run of consecutive CT slices of a simulated head: rendered, and written as Part 10 files.

A study is written by several processes at once: `python -m node.simulated_slices` reads a pickled
function and its arguments from standard input, and writes what it returned to standard output.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from inference.assessment import Laterality, Mask
from inference.phantom import HeadPhantom

Result = TypeVar("Result")

STORED_AIR = -1024
"""Rescale Intercept: the stored value 0 is this many HU."""

STORED_MAX = 4095
"""Twelve bits, as CT scanners store."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Environment of a rendering process: its matrices are so small that threads only wait."""


@dataclass(frozen=True)
class PhantomChoice:
    """The arguments of a HeadPhantom, which is made anew in each process."""

    seed: int
    haemorrhage: bool | None
    diameter_mm: float | None
    side: Laterality | None

    def phantom(self) -> HeadPhantom:
        """Make the head; the same choice is always the same head."""
        return HeadPhantom(
            self.seed,
            haemorrhage=self.haemorrhage,
            diameter_mm=self.diameter_mm,
            side=self.side,
        )


@dataclass(frozen=True, eq=False)
class SliceRun:
    """Slices `first`, `first + 1`, ... of a series: one for each of `paths` and `sop_uids`.

    `affine` (4, 4) maps the whole series' (slice, row, column) to LPS mm; `header` holds what
    all slices of the series share.
    """

    choice: PhantomChoice
    affine: npt.NDArray[np.float64]
    matrix: int
    first: int
    header: Dataset
    paths: tuple[Path, ...]
    sop_uids: tuple[str, ...]


def in_a_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a module's function in a process of its own; raises CalledProcessError if it fails."""
    finished = subprocess.run(
        [sys.executable, "-m", "node.simulated_slices"],
        input=pickle.dumps((function, arguments)),
        stdout=subprocess.PIPE,
        env=os.environ | ONE_THREAD,
        check=True,
    )
    result: Result = pickle.loads(finished.stdout)  # noqa: S301 - from our own process
    return result


def write_run(run: SliceRun) -> Mask:
    """Render and write the run's slices; return the true haemorrhage [slice, row, column]."""
    affine = run.affine.copy()
    affine[:3, 3] += run.first * affine[:3, 0]
    shape = (len(run.paths), run.matrix, run.matrix)
    hounsfield, truth = run.choice.phantom().render(affine, shape)
    for k, (path, sop_uid) in enumerate(zip(run.paths, run.sop_uids, strict=True)):
        header = deepcopy(run.header)
        header.SOPInstanceUID = sop_uid
        header.InstanceNumber = run.first + k + 1
        place(header, affine[:3, 3] + k * affine[:3, 0], affine)
        write_image(path, header, hounsfield[k])
    return truth


def place(
    header: Dataset, position: npt.NDArray[np.float64], affine: npt.NDArray[np.float64]
) -> None:
    """Set the Image Plane attributes (PS3.3 C.7.6.2) of the slice whose first pixel is there."""
    slice_mm, row_mm, column_mm = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 2] / column_mm, affine[:3, 1] / row_mm
    header.ImagePositionPatient = _decimals(position)
    header.ImageOrientationPatient = _decimals(np.concatenate([row, column]))
    header.PixelSpacing = _decimals(np.array([row_mm, column_mm]))
    header.SliceThickness = DSfloat(round(float(slice_mm), 3))
    header.SliceLocation = DSfloat(round(float(position @ np.cross(row, column)), 3))


def write_image(path: Path, header: Dataset, hounsfield: npt.NDArray[np.float32]) -> None:
    """Write `hounsfield` [row, column] as the pixel data of a CT image with this header."""
    stored = np.clip(np.rint(hounsfield) - STORED_AIR, 0, STORED_MAX).astype("<i2")
    header.Rows, header.Columns = stored.shape
    header.SmallestImagePixelValue = int(stored.min())
    header.LargestImagePixelValue = int(stored.max())
    header.PixelData = stored.tobytes()
    header["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta = meta
    dcmwrite(path, header, enforce_file_format=True)


def _decimals(values: npt.NDArray[np.float64]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


if __name__ == "__main__":
    called, its_arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our parent
    pickle.dump(called(*its_arguments), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
