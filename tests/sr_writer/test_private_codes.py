"""A concept that no terminology has leaves only with the word of whose it is (PS3.3 C.12.1)."""

from dataclasses import replace

import pytest

from inference.coding import concept_of
from sr_writer.conformance import check_objects
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.series import PROVENANCE, instances_of, make_volume, present

SHIFT = concept_of("findings", "midline_shift")
VOLUME = make_volume()


def assessed(code=None):
    """A finding and its segment, of `code` where one is given."""
    found = present(VOLUME)
    if code is None:
        return found
    (finding,), (segment,) = found.record.findings, found.record.segments
    update = {
        "findings": (finding.model_copy(update={"code": code}),),
        "segments": (segment.model_copy(update={"type": code}),),
    }
    return replace(found, record=found.record.model_copy(update=update))


def written(assessment):
    segmentation = write_segmentation(assessment, VOLUME, PROVENANCE)
    report = write_report(
        assessment, VOLUME.sources, VOLUME, segmentation, PROVENANCE, predecessor=None
    )
    return [segmentation, report]


def problems(objects):
    return check_objects(objects, instances_of(VOLUME), VOLUME)


def test_an_object_with_a_private_code_says_whose_it_is():
    objects = written(assessed(SHIFT.code))
    for made in objects:
        (scheme,) = made.CodingSchemeIdentificationSequence
        assert scheme.CodingSchemeDesignator == "99OVERREAD"
        assert scheme.CodingSchemeResponsibleOrganization == "Overread project"
    assert not problems(objects)


@pytest.mark.parametrize("which", [0, 1], ids=["segmentation", "report"])
def test_a_private_code_of_nobody_is_stopped(which):
    objects = written(assessed(SHIFT.code))
    del objects[which].CodingSchemeIdentificationSequence
    found = problems(objects)
    assert found
    assert all("CodingSchemeIdentificationSequence" in problem for problem in found)


def test_other_objects_name_no_private_scheme():
    for made in written(assessed()):
        assert "CodingSchemeIdentificationSequence" not in made
