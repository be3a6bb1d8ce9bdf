"""From the logits at an answer's first token to a probability, and from that to an answer."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp

from inference.assessment import Presence, Text
from inference.manifest import Calibration, FindingSpec

_IN_BAND = Text(
    en="The model's answer is too uncertain to report.",
    zh="模型结果不确定，不予判定。",
)
_NO_EVIDENCE = Text(
    en="The model answered yes but could not show where; without evidence nothing is reported.",
    zh="模型回答为阳性，但未能指出所在部位；缺乏依据，不予判定。",
)


def log_odds(
    logits: npt.NDArray[np.float32], yes_ids: Sequence[int], no_ids: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Log-odds of yes against no, natural logarithm, (questions,) from logits (questions, V).

    Several tokens may mean yes ("Yes", " yes", "是"): their probabilities are added. Raises
    ValueError for logits that are not finite: an overflow in the graph is no answer.
    """
    yes, no = logits[:, list(yes_ids)], logits[:, list(no_ids)]
    if not (np.isfinite(yes).all() and np.isfinite(no).all()):
        raise ValueError(
            "the decoder gave logits of yes and no that are not finite; "
            "export the model in a precision with a wider range (bf16 or fp32)"
        )
    return np.asarray(
        logsumexp(yes.astype(np.float64), axis=1) - logsumexp(no.astype(np.float64), axis=1)
    )


def probability(log_odds: float, calibration: Calibration | None) -> float:
    """Probability of the finding; without a calibration the log-odds are taken as they are."""
    if calibration is not None:
        log_odds = calibration.slope * log_odds + calibration.intercept
    return float(expit(log_odds))


def answer(
    probability: float, finding: FindingSpec, *, evidence: bool
) -> tuple[Presence, Text | None]:
    """What is reported, and why not where the model abstains.

    Present needs both a probability at or over the threshold and evidence in the volume.
    """
    low, high = finding.abstention
    if low < probability < high:
        return Presence.UNDETERMINED, _IN_BAND
    if probability < finding.threshold:
        return Presence.ABSENT, None
    if not evidence:
        return Presence.UNDETERMINED, _NO_EVIDENCE
    return Presence.PRESENT, None
