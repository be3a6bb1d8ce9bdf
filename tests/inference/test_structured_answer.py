"""The model is asked twice: what its structured answer contradicts is not reported."""

import json
import shutil
from pathlib import Path

import pytest

from inference.assessment import Assessment, Presence
from inference.bundle import BUILTIN, find_bundle
from inference.grammar import parse_structured
from inference.model import Model, load_model
from inference.providers import SessionSettings
from tests.inference.conftest import AT, Scan


def asked_twice(folder: Path, **decoder: int) -> Model:
    """The built-in model, which can write JSON but never learnt what it means."""
    bundle = shutil.copytree(find_bundle(BUILTIN), folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["prompts"]["structured"] = "Describe the head CT in English."
    manifest["decoder"] |= decoder
    for finding in manifest["findings"]:
        del finding["calibration"]  # it is of the bundle as it was
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return load_model(bundle, SessionSettings(threads=1))


@pytest.mark.parametrize("threshold", [0.01, 0.99])
def test_an_answer_that_contradicts_its_score_is_undetermined(
    tmp_path: Path, bleeding: Scan, monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    model = asked_twice(tmp_path / "bundle")
    (spec,) = model.manifest.findings
    spec = spec.model_copy(update={"threshold": threshold, "abstention": (threshold, threshold)})
    model.manifest = model.manifest.model_copy(update={"findings": (spec,)})
    texts: list[str] = []
    write = model.language.write

    def listen(*arguments, **options) -> str:
        texts.append(write(*arguments, **options))
        return texts[-1]

    monkeypatch.setattr(model.language, "write", listen)
    (finding,) = model.assess(bleeding.volume, at=AT).record.findings
    said = parse_structured(texts[0], (spec,))[spec.name].present
    assert finding.probability is not None
    scored = "yes" if finding.probability >= threshold else "no"
    if {said, scored} == {"yes", "no"}:
        assert finding.presence is Presence.UNDETERMINED
        assert finding.evidence is None
        assert finding.reason is not None
        assert "asked again" in finding.reason.en
    else:
        assert finding.presence is (Presence.PRESENT if scored == "yes" else Presence.ABSENT)


def test_without_room_for_the_second_answer_the_first_stands_and_it_is_said(
    tmp_path: Path, bleeding: Scan, bleeding_assessment: Assessment
) -> None:
    model = asked_twice(tmp_path / "bundle", max_length=120)
    record = model.assess(bleeding.volume, at=AT).record
    assert record.findings[0].presence is bleeding_assessment.record.findings[0].presence
    assert any("cut off" in text.en for text in record.limitations)
