"""The gate stops every single fault, and says of each what it is."""

import pytest

from sr_writer.conformance import check_objects
from tests.sr_writer.faults import FAULTS, VOLUME, everything, good_results, spoiled

ASSESSMENT = everything(VOLUME)


def problems_of(datasets):
    model = ASSESSMENT.record.model
    return check_objects(datasets, VOLUME.sources, VOLUME, model=model, assessment=ASSESSMENT)


def test_good_results_of_every_kind_pass():
    assert problems_of([each.dataset for each in good_results()]) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_is_stopped(fault):
    problems = problems_of(spoiled(fault).datasets)
    assert [problem for problem in problems if fault.said in problem], problems


def test_there_are_enough_faults_of_different_names():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 80
