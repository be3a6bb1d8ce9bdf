"""Multi-frame instances and mosaics as volumes: each stored pixel is found at its patient point."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from node.assembly import assemble
from tests.multi_frames import (
    one,
    write_enhanced,
    write_grid,
    write_legacy_converted,
    write_mosaic,
)
from tests.slices import grid_affine, turned, write_slices

AFFINE = turned(grid_affine(), Rotation.from_euler("xyz", [20, -35, 50], degrees=True))
STORED = np.random.default_rng(4).integers(-900, 900, (9, 12, 10)).astype(np.int16)
ORDER = [4, 0, 8, 2, 6, 1, 3, 5, 7]


def shuffled(item: Dataset, k: int) -> None:
    item.PlanePositionSequence = one(
        ImagePositionPatient=list(AFFINE[:3, 3] + ORDER[k] * AFFINE[:3, 0])
    )


def enhanced(folder: Path) -> list[Path]:
    return [write_enhanced(folder / "e", STORED[ORDER], AFFINE, frame_change=shuffled)]


def several_enhanced(folder: Path) -> list[Path]:
    same = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "Frame")}

    def change(header: Dataset) -> None:
        header.SeriesInstanceUID = same["SeriesInstanceUID"]
        header.StudyInstanceUID = same["StudyInstanceUID"]
        header.FrameOfReferenceUID = same["Frame"]

    later = AFFINE.copy()
    later[:3, 3] += 4 * AFFINE[:3, 0]
    return [
        write_enhanced(folder / "second", STORED[4:], later, change=change),
        write_enhanced(folder / "first", STORED[:4], AFFINE, change=change),
    ]


def legacy_converted(folder: Path) -> list[Path]:
    slices = write_slices(folder / "slices", STORED, AFFINE, modality="MR")
    return [write_legacy_converted(folder / "l", [slices[k] for k in ORDER])]


def mosaic(folder: Path) -> list[Path]:
    return [write_mosaic(folder / "m", STORED, AFFINE)]


def grid(folder: Path) -> list[Path]:
    return [write_grid(folder / "g", STORED, AFFINE)]


@pytest.mark.parametrize("write", [enhanced, several_enhanced, legacy_converted, mosaic, grid])
def test_every_stored_pixel_is_found_at_its_patient_point(tmp_path, write):
    assembled = assemble(write(tmp_path))

    assert assembled.verdict.accepted, assembled.verdict.reason
    volume = assembled.volume.grid
    slices, rows, columns = np.indices(STORED.shape)
    points = np.stack([slices, rows, columns, np.ones_like(rows)], axis=-1) @ AFFINE.T
    found = (points @ np.linalg.inv(volume.affine).T)[..., :3]
    np.testing.assert_allclose(found, np.rint(found), atol=5e-3)
    at = tuple(np.moveaxis(np.rint(found).astype(int), -1, 0))
    np.testing.assert_array_equal(volume.array[at], STORED)


def test_slices_know_the_frames_that_they_are(tmp_path):
    volume = assemble(enhanced(tmp_path)).volume

    assert [ORDER[number - 1] for number in volume.frame_numbers] == sorted(ORDER)


SEPARATED = {
    "echo time": lambda item, k: setattr(item, "MREchoSequence", one(EffectiveEchoTime=3.0 + k)),
    "diffusion b-value": lambda item, k: setattr(
        item, "MRDiffusionSequence", one(DiffusionBValue=500.0 * k)
    ),
    "temporal position": lambda item, k: setattr(
        item.FrameContentSequence[0], "TemporalPositionIndex", k + 1
    ),
    "trigger time": lambda item, k: setattr(
        item, "CardiacSynchronizationSequence", one(NominalCardiacTriggerDelayTime=40.0 * k)
    ),
    "image type": lambda item, k: setattr(
        item,
        "MRImageFrameTypeSequence",
        one(FrameType=["ORIGINAL", "PRIMARY", "M", ["WATER", "FAT"][k]]),
    ),
}


@pytest.mark.parametrize("separator", SEPARATED)
def test_frames_at_one_position_are_separated_by_what_tells_them_apart(tmp_path, separator):
    def groups(item: Dataset, k: int) -> None:
        where = AFFINE[:3, 3] + k % 9 * AFFINE[:3, 0]
        item.PlanePositionSequence = one(ImagePositionPatient=list(where))
        SEPARATED[separator](item, k // 9)

    both = np.concatenate([STORED, STORED + 1000])
    path = write_enhanced(tmp_path / "e", both, AFFINE, frame_change=groups)

    assembled = assemble([path])

    assert assembled.verdict.accepted, assembled.verdict.reason
    assert assembled.volume.grid.spatial_shape[0] == 9
    assert np.ptp(assembled.volume.grid.array) < 1900  # of one of the two
    assert any(separator in note.en for note in assembled.verdict.notes)


def test_mosaics_of_a_time_series_are_stacks(tmp_path):
    uids = [generate_uid() for _ in range(3)]

    def change(header: Dataset, number: int) -> None:
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = uids
        header.InstanceNumber = header.AcquisitionNumber = number

    paths = [
        write_mosaic(
            tmp_path / f"{k}", STORED + 1000 * k, AFFINE, change=partial(change, number=k + 1)
        )
        for k in range(3)
    ]

    assembled = assemble(paths)

    assert assembled.verdict.accepted, assembled.verdict.reason
    assert assembled.volume.grid.spatial_shape[0] == 9
    assert np.ptp(assembled.volume.grid.array) < 1900  # of one time point
