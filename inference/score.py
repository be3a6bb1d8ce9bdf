"""From the decoder's yes/no logits to a probability, and from a probability to an answer."""

import math

import numpy as np
import numpy.typing as npt

from inference.assessment import Presence, Text
from inference.bundle import FindingSpec

_IN_BAND = Text(
    en="The model's answer is too uncertain to report.",
    zh="模型结果不确定，不予判定。",
)
_NO_MASK = Text(
    en="The model answered yes but outlined nothing; without evidence nothing is reported.",
    zh="模型回答为阳性，但未能勾画出病灶；缺乏依据，不予判定。",
)


def yes_probability(logits: npt.NDArray[np.float32], yes_id: int, no_id: int) -> float:
    """Probability of yes among yes and no, from the logits (vocabulary,) of the answer's token."""
    odds = float(logits[yes_id]) - float(logits[no_id])
    return 1 / (1 + math.exp(-min(max(odds, -60.0), 60.0)))


def answer(
    probability: float, finding: FindingSpec, *, outlined: bool
) -> tuple[Presence, Text | None]:
    """What is reported, and why not where the model abstains.

    Present needs both a probability at or over the threshold and an outlined mask.
    """
    low, high = finding.abstention
    if low < probability < high:
        return Presence.UNDETERMINED, _IN_BAND
    if probability < finding.threshold:
        return Presence.ABSENT, None
    if not outlined:
        return Presence.UNDETERMINED, _NO_MASK
    return Presence.PRESENT, None
