"""What a destination gets of a run's results: every combination of what it accepts and asks for."""

from itertools import chain, combinations, product

import pytest

from node.result_choice import choose
from node.run_folder import ResultFile
from sr_writer.kinds import FALLBACKS, Kind

SEG, MAP, SC = "1.66.4", "1.30", "1.7"
SR3D, SR, ENHANCED, TEXT, PDF, KOS = (
    "1.88.34",
    "1.88.33",
    "1.88.22",
    "1.88.11",
    "1.104.1",
    "1.88.59",
)
LANGUAGES = ("en", "zh")


def result(kind, sop_class, *, rank=0, language="", refers_to=()):
    uid = f"{kind}{rank}{language}"
    return ResultFile(
        name=f"{uid}.dcm",
        kind=kind,
        rank=rank,
        language=language,
        sop_class=sop_class,
        instance_uid=uid,
        refers_to=refers_to,
    )


REPORT_CLASSES = (SR3D, SR, ENHANCED)
RESULTS = (
    result(Kind.SEGMENTATION, SEG),
    result(Kind.SECONDARY_CAPTURE, SC),
    *(
        result(Kind.REPORT, sop_class, rank=2 * place + (not with_seg), refers_to=refers)
        for place, sop_class in enumerate(REPORT_CLASSES)
        for with_seg, refers in ((True, ("segmentation0",)), (False, ()))
    ),
    result(Kind.TEXT_REPORT, TEXT, language="en"),
    result(Kind.TEXT_REPORT, TEXT, language="zh"),
)
ALL = frozenset(one.sop_class for one in RESULTS)
KINDS = (Kind.SEGMENTATION, Kind.SECONDARY_CAPTURE, Kind.REPORT, Kind.TEXT_REPORT)


def subsets(values):
    return chain.from_iterable(combinations(values, size) for size in range(len(values) + 1))


def sent(choice):
    return [one.instance_uid for one in choice.results]


@pytest.mark.parametrize(
    ("accepted", "uids", "missing", "degraded"),
    [
        (
            ALL,
            ["segmentation0", "secondary_capture0", "report0", "text_report0en", "text_report0zh"],
            [],
            [],
        ),
        (
            ALL - {SEG},
            ["secondary_capture0", "report1", "text_report0en", "text_report0zh"],
            [],
            ["secondary capture instead: does not accept 1.66.4"],
        ),
        (
            ALL - {SR3D},
            ["segmentation0", "secondary_capture0", "report2", "text_report0en", "text_report0zh"],
            [],
            ["1.88.33: does not accept 1.88.34"],
        ),
        (
            ALL - {SEG, SR3D, SR},
            ["secondary_capture0", "report5", "text_report0en", "text_report0zh"],
            [],
            [
                "secondary capture instead: does not accept 1.66.4",
                "1.88.22: does not accept 1.88.34, 1.88.33",
            ],
        ),
        (
            {TEXT, SC},
            ["secondary_capture0", "text_report0en", "text_report0zh"],
            [],
            [
                "secondary capture instead: does not accept 1.66.4",
                "text report instead: does not accept 1.88.34, 1.88.33, 1.88.22",
            ],
        ),
        (
            {SR},
            ["report3"],
            [
                "not sent: does not accept 1.66.4, 1.7",
                "not sent: does not accept 1.7",
                "not sent: does not accept 1.88.11",
            ],
            ["1.88.33: does not accept 1.88.34"],
        ),
    ],
    ids=[
        "all",
        "no SEG",
        "no 3D SR",
        "Enhanced SR only",
        "text and pictures",
        "Comprehensive only",
    ],
)
def test_the_best_form_that_is_accepted_is_sent(accepted, uids, missing, degraded):
    choice = choose(RESULTS, accepted, KINDS, LANGUAGES)
    assert sent(choice) == uids
    assert [one.text for one in choice.missing] == missing
    assert [one.text for one in choice.degraded] == degraded


def test_a_report_without_the_segmentation_that_is_not_sent_is_no_lesser_form():
    """Here all that refer to the SEG come first, as they are written."""
    reports = tuple(
        result(Kind.REPORT, sop_class, rank=3 * (not refers_to) + place, refers_to=refers_to)
        for refers_to in (("segmentation0",), ())
        for place, sop_class in enumerate(REPORT_CLASSES)
    )
    choice = choose((*RESULTS[:2], *reports), {SC, SR3D}, KINDS, LANGUAGES)
    assert sent(choice) == ["secondary_capture0", "report3"]
    assert {one.kind: one.reason for one in choice.outcomes}[Kind.REPORT] == ""
    choice = choose((*RESULTS[:2], *reports), {SC, SR}, KINDS, LANGUAGES)
    assert {one.kind: one.reason for one in choice.outcomes}[Kind.REPORT] == (
        f"does not accept {SR3D}"
    )


