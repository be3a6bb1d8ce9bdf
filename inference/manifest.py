"""`manifest.json`: everything that a bundle needs beyond its weights, as pydantic models.

How a volume is brought before the vision graph, where the image tokens stand in the prompt, what
is asked, how an answer becomes a probability, and which codes it carries.
"""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inference.assessment import Code, Text
from inference.coding import concept_of, with_codes

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Modality = Literal["CT", "MR"]

IMAGE, QUESTION, CONTEXT = "{image}", "{question}", "{context}"
"""What a prompt template holds the place of."""

_MAKES_LOG_ODDS = {"files", "preprocessing", "splice", "prompts", "decoder"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plausibility(_Frozen):
    """What a volume must look like to be a head that is covered well enough."""

    max_spacing_mm: float
    min_coverage_mm: float
    min_slices: int
    bone_hu: float
    tissue_hu: tuple[float, float] = Field(description="range of what the skull should enclose")
    min_enclosed_area_cm2: float = Field(description="for a model slice to count as brain level")
    min_enclosed_mm: float = Field(description="over this height")
    min_tissue_fraction: float = Field(description="share of the enclosed area in tissue_hu")


class HeadGrid(_Frozen):
    """The volume resampled to a grid upright in patient coordinates, placed on the head.

    Slices towards the vertex, rows to the back, columns to the left; `spacing_mm` and `size` are
    (slice, row, column). Each window is a channel scaled to 0..1.
    """

    kind: Literal["head_grid"] = "head_grid"
    modality: Literal["CT"]
    spacing_mm: tuple[float, float, float]
    size: tuple[int, int, int]
    interpolation: Literal["linear"]
    windows_hu: tuple[tuple[float, float], ...]
    foreground_hu: float
    centre_below_vertex_mm: float
    plausibility: Plausibility


class KeySlices(_Frozen):
    """Some slices of the volume as pictures for a model of two dimensions.

    Slices are taken from the acquisition, turned as the radiologist hangs them (PS3.3 C.7.6.2),
    windowed, padded to a square with the normalisation's mean, resized and normalised.
    """

    kind: Literal["key_slices"] = "key_slices"
    modalities: tuple[Modality, ...]
    window: tuple[float, float] | None = Field(
        description="lower, upper value; None: percentiles 1 to 99 of the foreground (MR)"
    )
    size: int = Field(gt=0, description="pixels along each side of a picture")
    interpolation: Literal["bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rule: Literal["uniform", "scored"] = Field(
        description="over the body's extent; or the best of a first pass of scores"
    )
    count: int = Field(ge=1, le=64, description="slices that the model sees at once")
    presentation: Literal["images", "montage"]


class ForegroundVolume(_Frozen):
    """The whole volume, cropped to its foreground and stretched to the model's size.

    Slices towards the head, rows to the back, columns to the left; values are windowed to 0..1.
    """

    kind: Literal["foreground_volume"] = "foreground_volume"
    modalities: tuple[Modality, ...]
    window: tuple[float, float] | None = Field(
        description="lower, upper value; None: from the least to the greatest"
    )
    size: tuple[int, int, int]
    interpolation: Literal["trilinear"]
    min_slices: int


Preprocessing = Annotated[HeadGrid | KeySlices | ForegroundVolume, Field(discriminator="kind")]


class Splice(_Frozen):
    """How image tokens enter the sequence, and how many there are to a picture.

    `placeholder`, `fixed_offset` and `virtual_vocabulary` models see them as embeddings where the
    template says {image}; `cross_attention` models see them beside the text.
    """

    kind: Literal["placeholder", "fixed_offset", "virtual_vocabulary", "cross_attention"]
    tokens: int = Field(gt=0)


class Prompts(_Frozen):
    """What is said to the model.

    `template` holds {image} once, where the pictures go, and {question}. Each part between the
    pictures is tokenised by itself, as the published models do; `first_ids` open the sequence.
    """

    template: str
    picture_separator: str = Field(default="", description="text between pictures")
    context: str = Field(default="", description="put before the question; holds {context}")
    narrative: Text
    structured: str | None = Field(
        default=None, description="question that is answered as JSON; None: the model cannot"
    )
    segment: str | None = Field(default=None, description="asks for an outline; holds {question}")
    first_ids: tuple[int, ...]
    stop_ids: tuple[int, ...] = Field(min_length=1)
    yes_ids: tuple[int, ...] = Field(min_length=1, description="first tokens that mean yes")
    no_ids: tuple[int, ...] = Field(min_length=1)
    segment_id: int | None = Field(default=None, description="token whose state makes the outline")
    max_new_tokens: int = Field(gt=0, le=4096)
    repetition_penalty: float = Field(default=1.0, ge=1.0, le=2.0)

    @model_validator(mode="after")
    def _places_are_held(self) -> "Prompts":
        if self.template.count(IMAGE) != 1 or self.template.count(QUESTION) != 1:
            raise ValueError(f"template must hold {IMAGE} and {QUESTION} once")
        if self.template.index(IMAGE) > self.template.index(QUESTION):
            raise ValueError(f"template must hold {IMAGE} before {QUESTION}")
        if self.context and CONTEXT not in self.context:
            raise ValueError(f"context must hold {CONTEXT}")
        if set(self.yes_ids) & set(self.no_ids):
            raise ValueError("a token cannot mean both yes and no")
        return self


class DecoderShape(_Frozen):
    """Sizes of the decoder graph and of its key-value cache."""

    layers: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    width: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    max_length: int = Field(gt=0, description="positions that the cache holds")
    precision: Precision
    packed: bool = Field(description="takes an attention bias, so that questions can be packed")


class WordsOf(_Frozen):
    """Words in a narrative that state a finding, its absence or a place; for grounding."""

    present: Text
    absent: Text
    midline: Text | None = None
    regions: tuple[Text, ...] = Field(default=(), description="the same in both languages")


class SegmentSpec(_Frozen):
    """What the outline of a finding is called, and what counts as one.

    `category` and `type` are codes, or keys of the coding table.
    """

    category: Code
    type: Code
    mask_threshold: float = Field(default=0.5, gt=0, lt=1)
    min_volume_ml: float = Field(default=0.0, ge=0)


class Calibration(_Frozen):
    """Platt scaling: probability = logistic(slope x log-odds + intercept).

    `scored_by` is the digest of all that made the log-odds: it is valid for nothing else.
    """

    slope: float = Field(gt=0)
    intercept: float
    cases: int = Field(gt=0)
    scored_by: str


class FindingSpec(_Frozen):
    """One question that the model answers, and what its answer means.

    `code` and `site` are codes, or keys of the coding table; a label that is left out is the one
    that the table has for the key.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    label: Text
    code: Code
    site: Code
    question: str = Field(min_length=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    abstention: tuple[float, float] = Field(
        default=(0.35, 0.65), description="probabilities from, to: no answer given"
    )
    calibration: Calibration | None = None
    words: WordsOf
    segment: SegmentSpec | None = Field(
        default=None, description="None: the evidence is a slice, not an outline"
    )

    @model_validator(mode="before")
    @classmethod
    def _label_has_codes(cls, fields: Any) -> Any:
        return _coded(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _band_holds_threshold(self) -> "FindingSpec":
        low, high = self.abstention
        if not 0 <= low <= self.threshold <= high <= 1:
            raise ValueError(f"abstention band {low}..{high} must hold threshold {self.threshold}")
        return self


def _coded(fields: dict[str, Any]) -> dict[str, Any]:
    """A finding as a card or a manifest has it, with the codes that its keys name."""
    name = str(fields.get("name", ""))
    coded = with_codes(fields, {"code": "findings", "site": "sites"}, name)
    if isinstance(fields["code"], str) and "label" not in fields:
        coded["label"] = concept_of("findings", fields["code"]).label
    segment = fields.get("segment")
    if isinstance(segment, dict):
        coded["segment"] = with_codes(
            segment, {"category": "segment_categories", "type": "segment_types"}, name
        )
    return coded


class Origin(_Frozen):
    """How the graphs were made."""

    source: str = Field(description="the checkpoint, by name and SHA-256 of its files")
    tools: dict[str, str]
    parity_error: float = Field(description="largest difference from torch over all graphs")


class Manifest(_Frozen):
    """`manifest.json`."""

    format: Literal[2]
    family: str
    name: str
    version: str
    manufacturer: str
    licence: str
    demonstration: bool
    intended_use: Text
    statement: Text = Field(description="said in every assessment")
    files: dict[str, str] = Field(description="file name -> SHA-256, hexadecimal")
    preprocessing: Preprocessing
    splice: Splice
    prompts: Prompts
    decoder: DecoderShape
    findings: tuple[FindingSpec, ...] = Field(min_length=1)
    origin: Origin
    performance: dict[str, float] | None = Field(
        default=None, description="what was measured, absent until it was"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Manifest":
        names = [finding.name for finding in self.findings]
        if len(set(names)) < len(names):
            raise ValueError("two findings have the same name")
        return self


def mistakes_of(error: ValidationError) -> str:
    """All that is wrong with a manifest or a card: which field, and what."""
    return "; ".join(
        f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"
        for detail in error.errors()
    )


def scored_by(manifest: Manifest, finding: FindingSpec) -> str:
    """SHA-256, hexadecimal, over all that makes the log-odds of a finding."""
    content = manifest.model_dump_json(include=_MAKES_LOG_ODDS)
    return hashlib.sha256(f"{content}\n{finding.question}".encode()).hexdigest()
