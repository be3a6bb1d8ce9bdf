"""Where a study stands is said in one word, and every error comes with what to do about it."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import orjson
import pytest
from rich.console import Console

from node.catalogue import Catalogue
from node.status import MILESTONES, as_table, study_rows, timeline
from node.tables import DeliveryState, RunState
from tests.node.studies import deliver, open_run, receive

STUDY = "1.2.3"
RUN, OTHER_RUN = "a" * 32, "b" * 32


@pytest.fixture
def catalogue(tmp_path):
    made = Catalogue(f"sqlite:///{tmp_path / 'overread.sqlite'}")
    yield made
    made.close()


def row(catalogue):
    (only,) = study_rows(catalogue.worklist())
    return only


def test_a_study_that_was_not_considered_yet_is_receiving(catalogue):
    receive(catalogue, STUDY, instances=7)
    assert (row(catalogue).state, row(catalogue).instances) == ("receiving", 7)


def test_a_study_that_receives_more_after_its_run_is_receiving_again(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED)
    catalogue.consider(
        STUDY, at=datetime.now(UTC) - timedelta(hours=1), revision="earlier", note=""
    )
    assert row(catalogue).state == "receiving"


def test_a_study_that_no_route_takes_says_so_and_what_to_do(catalogue):
    receive(catalogue, STUDY)
    catalogue.consider(STUDY, at=datetime.now(UTC), revision="x", note="no route matches")
    stands = row(catalogue)
    assert (stands.state, stands.outcome) == ("no route", "no route matches")
    assert "add a route" in stands.remedy


@pytest.mark.parametrize("state", list(RunState))
def test_a_study_stands_where_its_run_stands(catalogue, state):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, state)
    assert row(catalogue).state == state


def test_of_several_routes_the_worst_is_shown(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED, outcome="absent")
    open_run(catalogue, STUDY, OTHER_RUN, RunState.FAILED, route="b", error="broke", remedy="mend")
    stands = row(catalogue)
    assert (stands.state, stands.error, stands.remedy) == ("failed", "broke", "mend")
    assert stands.outcome == "absent"


def test_a_superseded_run_does_not_decide_and_comes_last(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.FAILED, error="broke")
    open_run(catalogue, STUDY, OTHER_RUN, RunState.DELIVERED, supersedes=RUN)
    stands = row(catalogue)
    assert (stands.state, stands.error) == ("delivered", "")
    assert [(run.run_id, run.superseded) for run in stands.runs] == [
        (OTHER_RUN, False),
        (RUN, True),
    ]


def test_a_delivery_that_waits_shows_its_error_remedy_and_next_attempt(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERING)
    deliver(catalogue, RUN, DeliveryState.WAITING, error="no answer", remedy="start the peer")
    stands = row(catalogue)
    assert (stands.error, stands.remedy) == ("no answer", "start the peer")
    (delivery,) = stands.runs[0].deliveries
    assert delivery.attempts == 1
    assert delivery.next_attempt_at is not None


def test_a_delivery_in_a_lesser_form_is_delivered_and_says_so(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED, outcome="absent")
    note = "segmentation: secondary capture instead: does not accept Segmentation Storage"
    deliver(catalogue, RUN, DeliveryState.DELIVERED, note=note)
    stands = row(catalogue)
    assert (stands.state, stands.error) == ("delivered", "")
    assert stands.notes == (f"pacs gets {note}",)
    console = Console(width=250, file=StringIO())
    console.print(as_table([stands]))
    assert "pacs gets segmentation: secondary capture instead" in console.file.getvalue()


@pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.GIVEN_UP])
def test_a_delivery_that_is_over_has_no_next_attempt(catalogue, state):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED)
    deliver(catalogue, RUN, state)
    assert row(catalogue).runs[0].deliveries[0].next_attempt_at is None


def test_the_timeline_is_in_the_order_of_the_way_with_ms_between(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED, until="committed")
    steps = timeline(catalogue.run(RUN))
    assert tuple(name for name, _, _ in steps) == MILESTONES
    assert [round(ms) for _, _, ms in steps] == [0, 2000, 30000, 250, 750, 1250, 1750, 2250, 2750]


def test_a_run_on_its_way_has_the_milestones_it_reached(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.RUNNING, until="assembled")
    assert timeline(catalogue.run(RUN))[-1][0] == "assembled"


def test_rows_are_json(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED, until="delivered")
    deliver(catalogue, RUN, DeliveryState.DELIVERED)
    read = orjson.loads(orjson.dumps(row(catalogue).as_dict()))
    assert read["runs"][0]["deliveries"][0]["objects"][0]["status"] == "0000"
    assert read["series"][0]["instances"] == 24


def test_the_table_shows_hostile_text_as_text(catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.FAILED, error="[/red] broke", remedy="[bold]mend")
    console = Console(width=200, file=StringIO())
    console.print(as_table([row(catalogue)]))
    shown = console.file.getvalue()
    assert "[/red] broke" in shown
    assert "-> [bold]mend" in shown
