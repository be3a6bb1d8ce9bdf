"""What a SEG of ours says is what highdicom's own constructor says of the same pixels."""

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy import ndimage

from inference.assessment import Assessment, LabelMap
from sr_writer.header import plain_headers
from sr_writer.kinds import SegmentationForm
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.highdicom_segmentation import ON_PURPOSE, by_highdicom, differences
from tests.sr_writer.series import (
    OBLIQUE,
    PROVENANCE,
    SAGITTAL,
    as_received,
    make_volume,
    present,
    two_segments,
)

BINARY, LABELMAP, FRACTIONAL = SegmentationForm


def stacked(assessment):
    """Masks as highdicom takes those that overlap, [slice, row, column, segment]."""
    return np.stack(list(assessment.masks.values()), axis=-1).astype(np.uint8)


def labels_of(assessment):
    labels = np.zeros(assessment.masks[1].shape, np.uint8)
    for number, mask in assessment.masks.items():
        labels[mask] = number
    return labels


def with_probabilities(assessment):
    """The assessment with probabilities that fall off around its masks."""
    maps = {}
    for number, mask in assessment.masks.items():
        away = ndimage.distance_transform_edt(~mask)
        maps[number] = np.clip(250 - 40 * away, 0, 255).astype(np.uint8)
    return Assessment(assessment.record, assessment.masks, maps)


def probabilities_of(assessment):
    return np.stack(list(assessment.probabilities.values()), axis=-1) / 255


CASES = {
    "binary": (BINARY, lambda v: two_segments(v, overlap=False), labels_of),
    "binary, overlapping": (BINARY, lambda v: two_segments(v, overlap=True), stacked),
    "binary, one": (BINARY, present, labels_of),
    "label map": (LABELMAP, lambda v: two_segments(v, overlap=False), labels_of),
    "label map, one": (LABELMAP, present, labels_of),
    "fractional": (
        FRACTIONAL,
        lambda v: with_probabilities(two_segments(v, overlap=False)),
        probabilities_of,
    ),
    "fractional, one": (FRACTIONAL, lambda v: with_probabilities(present(v)), probabilities_of),
}
VOLUMES = {
    "axial": {},
    "oblique, descending": {"orientation": OBLIQUE, "descending": True},
    "sagittal MR, odd matrix": {"orientation": SAGITTAL, "shape": (24, 45, 39), "modality": "MR"},
}


@pytest.mark.parametrize("volume", [make_volume(**each) for each in VOLUMES.values()], ids=VOLUMES)
@pytest.mark.parametrize(("form", "assess", "pixels"), CASES.values(), ids=CASES)
def test_it_says_what_highdicom_says(volume, form, assess, pixels):
    assessment = assess(volume)
    made = write_segmentation(assessment, volume, PROVENANCE, form=form)
    theirs = by_highdicom(
        assessment, volume, form, pixels(assessment), plain_headers(volume.sources)
    )
    assert set(differences(as_received(made), as_received(theirs))) <= ON_PURPOSE


@pytest.mark.parametrize("form", [BINARY, LABELMAP])
@pytest.mark.parametrize("columns", [40, 39])
def test_a_label_map_is_written_as_its_masks_are(form, columns):
    volume = make_volume(shape=(24, 45, columns))
    assessment = two_segments(volume, overlap=False)
    as_labels = Assessment(assessment.record, LabelMap(labels_of(assessment), 2))
    expected, made = (
        as_received(write_segmentation(each, volume, PROVENANCE, form=form))
        for each in (assessment, as_labels)
    )
    assert made == expected


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("form", SegmentationForm)
def test_it_is_the_same_in_every_encoding(form, syntax):
    volume = make_volume()
    assessment = with_probabilities(two_segments(volume, overlap=False))
    made = write_segmentation(assessment, volume, PROVENANCE, form=form)
    explicit = as_received(made)
    made.file_meta.TransferSyntaxUID = syntax
    received = as_received(made)
    received["PixelData"].VR = "OB"  # which Implicit VR does not say
    assert list(differences(received, explicit)) == []
