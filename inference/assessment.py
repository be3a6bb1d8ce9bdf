"""The Assessment type: what a model says about one series, with the evidence for each statement.

Made by a model in `inference`, read by `sr_writer` and the status pages.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Mask = npt.NDArray[np.bool_]
ProbabilityMap = npt.NDArray[np.uint8]
"""Probability in 255ths, 255 being certain."""


LabelArray = npt.NDArray[np.uint8 | np.uint16]


class LabelMap(Mapping[int, Mask]):
    """Masks that do not overlap, each made when it is asked for: a hundred would not fit in memory.

    `labels` [slice, row, column] has the number of the segment that a voxel is part of, from 1 to
    `count`, and 0 where it is part of none.
    """

    def __init__(self, labels: LabelArray, count: int) -> None:
        self.labels = labels
        self._numbers = range(1, count + 1)

    def __getitem__(self, number: int) -> Mask:
        if number not in self._numbers:
            raise KeyError(number)
        mask: Mask = self.labels == number
        return mask

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(_Frozen):
    """The same statement in both report languages."""

    en: str
    zh: str


class NotForThisModel(Exception):  # noqa: N818 - a refusal, not a failure
    """The volume is not what the model is for; `reason` says why."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.reason = Text(en=en, zh=zh)


PRIVATE_SCHEME = "99OVERREAD"
"""Coding Scheme Designator of concepts that no terminology has (PS3.3 Section 8.2)."""


class Code(_Frozen):
    """A coded concept: code value, coding scheme designator, code meaning (PS3.3 Section 8)."""

    value: str
    scheme: str
    meaning: str


class Presence(StrEnum):
    """What the model says of a finding; `UNDETERMINED` is an abstention, never a guess."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


class Laterality(StrEnum):
    """The patient's side, from patient coordinates (LPS), never from the image's left and right."""

    LEFT = "left"
    RIGHT = "right"
    BILATERAL = "bilateral"


class Measurement(_Frozen):
    """A quantity measured on one segment; `unit` is UCUM."""

    code: Code
    value: float
    unit: Code
    segment: int = Field(description="number of the Segment that was measured")


class Evidence(_Frozen):
    """Where in the volume a finding is seen: a segment and the slices it spans, or slices alone."""

    segment: int | None
    slices: tuple[int, ...] = Field(description="indices along the volume's first axis, ascending")
    best_slice: int = Field(description="the slice that shows the most of it")


class Finding(_Frozen):
    """One question the model was asked, and its answer.

    A finding that is `PRESENT` always has evidence. `ABSENT` refers to the whole volume.
    `reason` says why the model abstained, and is None otherwise.
    """

    name: str
    label: Text
    code: Code
    presence: Presence
    probability: float | None = Field(default=None, ge=0, le=1)
    threshold: float = Field(ge=0, le=1)
    site: Code | None = None
    laterality: Laterality | None = None
    evidence: Evidence | None = None
    measurements: tuple[Measurement, ...] = ()
    reason: Text | None = None


class Segment(_Frozen):
    """What one mask outlines; `number` counts from 1 and is the SEG's Segment Number."""

    number: int = Field(ge=1)
    label: str
    category: Code
    type: Code
    site: Code | None = None


class ModelIdentity(_Frozen):
    """Which model speaks. `digest` is the SHA-256 over the bundle's manifest and files."""

    name: str
    version: str
    manufacturer: str
    digest: str
    demonstration: bool
    intended_use: Text


class AssessmentRecord(_Frozen):
    """The part of an Assessment that is not voxels."""

    model: ModelIdentity
    completed: bool = Field(description="False: the volume was not assessed; limitations say why")
    findings: tuple[Finding, ...] = ()
    segments: tuple[Segment, ...] = ()
    key_slices: tuple[int, ...] = ()
    narrative: Text | None = Field(default=None, description="model text, no finding of its own")
    limitations: tuple[Text, ...] = ()
    assessed_at: datetime
    provider: str = Field(default="", description="ONNX Runtime execution provider that was used")


@dataclass(frozen=True)
class Assessment:
    """A record and its masks: segment number -> boolean array [slice, row, column] on the grid.

    Many masks that do not overlap are best given as a `LabelMap`.
    `probabilities` has, for segments of models that give one, how probable each voxel is part of
    it, in the shape of its mask.
    """

    record: AssessmentRecord
    masks: Mapping[int, Mask] = field(default_factory=dict)
    probabilities: Mapping[int, ProbabilityMap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {segment.number for segment in self.record.segments}
        if numbers != set(self.masks):
            raise ValueError(f"segments {sorted(numbers)} but masks {sorted(self.masks)}")
        for number, probability in self.probabilities.items():
            if number not in numbers or probability.shape != self.masks[number].shape:
                raise ValueError(f"the probability map {number} is not on the grid of a mask")
        for finding in self.record.findings:
            if finding.presence is Presence.PRESENT and finding.evidence is None:
                raise ValueError(f"finding {finding.name} is present without evidence")
            outlined = finding.evidence.segment if finding.evidence else None
            if outlined is not None and outlined not in numbers:
                raise ValueError(f"finding {finding.name} points at a segment that is not there")


def not_assessed(model: ModelIdentity, reasons: tuple[Text, ...], at: datetime) -> Assessment:
    """The honest answer where there is none: no finding, and why."""
    return Assessment(
        AssessmentRecord(model=model, completed=False, limitations=reasons, assessed_at=at)
    )
