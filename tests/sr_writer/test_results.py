"""What is written agrees with what is announced of it: classes, ranks, kinds and languages."""

from functools import cache

import pytest

from sr_writer.encoding import transfer_syntaxes
from sr_writer.kinds import FALLBACKS, LANGUAGES, Kind, SegmentationForm, with_fallbacks
from sr_writer.results import LABEL_MAP_SEGMENTATION_STORAGE, SOP_CLASSES
from sr_writer.writing import write_results
from tests.sr_writer.series import PROVENANCE, absent, make_volume, mixed, present

MOST_CONTEXTS = 128  # PS3.8 Section 9.3.2.2


def written(assess, *, kinds=tuple(Kind), languages=LANGUAGES, form=SegmentationForm.BINARY):
    volume = make_volume()
    return write_results(
        assess(volume),
        volume.sources,
        volume,
        PROVENANCE,
        predecessors={},
        kinds=kinds,
        languages=languages,
        form=form,
    )


everything = cache(written)


@pytest.mark.parametrize("assess", [absent, mixed])
def test_each_kind_is_written_in_its_classes_in_the_order_of_its_ranks(assess):
    results = everything(assess)
    assert results
    for kind in {result.kind for result in results}:
        of_kind = sorted((one for one in results if one.kind is kind), key=lambda one: one.rank)
        classes = list(dict.fromkeys(one.dataset.SOPClassUID for one in of_kind))
        places = [SOP_CLASSES[kind].index(one) for one in classes]
        assert places == sorted(places)
        assert places[0] == 0


@pytest.mark.parametrize("form", SegmentationForm)
def test_a_segmentation_of_label_maps_has_a_class_of_its_own(form):
    (made,) = written(present, kinds=[Kind.SEGMENTATION], form=form)
    is_label_map = made.dataset.SOPClassUID == LABEL_MAP_SEGMENTATION_STORAGE
    assert is_label_map == (form is SegmentationForm.LABELMAP)
    assert made.dataset.SOPClassUID in SOP_CLASSES[Kind.SEGMENTATION]


@pytest.mark.parametrize("kind", Kind)
def test_only_what_is_asked_for_is_written(kind):
    assert {one.kind for one in written(mixed, kinds=[kind])} <= {kind}


@pytest.mark.parametrize("language", LANGUAGES)
def test_documents_in_one_language_are_written_in_those_asked_for(language):
    assert {one.language for one in written(mixed, languages=[language])} <= {"", language}


def test_what_may_have_to_stand_in_is_written_too():
    assert with_fallbacks([Kind.REPORT]) == {Kind.REPORT, Kind.TEXT_REPORT}
    assert with_fallbacks(Kind) == set(Kind)
    assert not set(FALLBACKS) & set(FALLBACKS.values())  # nothing stands in for what stands in


def test_the_same_assessment_writes_the_same_instances():
    once, again = everything(mixed), written(mixed)
    assert [one.dataset.SOPInstanceUID for one in once] == [
        one.dataset.SOPInstanceUID for one in again
    ]


def test_all_that_may_be_proposed_fits_into_one_association():
    classes = {sop_class for kind in Kind for sop_class in SOP_CLASSES[kind]}
    assert sum(len(transfer_syntaxes(one)) for one in classes) <= MOST_CONTEXTS
