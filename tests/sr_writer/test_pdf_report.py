"""The PDF says what the text report says, in its language, and every page names its patient."""

import io
import shutil
import subprocess
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image

from inference.assessment import Text, not_assessed
from sr_writer import fonts
from sr_writer.conformance import check_objects
from sr_writer.fonts import FontMissingError, report_font
from sr_writer.header import plain_headers
from sr_writer.key_images import draw_key_images
from sr_writer.kinds import Kind
from sr_writer.pdf_report import write_pdf_report
from sr_writer.plain_report import report_text
from sr_writer.writing import write_results
from tests.sr_writer.series import (
    MODEL,
    PROVENANCE,
    as_received,
    bytes_of,
    make_volume,
    mixed,
    spooled,
)
from tests.sr_writer.validators import dciodvfy, dciodvfy_missing


def font_missing():
    try:
        report_font()
    except FontMissingError as error:
        return str(error)
    return None


pytestmark = pytest.mark.skipif(font_missing() is not None, reason=font_missing() or "")
poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="pdftotext is missing: install poppler-utils"
)

VOLUME = spooled(make_volume())
ASSESSMENT = mixed(VOLUME)


def write(language, assessment=ASSESSMENT, volume=VOLUME):
    pictures = draw_key_images(assessment, volume) if assessment.record.completed else []
    headers = plain_headers(volume.sources)
    return write_pdf_report(assessment.record, headers, pictures, PROVENANCE, language=language)


@pytest.fixture(scope="module")
def good():
    return {language: as_received(write(language)) for language in ("en", "zh")}


def document(made):
    return made.EncapsulatedDocument[: made.EncapsulatedDocumentLength]


def run(made, folder, *command):
    (folder / "report.pdf").write_bytes(document(made))
    return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout


def text(made, folder):
    return run(made, folder, "pdftotext", "-layout", "report.pdf", "-").decode()


def without_space(said):
    return "".join(said.split())


@poppler
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_text_of_the_pdf_is_the_report(good, language, tmp_path):
    said = without_space(text(good[language], tmp_path))
    for line in getattr(report_text(ASSESSMENT.record), language).splitlines():
        assert without_space(line) in said


@poppler
def test_every_page_names_patient_and_study_and_warns(good, tmp_path):
    for language, warning in (("en", "AI, unverified"), ("zh", "人工智能，未经核实")):
        pages = text(good[language], tmp_path).split("\f")[:-1]
        assert len(pages) == 2
        for page in pages:
            assert "Zhang Xiao Dong" in page
            assert "张小东" in page
            assert "P-0042" in page
            assert "A-2026-1" in page
            assert warning in page
        assert VOLUME.sources[0].StudyInstanceUID in pages[0]


@poppler
def test_the_key_pictures_are_in_it(good, tmp_path):
    rendered = run(good["zh"], tmp_path, "pdftoppm", "-r", "72", "-f", "2", "-png", "report.pdf")
    page = np.asarray(Image.open(io.BytesIO(rendered)).convert("RGB")).astype(int)
    red = (page[..., 0] > 200) & (page[..., 1] < 110) & (page[..., 2] < 110)
    assert red.sum() > 20
    assert (page.max(axis=-1) < 30).mean() > 0.1


def test_it_is_small_and_the_same_bytes_again(good):
    assert bytes_of(as_received(write("zh"))) == bytes_of(good["zh"])
    assert all(len(bytes_of(each)) < 300_000 for each in good.values())


def test_both_languages_pass_the_gate_as_one_series(good):
    assert check_objects(list(good.values()), VOLUME.sources, VOLUME, model=MODEL) == []
    assert len({each.SeriesInstanceUID for each in good.values()}) == 1
    assert [each.InstanceNumber for each in good.values()] == [1, 2]


def test_objects_of_every_kind_pass_the_gate_together():
    made = write_results(
        ASSESSMENT,
        VOLUME.sources,
        VOLUME,
        PROVENANCE,
        predecessors={},
        kinds=list(Kind),
        languages={"en", "zh"},
    )
    assert {each.kind for each in made} == set(Kind) - {Kind.PARAMETRIC_MAP}
    assert [each.language for each in made if each.kind is Kind.PDF] == ["en", "zh"]
    objects = [as_received(each.dataset) for each in made]
    assert check_objects(objects, VOLUME.sources, VOLUME, model=MODEL) == []


@poppler
def test_a_series_that_was_not_assessed_has_a_report_that_says_why(tmp_path):
    reason = Text(en="Slices 12 to 14 are missing.", zh="缺少第12至14层。")
    nothing = not_assessed(MODEL, (reason,), PROVENANCE.written_at)
    made = as_received(write("zh", nothing))
    assert check_objects([made], VOLUME.sources, None, model=MODEL) == []
    said = text(made, tmp_path)
    assert "未对本序列进行评估" in said
    assert reason.zh in said


@poppler
def test_what_the_font_cannot_write_is_marked_and_does_not_vanish(tmp_path):
    volume = make_volume(name="สมชาย^ใจดี", charset="ISO_IR 192")
    assert "\N{GETA MARK}" in text(write("en", mixed(volume), volume), tmp_path)


def test_a_missing_font_is_an_error_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "FOLDERS", (tmp_path,))
    report_font.cache_clear()
    with pytest.raises(FontMissingError, match="install fonts-noto-cjk"):
        write("zh")
    report_font.cache_clear()


def set_to(keyword, value):
    return lambda made: setattr(made, keyword, value)


FAULTS = {
    "annotation denied": set_to("BurnedInAnnotation", "NO"),
    "verified": set_to("VerificationFlag", "VERIFIED"),
    "final title": set_to("DocumentTitle", "Report"),
    "cut": lambda made: setattr(made, "EncapsulatedDocument", made.EncapsulatedDocument[:-200]),
    "length wrong": set_to("EncapsulatedDocumentLength", 7),
    "no pdf": set_to("EncapsulatedDocument", b"hello"),
    "another study": lambda made: setattr(
        made,
        "EncapsulatedDocument",
        made.EncapsulatedDocument.replace(b"/Subject (2.25.", b"/Subject (1.25."),
    ),
    "strange instance": lambda made: setattr(
        made.SourceInstanceSequence[0], "ReferencedSOPInstanceUID", "2.25.7"
    ),
    "another modality": set_to("Modality", "SR"),
    "no source": lambda made: delattr(made, "SourceInstanceSequence"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_gate_stops_a_pdf_with(good, name):
    made = deepcopy(good["en"])
    FAULTS[name](made)
    assert check_objects([made], VOLUME.sources, VOLUME, model=MODEL)


@pytest.mark.peers
@pytest.mark.skipif(dciodvfy_missing() is not None, reason=dciodvfy_missing() or "")
def test_dciodvfy_finds_nothing(good, tmp_path):
    for language, made in good.items():
        path = tmp_path / f"{language}.dcm"
        path.write_bytes(bytes_of(made))
        assert [line for line in dciodvfy(path) if "DeviceUID" not in line] == []
