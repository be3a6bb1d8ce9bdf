"""The segmentation lies where the lesion is, however the head was scanned; left is left.

The SEG is read by other readers than its writer: its bits and positions by hand from the raw
attributes, and its frames by DCMTK where that is installed.
"""

from datetime import UTC, datetime

import numpy as np
import pytest

from inference.assessment import Laterality, Presence
from inference.bundle import find_bundle
from inference.model import load_model
from inference.providers import SessionSettings
from node.assembly import assemble
from node.simulated_scanner import write_head_study
from sr_writer.conformance import check_objects
from sr_writer.provenance import Provenance
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from tests.system.segmentation_reader import patient_points

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PROVENANCE = Provenance(
    content="c" * 32, software_version="1", station_name="OVERREAD", written_at=NOW
)


@pytest.fixture(scope="module")
def model():
    return load_model(find_bundle("builtin/head_ct"), SessionSettings())


@pytest.mark.parametrize("side", [Laterality.LEFT, Laterality.RIGHT])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
def test_the_segmentation_lies_on_the_lesion(tmp_path, model, plane, descending, side):
    study = write_head_study(
        tmp_path,
        seed=11,
        slices=72,
        matrix=160,
        plane=plane,
        descending=descending,
        haemorrhage=True,
        side=side,
        diameter_mm=32,
    )
    assembled = assemble(study.paths[1:])  # the scout is a series of its own
    assert assembled.volume is not None, assembled.verdict.reason
    assessment = model.assess(assembled.volume, at=NOW)
    (finding,) = assessment.record.findings
    assert finding.presence is Presence.PRESENT
    assert finding.laterality is side
    check_narrative(assessment.record, side)
    segmentation = write_segmentation(assessment, assembled.volume, PROVENANCE)
    report = write_report(assessment, assembled.headers, assembled.volume, segmentation, PROVENANCE)
    assert check_objects([segmentation, report], assembled.headers) == []
    path = tmp_path / "segmentation.dcm"
    segmentation.save_as(path, enforce_file_format=True)

    found = patient_points(path)
    truth = np.argwhere(study.truth) @ study.affine[:3, :3].T + study.affine[:3, 3]
    voxel = float(np.abs(np.linalg.det(study.affine[:3, :3])))
    assert np.linalg.norm(found.mean(0) - truth.mean(0)) < 3
    assert dice(found, truth, study.affine) > 0.75
    assert np.sign(found.mean(0)[0] - head_centre(assembled.volume)[0]) == (
        1 if side is Laterality.LEFT else -1
    )
    (volume,) = [one for one in finding.measurements if one.code.meaning == "Volume"]
    assert volume.value == pytest.approx(len(found) * voxel / 1000, rel=0.01)


def check_narrative(record, side):
    """The model's own text names the right side, or was left out and the report says so."""
    english = record.narrative.en if record.narrative is not None else ""
    if english:
        assert side.value in english
    else:
        assert any("left out" in limitation.en for limitation in record.limitations)


def dice(found, truth, affine):
    """Overlap of two sets of patient points on the grid of `affine`."""
    inverse = np.linalg.inv(affine)

    def voxels(points):
        indices = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        return {tuple(index) for index in indices}

    there, true = voxels(found), voxels(truth)
    return 2 * len(there & true) / (len(there) + len(true))


def head_centre(volume):
    """Middle of what is denser than water, in LPS mm."""
    inside = np.argwhere(volume.grid.array[::4, ::4, ::4] > 0) * 4
    points = inside @ volume.grid.affine[:3, :3].T + volume.grid.affine[:3, 3]
    return (points.min(0) + points.max(0)) / 2
