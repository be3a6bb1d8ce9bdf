"""Outside judges find no error in what we write: dciodvfy, PixelMed, DCMTK."""

import re

import pytest

from inference.assessment import Text, not_assessed
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.acquisitions import ACQUISITIONS, acquired
from tests.sr_writer.series import (
    MODEL,
    NARRATIVE,
    OBLIQUE,
    PROVENANCE,
    absent,
    instances_of,
    make_volume,
    mixed,
    on_slices,
    present,
    spooled,
    two_segments,
    undetermined,
)
from tests.sr_writer.validators import (
    dciodvfy,
    dciodvfy_missing,
    dsrdump,
    dsrdump_missing,
    pixelmed_errors,
    pixelmed_missing,
)

pytestmark = pytest.mark.peers


def nothing(_volume):
    reason = Text(en="Slices 12 to 14 are missing.", zh="缺少第12至14层。")
    return not_assessed(MODEL, (reason,), PROVENANCE.written_at)


def overlapping(volume):
    return two_segments(volume, overlap=True)


CASES = [present, on_slices, absent, undetermined, mixed, overlapping, nothing]
PIXELMED_CASES = [mixed, on_slices, absent, nothing]
"""One Java start a document, so one document for each shape of the tree."""

DCIODVFY_ALLOWED = (
    # Device UID is Type 3 in Contributing Equipment (SOP Common, PS3.3 C.12.1), where IHE AI
    # Results wants it; dciodvfy does not know it there. A warning, not an error.
    (
        r"^Warning - </ContributingEquipmentSequence\(0018,a001\)\[1\]/DeviceUID\(0018,1002\)> - "
        r"Attribute is not present in standard DICOM IOD$"
    ),
)


def write(assess, folder, volume=None):
    """Write the SR and, where there is one, the SEG, and return their paths."""
    volume = volume or spooled(make_volume(OBLIQUE))
    assessment = assess(volume)
    segmentation = write_segmentation(assessment, volume, PROVENANCE) if assessment.masks else None
    assessed = volume if assessment.record.completed else None
    report = write_report(assessment, instances_of(volume), assessed, segmentation, PROVENANCE)
    paths = []
    for made in (report, segmentation):
        if made is not None:
            paths.append(folder / f"{made.Modality}.dcm")
            made.save_as(paths[-1], enforce_file_format=True)
    return paths


def unargued(paths):
    """What dciodvfy says of the files that is not allowed."""
    said = [line for path in paths for line in dciodvfy(path)]
    return [line for line in said if not any(re.search(each, line) for each in DCIODVFY_ALLOWED)]


@pytest.mark.skipif(dciodvfy_missing() is not None, reason=dciodvfy_missing() or "")
@pytest.mark.parametrize("assess", CASES)
def test_dciodvfy_says_nothing_that_is_not_argued(assess, tmp_path):
    assert unargued(write(assess, tmp_path)) == []


@pytest.mark.skipif(dciodvfy_missing() is not None, reason=dciodvfy_missing() or "")
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_dciodvfy_says_nothing_of_results_on_any_acquisition(name, tmp_path):
    assert unargued(write(mixed, tmp_path, spooled(acquired(name)))) == []


@pytest.mark.skipif(pixelmed_missing() is not None, reason=pixelmed_missing() or "")
@pytest.mark.parametrize("assess", PIXELMED_CASES)
def test_pixelmed_finds_no_error_that_is_not_argued(assess, tmp_path):
    assert pixelmed_errors(write(assess, tmp_path)[0]) == []


@pytest.mark.skipif(pixelmed_missing() is not None, reason=pixelmed_missing() or "")
@pytest.mark.parametrize("name", ["enhanced", "mosaic"])
def test_pixelmed_finds_no_error_in_references_to_frames_and_mosaics(name, tmp_path):
    assert pixelmed_errors(write(mixed, tmp_path, spooled(acquired(name)))[0]) == []


@pytest.mark.skipif(dsrdump_missing() is not None, reason=dsrdump_missing() or "")
@pytest.mark.parametrize("assess", CASES)
def test_dsrdump_reads_both_languages(assess, tmp_path):
    said = dsrdump(write(assess, tmp_path)[0])
    assert "Comprehensive 3D SR Document" in said
    assert "Unverified second opinion by an artificial intelligence." in said
    assert "人工智能第二意见，未经核实。" in said
    assert (NARRATIVE.zh in said) == ("No assessment was made" not in said)


@pytest.mark.skipif(dsrdump_missing() is not None, reason=dsrdump_missing() or "")
def test_dsrdump_reads_frame_numbers(tmp_path):
    volume = spooled(acquired("enhanced"))
    said = dsrdump(write(on_slices, tmp_path, volume)[0])
    for index in (9, 4, 10):
        assert f"(CTe image,,{volume.frame_numbers[index]})" in said
