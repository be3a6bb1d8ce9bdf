"""The manifest of the built-in bundle: what it is for, how it is fed, what its answers mean."""

from inference.assessment import Text
from inference.coding import concept_of
from inference.manifest import (
    DecoderShape,
    FindingSpec,
    Manifest,
    Origin,
    Prompts,
    SegmentSpec,
    Splice,
    WordsOf,
)
from inference.training.grid import PREPROCESSING
from inference.training.language import QUESTION, REGIONS

STATEMENT = Text(
    en="Demonstration model trained on simulated heads only. Not for clinical use.",
    zh="演示模型，仅用模拟头颅数据训练，不得用于临床。",
)

FINDING = FindingSpec(
    name="intracranial_haemorrhage",
    label=Text(en="Intracranial haemorrhage", zh="颅内出血"),
    code=concept_of("findings", "intracranial_hemorrhage").code,
    site=concept_of("sites", "brain").code,
    question=QUESTION,
    threshold=0.5,
    abstention=(0.35, 0.65),
    words=WordsOf(
        present=Text(en="haemorrhage", zh="出血"),
        absent=Text(en="no hyperdense intracranial haemorrhage", zh="未见"),
        midline=Text(en="midline", zh="中线"),
        regions=tuple(REGIONS.values()),
    ),
    segment=SegmentSpec(
        category=concept_of("segment_categories", "morphologically_abnormal_structure").code,
        type=concept_of("segment_types", "hemorrhage").code,
        min_volume_ml=0.06,
    ),
)


def manifest_of(
    version: str,
    *,
    files: dict[str, str],
    splice: Splice,
    prompts: Prompts,
    decoder: DecoderShape,
    origin: Origin,
) -> Manifest:
    """The manifest, without calibration and figures: `inference.training.evaluate` adds them."""
    return Manifest(
        format=2,
        family="overread_vlm",
        name="Overread demonstration head CT",
        version=version,
        manufacturer="Overread project",
        licence="Apache-2.0",
        demonstration=True,
        intended_use=Text(
            en="Demonstration of the node on simulated CT heads. Not for clinical use.",
            zh="用于以模拟头颅CT演示本节点，不得用于临床。",
        ),
        statement=STATEMENT,
        files=files,
        preprocessing=PREPROCESSING,
        splice=splice,
        prompts=prompts,
        decoder=decoder,
        findings=(FINDING,),
        origin=origin,
    )
