import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from inference.assessment import Presence
from inference.manifest import Calibration, FindingSpec
from inference.score import answer, log_odds, probability
from tests.inference.manifests import HAEMORRHAGE

SPEC = HAEMORRHAGE.model_copy(update={"threshold": 0.5, "abstention": (0.4, 0.6)})
DOUBLED = Calibration(slope=2.0, intercept=-1.0, cases=40, scored_by="0" * 64)


@given(rows=st.lists(st.tuples(*[st.floats(-20, 20, width=32)] * 6), min_size=1, max_size=4))
def test_log_odds_are_of_the_summed_probabilities(rows: list[tuple[float, ...]]) -> None:
    logits = np.array(rows, dtype=np.float32)
    chances = softmax(logits.astype(np.float64), axis=1)
    expected = np.log(chances[:, [1, 4]].sum(axis=1) / chances[:, [0, 2, 5]].sum(axis=1))
    np.testing.assert_allclose(log_odds(logits, (1, 4), (0, 2, 5)), expected, atol=1e-9)


def test_log_odds_do_not_overflow() -> None:
    logits = np.array([[60000.0, -60000.0]], dtype=np.float32)
    assert log_odds(logits, (0,), (1,)) == 120000.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_no_answer(bad: float) -> None:
    logits = np.array([[0.0, 1.0, bad], [0.0, 1.0, 2.0]], dtype=np.float32)
    with pytest.raises(ValueError, match="not finite"):
        log_odds(logits, (1,), (2,))
    assert log_odds(logits, (1,), (0,)) == pytest.approx([1.0, 1.0])


def test_probability_is_the_logistic_of_the_calibrated_log_odds() -> None:
    assert probability(0.0, None) == 0.5
    assert probability(np.log(3.0), None) == pytest.approx(0.75)
    assert probability(0.5, DOUBLED) == 0.5
    assert probability(0.5 + np.log(3.0) / 2, DOUBLED) == pytest.approx(0.75)


@given(odds=st.floats(-1e6, 1e6), calibrated=st.booleans())
def test_probability_stays_in_range(odds: float, calibrated: bool) -> None:
    assert 0 <= probability(odds, DOUBLED if calibrated else None) <= 1


@pytest.mark.parametrize(
    ("chance", "evidence", "expected"),
    [
        (0.9, True, Presence.PRESENT),
        (0.9, False, Presence.UNDETERMINED),
        (0.6, True, Presence.PRESENT),
        (0.5, True, Presence.UNDETERMINED),
        (0.41, False, Presence.UNDETERMINED),
        (0.4, True, Presence.ABSENT),
        (0.0, True, Presence.ABSENT),
    ],
)
def test_answer(chance: float, evidence: bool, expected: Presence) -> None:
    presence, reason = answer(chance, SPEC, evidence=evidence)
    assert presence is expected
    assert (reason is not None) == (expected is Presence.UNDETERMINED)


def test_band_must_hold_the_threshold() -> None:
    with pytest.raises(ValueError, match="abstention"):
        FindingSpec.model_validate(SPEC.model_dump() | {"abstention": (0.6, 0.7)})
