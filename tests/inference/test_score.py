import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.assessment import Presence
from inference.bundle import BUILTIN, FindingSpec, find_bundle, load_bundle
from inference.score import answer, yes_probability

LOGIT = st.floats(-200, 200, width=32)


@pytest.fixture(scope="module")
def spec() -> FindingSpec:
    finding = load_bundle(find_bundle(BUILTIN)).manifest.finding
    return finding.model_copy(update={"threshold": 0.5, "abstention": (0.4, 0.6)})


@given(yes=LOGIT, no=LOGIT, other=LOGIT)
def test_probability_depends_on_yes_and_no_alone(yes: float, no: float, other: float) -> None:
    logits = np.array([other, yes, no], dtype=np.float32)
    probability = yes_probability(logits, 1, 2)
    assert 0 <= probability <= 1
    assert probability + yes_probability(logits, 2, 1) == pytest.approx(1)
    assert (probability > 0.5) == (logits[1] > logits[2]) or abs(yes - no) < 1e-3


@pytest.mark.parametrize(
    ("probability", "outlined", "expected"),
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
def test_answer(spec: FindingSpec, probability: float, outlined: bool, expected: Presence) -> None:
    presence, reason = answer(probability, spec, outlined=outlined)
    assert presence is expected
    assert (reason is not None) == (expected is Presence.UNDETERMINED)


def test_band_must_hold_the_threshold(spec: FindingSpec) -> None:
    with pytest.raises(ValueError, match="abstention"):
        FindingSpec.model_validate(spec.model_dump() | {"abstention": (0.6, 0.7)})
