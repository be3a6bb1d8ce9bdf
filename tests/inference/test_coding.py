"""Every label that leaves the node has a code, and one that the standard does not contradict."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from pydicom.sr.codedict import Collection, codes

from inference import coding
from inference.assessment import PRIVATE_SCHEME, Code, Laterality
from inference.bundle import BUILTIN, BundleError, find_bundle, load_bundle
from inference.coding import (
    CodingTable,
    check_code,
    coding_table,
    concept_of,
    is_checked,
    measurement,
)
from inference.manifest import FindingSpec
from sr_writer import value_conformance
from sr_writer.coding import LATERALITY

SOURCE = Path(__file__).parents[2] / "config" / "coding.toml"
SECTIONS = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
CONCEPTS = [
    pytest.param(section, key, id=f"{section}-{key}")
    for section, entries in SECTIONS.items()
    for key in entries
]
CARD = {
    "name": "widget_sign",
    "site": "brain",
    "question": "Is there a widget sign?",
    "words": {"present": {"en": "widget", "zh": "征"}, "absent": {"en": "none", "zh": "无"}},
}


def code(value: str, scheme: str, meaning: str) -> Code:
    return Code(value=value, scheme=scheme, meaning=meaning)


def standard_meanings(scheme: str, value: str) -> set[str]:
    if scheme not in codes.schemes():
        return set()
    known = Collection(scheme).concepts.values()
    return {each.meaning.split(" (")[0].casefold() for each in known if each.value == value}


def test_the_packaged_table_is_the_one_in_config() -> None:
    assert coding_table() == CodingTable.model_validate(SECTIONS)


@pytest.mark.parametrize(("section", "key"), CONCEPTS)
def test_a_concept_of_the_table_is_what_the_standard_says(section: str, key: str) -> None:
    concept = getattr(coding_table(), section)[key]
    check_code(concept.code)
    meanings = standard_meanings(concept.scheme, concept.value)
    if meanings and concept.scheme != "UCUM":
        assert concept.meaning.casefold() in meanings
    assert concept.label.en
    assert concept.label.zh != concept.label.en


def test_no_code_stands_for_two_keys_of_a_section() -> None:
    for section, entries in SECTIONS.items():
        used = [(entry["scheme"], entry["value"]) for entry in entries.values()]
        assert len(set(used)) == len(used), section


def test_sides_are_those_that_the_writers_use() -> None:
    table = coding_table().lateralities
    assert set(table) == set(Laterality)
    for side, written in LATERALITY.items():
        assert (table[side].value, table[side].scheme) == (written.value, written.scheme_designator)


def test_every_scheme_of_a_model_passes_the_gate() -> None:
    assert coding.SCHEMES <= value_conformance.SCHEMES


def test_a_card_names_codes_and_label_by_key() -> None:
    spec = FindingSpec.model_validate(CARD | {"name": "x", "code": "midline_shift"})
    assert spec.code == code("midline_shift", PRIVATE_SCHEME, "Midline shift")
    assert spec.site == code("12738006", "SCT", "Brain")
    assert (spec.label.en, spec.label.zh) == ("Midline shift", "中线移位")


def test_a_segment_may_be_of_a_lesion_a_finding_or_an_organ() -> None:
    segment = {"category": "anatomical_structure", "type": "liver"}
    spec = FindingSpec.model_validate(CARD | {"code": "liver_lesion", "segment": segment})
    assert spec.segment is not None
    assert spec.segment.type == code("10200004", "SCT", "Liver")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({}, "label 'widget_sign' has no code: add code = KEY", id="no-code"),
        pytest.param(
            {"code": "widget_sign"}, "label 'widget_sign', code: 'widget_sign' is not", id="unknown"
        ),
        pytest.param({"code": "pnemothorax"}, "did you mean 'pneumothorax'", id="misspelt"),
        pytest.param({"code": "liver"}, "'liver' is not among", id="a-site-as-finding"),
        pytest.param(
            {"code": {"value": "60046008", "scheme": "SCT", "meaning": "Pneumothorax"}},
            "it means 'Pleural effusion'",
            id="another-meaning",
        ),
        pytest.param({"code": "pneumonia", "site": None}, "has no site", id="no-site"),
        pytest.param(
            {"code": "pneumonia", "segment": {"category": "tissue"}}, "has no type", id="no-type"
        ),
    ],
)
def test_a_label_without_a_right_code_is_refused_when_the_bundle_is_loaded(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    folder = Path(shutil.copytree(find_bundle(BUILTIN), tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    label = {"label": {"en": "Widget sign", "zh": "征"}}
    manifest["findings"].append(CARD | label | changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as refusal:
        load_bundle(folder)
    assert says in str(refusal.value)
    assert "findings.1" in str(refusal.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param(code("60046009", "SCT", "Pleural effusion"), "check digit", id="mistyped"),
        pytest.param(code("T-A0100", "SRT", "Brain"), "retired", id="retired"),
        pytest.param(code("1", "99ACME", "Widget sign"), PRIVATE_SCHEME, id="foreign-private"),
        pytest.param(code("w" * 17, PRIVATE_SCHEME, "W"), "over 16", id="value-too-long"),
        pytest.param(code("w", PRIVATE_SCHEME, "W" * 65), "over 64", id="meaning-too-long"),
        pytest.param(code("80146002", "SCT", "Pneumothorax"), "36118008", id="another-value"),
        pytest.param(code("122157", "DCM", "Volume"), "'Probability'", id="another-DCM-meaning"),
    ],
)
def test_a_code_that_cannot_be_right_is_refused(wrong: Code, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_code(wrong)


def test_a_code_beyond_the_table_and_the_standard_is_taken_on_the_cards_word() -> None:
    appendectomy = code("80146002", "SCT", "Excision of appendix")
    check_code(appendectomy)
    assert not is_checked(appendectomy)
    assert is_checked(concept_of("findings", "appendicitis").code)


@pytest.mark.parametrize(
    ("quantity", "unit"), [("volume", "mm"), ("long_axis", "mL"), ("area", "mm3")]
)
def test_a_unit_that_does_not_fit_the_quantity_is_refused(quantity: str, unit: str) -> None:
    with pytest.raises(ValueError, match="is not measured in"):
        measurement(quantity, 1.0, unit, 1)


def test_a_table_whose_quantity_names_no_unit_of_its_own_is_refused() -> None:
    broken = SECTIONS | {"units": {}}
    with pytest.raises(ValueError, match=r"quantities\.volume: no"):
        CodingTable.model_validate(broken)
