"""What a run keeps: the assessment of the volume, and the same as people look at it."""

from node.run_folder import RunFolder
from sr_writer.source_images import on_images
from tests.sr_writer.acquisitions import acquired
from tests.sr_writer.series import on_slices


def test_the_status_page_counts_slices_as_the_images_do(tmp_path):
    volume = acquired("uneven")
    assessment = on_slices(volume, 20, 19, 21)
    folder = RunFolder(tmp_path / "run")
    folder.save_assessment(assessment)
    assert folder.record_on_images() == assessment.record
    shown = on_images(assessment, volume).record
    assert shown.findings != assessment.record.findings
    folder.save_record_on_images(shown)
    assert folder.record_on_images() == shown
    assert folder.record() == assessment.record
