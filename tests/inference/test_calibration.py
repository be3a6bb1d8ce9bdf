import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from inference.calibration import MIN_CASES, CalibrationError, calibrate, fit, reliability
from inference.manifest import Manifest, scored_by
from inference.score import probability
from tests.inference.manifests import HAEMORRHAGE, SHIFT, manifest

BOTH = np.arange(2 * MIN_CASES) % 2 == 1
"""As few cases as a calibration may have, every other one with the finding."""


def cases(seed: int, slope: float, intercept: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds, and labels drawn as a model of these coefficients would have them."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 3, count)
    return odds, rng.random(count) < expit(slope * odds + intercept)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    slope=st.floats(0.3, 2.0),
    intercept=st.floats(-1.5, 1.5),
)
def test_fit_finds_the_coefficients(seed: int, slope: float, intercept: float) -> None:
    found = fit(*cases(seed, slope, intercept, 20000))
    assert found == pytest.approx((slope, intercept), abs=0.2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_fit_does_not_depend_on_the_scale_of_the_log_odds(
    seed: int, scale: float, shift: float
) -> None:
    odds, labels = cases(seed, 1.0, 0.0, 300)
    slope, intercept = fit(odds, labels)
    moved_slope, moved_intercept = fit(odds * scale + shift, labels)
    moved = moved_slope * (odds * scale + shift) + moved_intercept
    np.testing.assert_allclose(expit(moved), expit(slope * odds + intercept), atol=1e-4)


def test_fit_is_at_the_least_cross_entropy() -> None:
    odds, labels = cases(7, 0.8, -0.3, 200)
    slope, intercept = fit(odds, labels)
    target = np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))
    error = expit(slope * odds + intercept) - target
    assert [np.mean(error), np.mean(error * odds)] == pytest.approx([0, 0], abs=1e-6)


def test_cases_that_part_cleanly_give_platts_targets() -> None:
    slope, intercept = fit(np.where(BOTH, 1.0, -1.0), BOTH)
    assert expit(slope + intercept) == pytest.approx((MIN_CASES + 1) / (MIN_CASES + 2), abs=1e-5)
    assert expit(intercept - slope) == pytest.approx(1 / (MIN_CASES + 2), abs=1e-5)


@pytest.mark.parametrize(
    ("odds", "labels", "why"),
    [
        (np.where(BOTH, 1.0, -1.0)[1:], BOTH[1:], "19 without; a calibration needs 20"),
        (np.where(BOTH, 1.0, -1.0)[:-1], BOTH[:-1], "19 cases with"),
        (np.where(BOTH, -1.0, 1.0), BOTH, "not informative.*does not rise"),
        (np.repeat(np.arange(MIN_CASES) * 1.0, 2), BOTH, "not informative"),
        (np.full(BOTH.size, 0.1), BOTH, "not informative.*same"),
        (np.where(BOTH, np.nan, -1.0), BOTH, "20 of 40 cases are not finite"),
        (np.where(BOTH, np.inf, -1.0), BOTH, "not finite"),
        (np.where(BOTH, 1.0, -1.0)[:-1], BOTH, "numbers .39,. but labels .40,."),
        (np.zeros((2, 2)), np.zeros((2, 2)), "numbers"),
        (np.where(BOTH, 1.0, -1.0), BOTH * 2, "labels are true or false"),
        ([], [], "0 cases with"),
    ],
)
def test_cases_that_make_no_calibration(odds, labels, why: str) -> None:
    with pytest.raises(CalibrationError, match=why):
        fit(odds, labels)


def test_calibrate_changes_the_measured_findings_alone() -> None:
    bundle = manifest(HAEMORRHAGE, SHIFT)
    odds, labels = cases(3, 0.5, 1.0, 400)
    done = calibrate(bundle, {SHIFT.name: (odds, labels)})
    assert done.findings[0] == HAEMORRHAGE
    calibration = done.findings[1].calibration
    assert calibration is not None
    assert (calibration.cases, calibration.scored_by) == (400, scored_by(bundle, SHIFT))
    assert (calibration.slope, calibration.intercept) == fit(odds, labels)
    assert done.model_copy(update={"findings": bundle.findings}) == bundle
    assert Manifest.model_validate_json(done.model_dump_json()) == done


def test_calibrate_names_the_finding_that_it_cannot_calibrate() -> None:
    bundle = manifest(HAEMORRHAGE, SHIFT)
    with pytest.raises(CalibrationError, match="midline_shift: 0 cases with"):
        calibrate(bundle, {SHIFT.name: ([], [])})
    with pytest.raises(CalibrationError, match="Test model has no finding fracture"):
        calibrate(bundle, {"fracture": ([], [])})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), slope=st.floats(0.15, 0.6), intercept=st.floats(-1, 1))
def test_calibration_makes_overconfident_answers_more_reliable(
    seed: int, slope: float, intercept: float
) -> None:
    bundle = manifest(HAEMORRHAGE)
    done = calibrate(bundle, {HAEMORRHAGE.name: cases(seed, slope, intercept, 2000)}).findings[0]
    odds, labels = cases(seed ^ 1, slope, intercept, 2000)
    before = reliability([probability(one, None) for one in odds], labels)
    after = reliability([probability(one, done.calibration) for one in odds], labels)
    assert after.brier < before.brier
    assert after.expected_error < before.expected_error


@pytest.mark.parametrize(
    "change",
    [
        {"splice": {"tokens": 5}},
        {"decoder": {"precision": "int4"}},
        {"prompts": {"context": "Indication: {context} "}},
        {"preprocessing": {"min_slices": 9}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_calibration_is_bound_to_all_that_makes_the_log_odds(change) -> None:
    bundle = manifest(SHIFT)
    ((field, update),) = change.items()
    value = getattr(bundle, field).model_copy(update=update)
    changed = bundle.model_copy(update={field: value})
    assert scored_by(changed, SHIFT) != scored_by(bundle, SHIFT)
    retrained = bundle.model_copy(update={"files": {"vision.onnx": "1" * 64}})
    assert scored_by(retrained, SHIFT) != scored_by(bundle, SHIFT)
    assert scored_by(bundle, HAEMORRHAGE) != scored_by(bundle, SHIFT)
    renamed = bundle.model_copy(update={"version": "2", "findings": (HAEMORRHAGE, SHIFT)})
    assert scored_by(renamed, SHIFT) == scored_by(bundle, SHIFT)


def test_reliability_by_hand() -> None:
    # Bins 0.0-0.1: (0.05, 0.05; none has it), 0.9-1.0: (0.9, 1.0; one has it), 0.4: (it has it).
    measured = reliability([0.05, 0.05, 0.9, 1.0, 0.4], [0, 0, 0, 1, 1])
    assert measured.brier == pytest.approx((0.0025 + 0.0025 + 0.81 + 0.0 + 0.36) / 5)
    assert measured.expected_error == pytest.approx((0.1 + 0.9 + 0.6) / 5)


def test_reliability_of_the_truth_and_of_its_opposite() -> None:
    assert reliability([0.0, 1.0], [0, 1]) == reliability([1.0], [True])
    assert (reliability([1.0, 0.0], [0, 1]).brier, reliability([1.0], [0]).expected_error) == (1, 1)


@pytest.mark.parametrize("bad", [[], [1.5], [-0.1], [np.nan]])
def test_reliability_needs_probabilities(bad: list[float]) -> None:
    with pytest.raises(CalibrationError):
        reliability(bad, [1] * len(bad))
