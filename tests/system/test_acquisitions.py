"""However the head was acquired, the SEG lies on the images and on the lesion, and the SR says so.

Each acquisition is a way that real scanners send a head: with the gantry tilted, with the base of
the skull in thinner slices, with a slice lost on the way.
"""

from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom import dcmread
from scipy.spatial import cKDTree

from inference.assessment import Laterality, Presence
from inference.bundle import find_bundle
from inference.model import load_model
from inference.phantom import HeadPhantom
from inference.providers import SessionSettings
from inference.volume import Geometry
from node.assembly import assemble
from sr_writer.conformance import check_objects
from sr_writer.provenance import Provenance
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from tests.multi_frames import write_legacy_converted
from tests.slices import decimals, grid_affine, write_slices
from tests.sr_writer.validators import dciodvfy, dciodvfy_missing
from tests.system.segmentation_reader import patient_points

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PROVENANCE = Provenance(
    content="c" * 32, software_version="1", station_name="OVERREAD", written_at=NOW
)
MATRIX, PIXEL_MM, EXTENT_MM = 160, 1.5, 176.0


@pytest.fixture(scope="module")
def model():
    return load_model(find_bundle("builtin/head_ct"), SessionSettings())


def write_head(folder, side, *, along, tilt_degrees=0.0, thickness=None, in_one_instance=False):
    """A head with a large bleed, imaged at `along` mm from its base; the paths and the lesion.

    The images' rows run from right to left; with a tilt, their columns and the table are not at a
    right angle.
    """
    phantom = HeadPhantom(11, haemorrhage=True, side=side, diameter_mm=32)
    angle = np.radians(tilt_degrees)
    column = np.array([0, np.cos(angle), np.sin(angle)])
    corner = phantom.centre - (0, 0, EXTENT_MM / 2)
    corner = corner - (MATRIX - 1) / 2 * PIXEL_MM * (np.array([1, 0, 0]) + column)
    affine = grid_affine(column=column, spacing=(1, PIXEL_MM, PIXEL_MM))
    slices, lesion = [], []
    for place in along:
        affine[:3, 3] = corner + np.array([0, 0, place])
        hounsfield, truth = phantom.render(affine, (1, MATRIX, MATRIX))
        slices.append(hounsfield[0])
        lesion.append(np.argwhere(truth) @ affine[:3, :3].T + affine[:3, 3])

    def placed(header, k):
        header.ImagePositionPatient = decimals(corner + np.array([0, 0, along[k]]))
        header.SliceThickness = decimals([thickness[k] if thickness is not None else 3.0])[0]

    stored = np.rint(np.stack(slices)).astype(np.int16)
    paths = write_slices(folder, stored, affine, change=placed)
    if in_one_instance:
        paths = [write_legacy_converted(folder / "converted.dcm", paths)]
    return paths, np.concatenate(lesion)


EVEN = np.arange(0, EXTENT_MM, 3.0)
BASE = np.arange(0, 60, 2.5)
UNEVEN = np.concatenate([BASE, np.arange(BASE[-1] + 5, EXTENT_MM, 5)])


@pytest.mark.parametrize("side", [Laterality.LEFT, Laterality.RIGHT])
@pytest.mark.parametrize(
    ("geometry", "acquisition"),
    [
        pytest.param(Geometry.TILTED, {"along": EVEN, "tilt_degrees": 18.0}, id="tilted"),
        pytest.param(Geometry.TILTED, {"along": EVEN, "tilt_degrees": -24.0}, id="tilted back"),
        pytest.param(
            Geometry.UNEVEN,
            {"along": UNEVEN, "thickness": np.where(np.arange(len(UNEVEN)) < len(BASE), 2.5, 5.0)},
            id="thin base",
        ),
        pytest.param(
            Geometry.GAPPED,
            {"along": np.delete(EVEN, [30]), "tilt_degrees": 12.0},
            id="tilted, and a slice lost",
        ),
        pytest.param(
            Geometry.TILTED,
            {"along": EVEN[::-1], "tilt_degrees": 15.0, "in_one_instance": True},
            id="tilted frames of one instance",
        ),
        pytest.param(
            Geometry.UNIFORM, {"along": EVEN, "in_one_instance": True}, id="frames of one instance"
        ),
    ],
)
def test_the_results_lie_on_the_images_and_on_the_lesion(
    tmp_path, model, geometry, acquisition, side
):
    paths, lesion = write_head(tmp_path / "head", side, **acquisition)
    assembled = assemble(paths)
    volume = assembled.volume
    assert volume is not None, assembled.verdict.reason
    assert assembled.verdict.geometry is geometry
    assessment = model.assess(volume, at=NOW)
    (finding,) = assessment.record.findings
    assert finding.presence is Presence.PRESENT
    assert finding.laterality is side
    segmentation = write_segmentation(assessment, volume, PROVENANCE)
    report = write_report(assessment, assembled.headers, volume, segmentation, PROVENANCE)
    assert check_objects([segmentation, report], assembled.headers, volume=volume) == []
    partial = geometry is Geometry.GAPPED
    assert report.CompletionFlag == ("PARTIAL" if partial else report.CompletionFlag)
    texts = "\n".join(str(one.value) for one in report.iterall() if one.keyword == "TextValue")
    for note in assembled.verdict.notes:
        assert note.en in texts
        assert note.zh in texts

    path = tmp_path / "segmentation.dcm"
    segmentation.save_as(path, enforce_file_format=True)
    if dciodvfy_missing() is None:
        assert not [line for line in dciodvfy(path) if line.startswith("Error")]
    headers = {str(header.SOPInstanceUID): header for header in assembled.headers}
    for group in dcmread(path).PerFrameFunctionalGroupsSequence:
        (derivation,) = group.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        image = headers[source.ReferencedSOPInstanceUID]
        if "ReferencedFrameNumber" in source:
            groups = image.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
            image = groups.PlanePositionSequence[0]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(np.array(position, float), np.array(image.ImagePositionPatient, float))
    found = patient_points(path)
    assert np.linalg.norm(found.mean(0) - lesion.mean(0)) < 4
    assert overlap(found, lesion) > 0.7


def overlap(found, truth):
    """Dice of two sets of pixel centres."""
    shared = (cKDTree(truth).query(found)[0] < 0.1).sum()
    return 2 * shared / (len(found) + len(truth))
