"""What a run keeps: the assessment of the volume, and the same as people look at it."""

from dataclasses import replace

import numpy as np

from node.run_folder import RunFolder
from sr_writer.source_images import on_images
from tests.sr_writer.acquisitions import acquired
from tests.sr_writer.series import on_slices, present


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


def test_masks_and_probabilities_come_back_as_they_were(tmp_path):
    volume = acquired("uneven")
    outlined = present(volume)
    probability = (volume.grid.array > 0).astype(np.uint8) * 200
    assessment = replace(outlined, probabilities={1: probability})
    folder = RunFolder(tmp_path / "run")
    folder.save_assessment(assessment)
    kept = folder.assessment()
    np.testing.assert_array_equal(kept.masks[1], outlined.masks[1])
    np.testing.assert_array_equal(kept.probabilities[1], probability)
    assert kept.probabilities[1].dtype == np.uint8
    folder.save_assessment(outlined)
    assert not folder.assessment().probabilities