@pytest.mark.parametrize("asked", list(subsets(KINDS)), ids=lambda kinds: "+".join(kinds) or "none")
def test_whatever_is_accepted_and_asked_for_the_choice_keeps_its_promises(asked):
    for accepted, languages in product(subsets(sorted(ALL)), subsets(LANGUAGES)):
        choice = choose(RESULTS, accepted, asked, languages)
        uids = set(sent(choice))
        assert {one.sop_class for one in choice.results} <= set(accepted)
        assert all(set(one.refers_to) <= uids for one in choice.results)
        ranks = {(one.kind, one.rank) for one in choice.results}
        assert len(ranks) == len({kind for kind, _ in ranks})  # never two forms of one kind
        assert {one.language for one in choice.results} <= {"", *languages}
        unsent = [one.kind for one in choice.outcomes if one.sent is not one.kind]
        allowed = {*asked, *(FALLBACKS[kind] for kind in unsent if kind in FALLBACKS)}
        assert {one.kind for one in choice.results} <= allowed
        for outcome in choice.outcomes:
            assert outcome.sent is None or outcome.sop_classes
            assert outcome.sent is outcome.kind or outcome.reason
        again = choose(RESULTS, accepted, asked, languages, uids)
        assert again == choice  # a retry is the same


@pytest.mark.parametrize("kept", ["report0", "report2", "report4"])
def test_a_form_that_the_peer_has_is_not_followed_by_another(kept):
    choice = choose(RESULTS, ALL, KINDS, LANGUAGES, {kept})
    assert [uid for uid in sent(choice) if uid.startswith("report")] == [kept]


def test_a_form_that_the_peer_has_and_accepts_no_more_is_followed_by_the_best():
    choice = choose(RESULTS, ALL - {SR}, KINDS, LANGUAGES, {"report2"})
    assert [uid for uid in sent(choice) if uid.startswith("report")] == ["report0"]


def test_what_stood_in_does_not_go_again_when_the_kind_itself_is_accepted():
    choice = choose(RESULTS, ALL, [Kind.SEGMENTATION], LANGUAGES, {"secondary_capture0"})
    assert sent(choice) == ["segmentation0"]


def test_a_kind_that_was_not_written_has_no_outcome():
    choice = choose(RESULTS[2:], ALL, (*KINDS, Kind.PDF), LANGUAGES)
    assert {one.kind for one in choice.outcomes} == {Kind.REPORT, Kind.TEXT_REPORT}


def test_what_was_not_written_to_stand_in_leaves_the_kind_missing():
    choice = choose(RESULTS[:1], (), [Kind.SEGMENTATION], LANGUAGES)
    assert [one.text for one in choice.missing] == ["not sent: does not accept 1.66.4"]


def test_what_refers_to_an_object_that_is_not_sent_is_missing_and_says_so():
    pointing = result(Kind.KEY_OBJECTS, KOS, refers_to=("segmentation0",))
    choice = choose((*RESULTS, pointing), (ALL | {KOS}) - {SEG}, [*KINDS, Kind.KEY_OBJECTS], "en")
    (missing,) = choice.missing
    assert missing.text == "not sent: refers to an object that is not sent"


def test_several_objects_of_one_form_go_together_or_not_at_all():
    pair = (
        result(Kind.SECONDARY_CAPTURE, SC, language="en"),
        result(Kind.SECONDARY_CAPTURE, PDF, language="zh"),
    )
    asked = [Kind.SECONDARY_CAPTURE]
    assert sent(choose(pair, {SC}, asked, LANGUAGES)) == []
    assert len(sent(choose(pair, {SC, PDF}, asked, LANGUAGES))) == 2
    assert len(sent(choose(pair, {SC}, asked, ["en"]))) == 1


def test_what_stands_in_comes_after_what_it_stands_in_for():
    order = list(Kind)
    assert all(order.index(kind) < order.index(other) for kind, other in FALLBACKS.items())
