"""Real scans that the built-in model is not for: each is refused with a reason, none guessed at."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # as its documentation does

from inference.bundle import find_bundle
from inference.model import load_model
from inference.providers import SessionSettings
from inference.simulation import volume_of
from node.assembly import assemble

DATA = Path(__file__).parents[3] / "shared" / "data"
NOW = datetime(2026, 1, 2, tzinfo=UTC)

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the real scans are not on this machine")


@pytest.fixture(scope="module")
def model():
    return load_model(find_bundle("builtin/head_ct"), SessionSettings())


def read_nifti(path):
    """A NIfTI file as a Volume; SimpleITK gives its geometry in LPS."""
    image = sitk.ReadImage(str(path))
    spacing, direction = np.array(image.GetSpacing()), np.array(image.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = (direction * spacing)[:, ::-1]  # array axes are z, y, x
    affine[:3, 3] = image.GetOrigin()
    return volume_of(sitk.GetArrayFromImage(image).astype(np.float32), affine)


def check_refused(record):
    assert not record.completed
    assert not record.findings
    assert record.limitations[0].en
    assert record.limitations[0].zh


def test_a_thorax_and_abdomen_ct_is_not_assessed_as_a_head(model):
    check_refused(model.assess(read_nifti(DATA / "nifti" / "example_ct.nii.gz"), at=NOW).record)


def test_an_abdominal_ct_with_stripped_headers_is_assembled_and_not_assessed(model):
    assembled = assemble(sorted((DATA / "ct-dicom-20").iterdir()))
    if assembled.volume is None:
        assert assembled.verdict.reason is not None
        return
    check_refused(model.assess(assembled.volume, at=NOW).record)
