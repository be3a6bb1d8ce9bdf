"""Every attribute that an IOD requires is asked for, down to the items of sequences."""

from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

import sr_writer
from sr_writer.iod_conformance import check_required
from tests.sr_writer.iod_tables import SOP_CLASSES, tables


def test_the_tables_are_those_of_highdicom():
    kept = Path(sr_writer.__file__).parent / "iod_tables.json"
    assert kept.read_bytes() == tables()


@pytest.mark.parametrize("sop_class", SOP_CLASSES, ids=lambda uid: uid.name)
def test_an_empty_object_of_any_class_lacks_what_its_iod_requires(sop_class):
    empty = Dataset()
    empty.SOPClassUID = sop_class
    lacking = "\n".join(check_required(empty))
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"):
        assert f"lacks {keyword}, which must have a value" in lacking
    for keyword in ("PatientName", "PatientID", "StudyDate", "AccessionNumber"):
        assert f"lacks {keyword}, which may be empty but not missing" in lacking


def test_what_is_within_a_sequence_is_named_with_its_way():
    made = Dataset()
    made.SOPClassUID = SOP_CLASSES[-1]
    made.ContributingEquipmentSequence = [Dataset()]
    found = [each for each in check_required(made) if "Contributing" in each]
    assert found[0].startswith("lacks ContributingEquipmentSequence/")
    assert keyword_for_tag(0x00080070) in found[0]
