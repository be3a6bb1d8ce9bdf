"""A manifest of no particular model, for tests of what is done with one."""

from inference.assessment import Code, Text
from inference.coding import concept_of
from inference.manifest import FindingSpec, Manifest, SegmentSpec, WordsOf

HAEMORRHAGE = FindingSpec(
    name="intracranial_haemorrhage",
    label=Text(en="Intracranial haemorrhage", zh="颅内出血"),
    code=Code(value="1386000", scheme="SCT", meaning="Intracranial hemorrhage"),
    site=Code(value="12738006", scheme="SCT", meaning="Brain"),
    question="Is there an intracranial haemorrhage?",
    words=WordsOf(
        present=Text(en="haemorrhage", zh="出血"),
        absent=Text(en="no hyperdense intracranial haemorrhage", zh="未见"),
        midline=Text(en="midline", zh="中线"),
        regions=(Text(en="frontal", zh="额叶"), Text(en="deep", zh="深部")),
    ),
)
MASS = HAEMORRHAGE.model_copy(
    update={
        "segment": SegmentSpec(
            category=concept_of("segment_categories", "morphologically_abnormal_structure").code,
            type=concept_of("segment_types", "mass").code,
        )
    }
)
"""A finding that is outlined."""

SHIFT = FindingSpec(
    name="midline_shift",
    label=Text(en="Midline shift", zh="中线移位"),
    code="midline_shift",
    site="brain",
    question="Is there a midline shift?",
    words=WordsOf(
        present=Text(en="midline shift", zh="中线移位"),
        absent=Text(en="no midline shift", zh="无中线移位"),
    ),
)


def manifest(*findings: FindingSpec) -> Manifest:
    """A valid manifest that asks for `findings`."""
    nothing = Text(en="For tests.", zh="用于测试。")
    return Manifest.model_validate(
        {
            "format": 2,
            "family": "test",
            "name": "Test model",
            "version": "1",
            "manufacturer": "Overread project",
            "licence": "Apache-2.0",
            "demonstration": True,
            "intended_use": nothing,
            "statement": nothing,
            "files": {"vision.onnx": "0" * 64},
            "preprocessing": {
                "kind": "foreground_volume",
                "modalities": ["CT"],
                "window": None,
                "size": [32, 256, 256],
                "interpolation": "trilinear",
                "min_slices": 8,
            },
            "splice": {"kind": "placeholder", "tokens": 4},
            "prompts": {
                "template": "{image}{question}",
                "narrative": nothing,
                "first_ids": [1],
                "stop_ids": [2],
                "yes_ids": [3],
                "no_ids": [4],
                "max_new_tokens": 16,
            },
            "decoder": {
                "layers": 1,
                "kv_heads": 1,
                "head_size": 8,
                "width": 8,
                "vocabulary": 16,
                "max_length": 64,
                "precision": "fp32",
                "packed": True,
            },
            "findings": findings,
            "origin": {"source": "none", "tools": {}, "parity_error": 0.0},
        }
    )
