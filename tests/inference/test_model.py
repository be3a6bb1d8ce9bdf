from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from inference.assessment import (
    Assessment,
    Laterality,
    Presence,
)
from inference.model import Model
from inference.phantom import HeadPhantom
from inference.simulation import volume_of
from tests.inference.conftest import AT, Scan, centre, dice, scan


def test_a_bleed_is_found_with_evidence(bleeding: Scan, bleeding_assessment: Assessment) -> None:
    record = bleeding_assessment.record
    (finding,) = record.findings
    assert record.completed
    assert finding.presence is Presence.PRESENT
    assert finding.probability is not None
    assert finding.probability > finding.threshold
    assert finding.laterality is Laterality.LEFT
    mask = bleeding_assessment.masks[1]
    assert mask.shape == bleeding.volume.grid.spatial_shape
    assert dice(mask, bleeding.truth) > 0.75
    assert finding.evidence is not None
    assert finding.evidence.best_slice == mask.sum(axis=(1, 2)).argmax()
    assert set(finding.evidence.slices) == set(np.flatnonzero(mask.any(axis=(1, 2))))


def test_measurements_are_those_of_the_mask(
    bleeding: Scan, bleeding_assessment: Assessment
) -> None:
    volume_ml, axis_mm = bleeding_assessment.record.findings[0].measurements
    expected = bleeding_assessment.masks[1].sum() * bleeding.volume.voxel_volume_ml
    assert volume_ml.value == pytest.approx(expected, abs=0.01)
    assert volume_ml.unit.value == "mL"
    assert 15 < axis_mm.value < 60
    assert axis_mm.unit.value == "mm"


def test_key_slices_show_the_finding(bleeding_assessment: Assessment) -> None:
    record = bleeding_assessment.record
    evidence = record.findings[0].evidence
    assert evidence is not None
    assert 3 <= len(record.key_slices) <= 5
    assert evidence.best_slice in record.key_slices
    assert set(record.key_slices) <= set(evidence.slices)
    assert list(record.key_slices) == sorted(record.key_slices)


def test_a_clear_head_is_absent_with_key_slices_over_the_head(
    clear: Scan, clear_assessment: Assessment
) -> None:
    record = clear_assessment.record
    assert record.findings[0].presence is Presence.ABSENT
    assert record.findings[0].evidence is None
    assert record.segments == ()
    assert not clear_assessment.masks
    assert len(record.key_slices) == 4
    assert max(record.key_slices) < clear.volume.grid.spatial_shape[0]


def test_narratives_agree_with_the_findings(
    bleeding_assessment: Assessment, clear_assessment: Assessment
) -> None:
    found, none = bleeding_assessment.record.narrative, clear_assessment.record.narrative
    assert found is not None
    assert none is not None
    assert "left" in found.en
    assert "左侧" in found.zh
    assert none.en.startswith("No ")
    assert none.zh.startswith("未见")


def test_everything_says_that_it_is_a_demonstration(
    bleeding_assessment: Assessment, clear_assessment: Assessment
) -> None:
    for assessment in (bleeding_assessment, clear_assessment):
        assert assessment.record.model.demonstration
        assert any("Not for clinical use" in text.en for text in assessment.record.limitations)
        assert any("不得用于临床" in text.zh for text in assessment.record.limitations)


def test_the_same_volume_gives_the_same_assessment(
    model: Model, bleeding: Scan, bleeding_assessment: Assessment
) -> None:
    again = model.assess(bleeding.volume, at=AT)
    assert again.record == bleeding_assessment.record
    np.testing.assert_array_equal(again.masks[1], bleeding_assessment.masks[1])


VIEWS = [
    (Laterality.LEFT, {"reverse": True}),
    (Laterality.RIGHT, {"plane": "sagittal"}),
    (Laterality.LEFT, {"plane": "sagittal", "reverse": True}),
    (Laterality.RIGHT, {"turn_degrees": (14.0, -6.0, 9.0)}),
    (Laterality.LEFT, {"turn_degrees": (14.0, -6.0, 9.0), "reverse": True}),
]


@pytest.mark.parametrize(("side", "view"), VIEWS, ids=str)
def test_the_segment_lies_on_the_truth_in_patient_coordinates(
    model: Model, side: Laterality, view: dict[str, object]
) -> None:
    phantom = HeadPhantom(61, haemorrhage=True, diameter_mm=28, side=side)
    shape = (56, 110, 110) if "plane" in view else (46, 110, 110)
    seen = scan(phantom, shape, (3.5, 2.1, 2.1), **view)
    assessment = model.assess(seen.volume, at=AT)
    (finding,) = assessment.record.findings
    assert finding.presence is Presence.PRESENT
    assert finding.laterality is side
    mask = assessment.masks[1]
    assert dice(mask, seen.truth) > 0.7
    assert phantom.lesion is not None
    where = centre(mask, seen.volume.grid.affine)
    assert np.linalg.norm(where - phantom.lesion.centre) < 4


def test_the_picture_decides(model: Model, bleeding: Scan, clear_assessment: Assessment) -> None:
    """With the bleed painted over by brain, or drowned in noise, the answer is another one."""
    hu = bleeding.volume.grid.array.copy()
    hu[binary_dilation(bleeding.truth, iterations=2)] = 32
    healed = model.assess(volume_of(hu, bleeding.volume.grid.affine), at=AT)
    assert healed.record.findings[0].presence is not Presence.PRESENT
    before = model.assess(bleeding.volume, at=AT).record.findings[0].probability
    after = healed.record.findings[0].probability
    assert before is not None
    assert after is not None
    assert before - after > 0.3
    assert clear_assessment.record.findings[0].probability != before


def test_mr_and_noise_are_not_assessed(model: Model, bleeding: Scan) -> None:
    noise = np.random.default_rng(0).normal(0, 300, bleeding.volume.grid.spatial_shape)
    for volume in (
        replace(bleeding.volume, modality="MR"),
        volume_of(noise.astype(np.float32), bleeding.volume.grid.affine),
    ):
        record = model.assess(volume, at=AT).record
        assert not record.completed
        assert record.findings == ()
        assert record.limitations[0].en
        assert record.limitations[0].zh


def test_progress_is_told(model: Model, clear: Scan) -> None:
    told: list[str] = []
    model.assess(clear.volume, at=AT, progress=told.append)
    assert told == ["looking", "asking", "outlining", "writing"]


def test_the_volumes_own_limitations_are_passed_on(model: Model, clear: Scan) -> None:
    statement = model.assess(clear.volume, at=AT).record.limitations[0]
    volume = replace(clear.volume, limitations=(statement, statement))
    assert len(model.assess(volume, at=AT).record.limitations) >= 3


def test_a_sentence_that_the_limit_cuts_off_is_left_out(model: Model, bleeding: Scan) -> None:
    reading = model.reader.read(bleeding.volume, ())
    seen = model.language.look(reading.pictures)
    asked = model.manifest.prompts.narrative.en
    whole = model.language.report(seen, asked)
    assert whole.endswith(".")
    prompts = model.language.prompts
    try:
        model.language.prompts = prompts.model_copy(update={"max_new_tokens": 4})
        assert whole.startswith(model.language.write(seen, asked))
        assert model.language.report(seen, asked) == ""
    finally:
        model.language.prompts = prompts
