"""What a family module gives to the common way from a volume to an assessment.

A family is a `Reader`: it turns a volume into pictures for its vision graph, and finds the
evidence of a finding in them. Prompts, scores, text and the assessment are the same for all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inference.assessment import Laterality, Mask, NotForThisModel, ProbabilityMap, Text
from inference.manifest import FindingSpec
from inference.volume import Volume

__all__ = ["Floats", "Found", "NotForThisModel", "Reader", "Reading"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Found:
    """Where a finding is seen: a mask [slice, row, column] on the volume's grid, or slices alone.

    `slices` are indices along the volume's first axis, ascending; `best_slice` is one of them.
    `probabilities` makes the map that the mask was cut from, where a destination takes it.
    """

    slices: tuple[int, ...]
    best_slice: int
    mask: Mask | None = None
    laterality: Laterality | None = None
    probabilities: Callable[[], ProbabilityMap] | None = None

    @staticmethod
    def outlined(
        mask: Mask,
        laterality: Laterality | None,
        probabilities: Callable[[], ProbabilityMap] | None = None,
    ) -> "Found | None":
        """Evidence by a mask; None where it is empty."""
        area = mask.sum(axis=(1, 2))
        if not area.any():
            return None
        slices = tuple(int(index) for index in np.flatnonzero(area))
        return Found(slices, int(area.argmax()), mask, laterality, probabilities)


class Reading(Protocol):
    """One volume as the model sees it."""

    @property
    def pictures(self) -> Sequence[Floats]:
        """Image tokens (tokens, width) of each picture, in the order of the prompt."""

    @property
    def captions(self) -> Mapping[int, str]:
        """Text before some of the pictures, by their place, such as which is the prior."""

    @property
    def limitations(self) -> Sequence[Text]:
        """What must be said of how the volume was read."""

    def evidence(self, finding: FindingSpec) -> Found | None:
        """Where `finding`, whose probability is over its threshold, is seen."""

    def key_slices(self) -> Sequence[int]:
        """Slices that show what was read, where nothing is found."""


class Reader(Protocol):
    """A family's half of a loaded model."""

    def read(self, volume: Volume, priors: Sequence[Volume]) -> Reading:
        """Prepare and encode; raises NotForThisModel."""
