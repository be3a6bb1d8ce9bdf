"""A model bundle on disk: one folder with a manifest, ONNX graphs and a tokenizer, all checksummed.

Everything a model needs beyond its weights stands in `manifest.json`: preprocessing, prompts, how
answers are scored, which codes the findings carry, and what it measured. A bundle that is not
exactly what its manifest says is refused, with the file and what to do.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inference.assessment import Code, ModelIdentity, Text

MANIFEST = "manifest.json"
REQUIRED_FILES = ("vision.onnx", "embed.onnx", "decoder.fp32.onnx", "tokenizer.json")
PACKAGED = Path(__file__).parent / "builtin"
PACKAGED_PREFIX = "builtin/"
BUILTIN = "builtin/head_ct"


class BundleError(Exception):
    """A bundle that cannot be used: which file, what is wrong, what to do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plausibility(_Frozen):
    """What a volume must look like to be what the model is for."""

    max_spacing_mm: float
    min_coverage_mm: float
    min_slices: int
    bone_hu: float
    tissue_hu: tuple[float, float] = Field(description="range of what the skull should enclose")
    min_enclosed_area_cm2: float = Field(description="for a model slice to count as brain level")
    min_enclosed_mm: float = Field(description="over this height")
    min_tissue_fraction: float = Field(description="share of the enclosed area in tissue_hu")


class Preprocessing(_Frozen):
    """From a Volume to the vision graph's input.

    The model grid is upright in patient coordinates: slices towards the vertex, rows to the back,
    columns to the left; `spacing_mm` and `size` are (slice, row, column).
    """

    modality: Literal["CT"]
    spacing_mm: tuple[float, float, float]
    size: tuple[int, int, int]
    interpolation: Literal["linear"]
    windows_hu: tuple[tuple[float, float], ...]
    foreground_hu: float
    centre_below_vertex_mm: float
    plausibility: Plausibility


class Language(_Frozen):
    """A sequence: image tokens, then `start`, the prompt, `answer`, the text, `end`."""

    image_tokens: int
    d_model: int
    start_id: int
    answer_id: int
    end_id: int
    yes_id: int
    no_id: int
    max_new_tokens: int
    prompts: Text
    layers: int
    heads: int
    head_size: int


class WordsOf(_Frozen):
    """Words in a narrative that state a finding, its absence or a place; for grounding."""

    present: Text
    absent: Text
    midline: Text
    regions: tuple[Text, ...] = Field(description="must be the same in both languages")


class FindingSpec(_Frozen):
    """One question that the model answers, and what its answer means."""

    name: str
    label: Text
    code: Code
    site: Code
    question: str
    threshold: float = Field(gt=0, lt=1)
    abstention: tuple[float, float] = Field(description="probabilities from, to: no answer given")
    words: WordsOf
    segment_category: Code
    segment_type: Code
    mask_threshold: float = Field(gt=0, lt=1)
    min_volume_ml: float

    @model_validator(mode="after")
    def _band_holds_threshold(self) -> "FindingSpec":
        low, high = self.abstention
        if not 0 <= low <= self.threshold <= high <= 1:
            raise ValueError(f"abstention band {low}..{high} must hold threshold {self.threshold}")
        return self


class Performance(_Frozen):
    """What was measured, on simulated heads only; None until it was."""

    heads: int
    sensitivity: float
    specificity: float
    sensitivity_10_mm: float
    undetermined: int
    median_dice: float
    side_accuracy: float
    narratives_withheld: int


class Origin(_Frozen):
    """How the graphs were made."""

    tools: dict[str, str]
    parity_error: float = Field(description="largest difference from torch over all graphs")


class Manifest(_Frozen):
    """`manifest.json`."""

    format: Literal[1]
    family: Literal["overread-vlm"]
    name: str
    version: str
    manufacturer: str
    licence: str
    demonstration: bool
    intended_use: Text
    statement: Text = Field(description="said in every assessment")
    files: dict[str, str] = Field(description="file name -> SHA-256, hexadecimal")
    preprocessing: Preprocessing
    language: Language
    finding: FindingSpec
    origin: Origin
    performance: Performance | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked against its manifest."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def identity(self) -> ModelIdentity:
        """Who speaks; the digest covers the manifest and every file."""
        manifest = self.manifest
        return ModelIdentity(
            name=manifest.name,
            version=manifest.version,
            manufacturer=manifest.manufacturer,
            digest=self.digest,
            demonstration=manifest.demonstration,
            intended_use=manifest.intended_use,
        )

    def file(self, name: str) -> Path:
        """Path of a file of the bundle."""
        return self.folder / name


def load_bundle(folder: Path) -> Bundle:
    """Read and verify the bundle in `folder`; raises BundleError."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}). Give the folder of a model bundle."
        ) from error
    try:
        manifest = Manifest.model_validate(json.loads(content))
    except (ValueError, ValidationError) as error:
        raise BundleError(f"{path}: not a valid manifest: {error}. Export the bundle again.") from (
            error
        )
    digest = hashlib.sha256(content)
    missing = [name for name in REQUIRED_FILES if name not in manifest.files]
    if missing:
        raise BundleError(f"{path}: lists no {', '.join(missing)}. Export the bundle again.")
    for name in sorted(manifest.files):
        digest.update(_verified(folder, name, manifest.files[name]).encode())
    return Bundle(folder=folder, manifest=manifest, digest=digest.hexdigest())


def find_bundle(name: str, search_paths: Sequence[Path] = ()) -> Path:
    """Folder of the bundle `name`: packaged ("builtin/head_ct"), or under one of `search_paths`."""
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise BundleError(f"{name!r} is not a bundle's name; give a name such as {BUILTIN!r}.")
    if name.startswith(PACKAGED_PREFIX):
        candidates = [PACKAGED / name.removeprefix(PACKAGED_PREFIX)]
    else:
        candidates = [path / name for path in search_paths]
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return folder
    looked = ", ".join(str(folder) for folder in candidates) or "nowhere: no search path is set"
    raise BundleError(
        f"no bundle {name!r} (looked in {looked}). Use {BUILTIN!r} or add its folder."
    )


def _verified(folder: Path, name: str, expected: str) -> str:
    """The file's SHA-256 once it is known to be as expected and a plain file in the folder."""
    path = folder / name
    if name != Path(name).name or "\\" in name or name in {"", ".", "..", MANIFEST}:
        raise BundleError(
            f"{folder / MANIFEST}: file name {name!r} leads out of the bundle. "
            "Do not use this bundle; get it again from its source."
        )
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path}: missing or not a plain file. Copy the whole bundle again.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.lower():
        raise BundleError(
            f"{path}: SHA-256 is {found}, the manifest says {expected}: damaged or changed. "
            "Copy the whole bundle again."
        )
    return found
