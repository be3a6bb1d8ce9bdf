"""Whatever bytes an identifier is made of, a query is answered, by the standard's statuses."""

from io import BytesIO
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pynetdicom.dsutils import decode, encode
from structlog.testing import capture_logs

from node.catalogue import Catalogue
from node.holdings import Holdings
from node.query_retrieve import QueryDesk
from node.retrieval import Retrieval
from node.tables import RunState
from tests.node.studies import make_settings, open_run, receive

STUDY = "1.2.3"
ANSWERS = {0xFF00, 0xFF01, 0xA900, 0xC000}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    catalogue = Catalogue(f"sqlite:///{folder}/overread.sqlite")
    receive(catalogue, STUDY, instances=2)
    open_run(catalogue, STUDY, "run", RunState.DELIVERED)
    node = make_settings(folder)
    return QueryDesk(node, Holdings(node, catalogue))


def identifier():
    request = Dataset()
    request.RequestedProcedureID = "R*"
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 100"
    query.QueryRetrieveLevel = "SERIES"
    query.StudyDate, query.StudyTime = "20260101-20261231", "10-"
    query.StudyInstanceUID, query.SeriesInstanceUID = STUDY, ""
    query.PatientName, query.Modality = "Doe^?*", "CT"
    query.SeriesNumber = "3"
    query.RequestAttributesSequence = [request]
    return query


class Event:
    """What a handler is given, with an identifier of these bytes."""

    assoc = SimpleNamespace(
        requestor=SimpleNamespace(ae_title="ASKER"), bind=lambda *_handlers: None
    )
    is_cancelled = False

    def __init__(self, content, implicit):
        self._content, self._implicit = content, implicit

    @property
    def identifier(self):
        return decode(BytesIO(self._content), self._implicit, True)


def mutated(content, changes):
    for place, byte, cut in changes:
        at = place % (len(content) + 1)
        content = content[:at] + bytes([byte]) + content[at + cut :]
    return content


CHANGES = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 3)), max_size=6
)


def status_of(answer):
    return answer.Status if isinstance(answer, Dataset) else answer


@settings(max_examples=300, deadline=None)
@given(CHANGES, st.booleans())
@example([(2100, 49, 0)], True)  # an attribute of a repeating group
def test_a_damaged_identifier_is_answered(desk, changes, implicit):
    content = mutated(encode(identifier(), implicit, True), changes)
    with capture_logs() as logs:
        found = list(desk.find(Event(content, implicit)))
        retrieval = Retrieval("ASKER", None, "ASKER")
        count, *sent = desk._retrieve(Event(content, implicit), "ASKER", retrieval)
    assert {status_of(status) for status, _ in found} <= ANSWERS
    assert not [entry for entry in logs if entry["event"] == "query.failed"]
    assert count in (len(sent), 0)
    assert {status_of(status) for status, _ in sent} <= ANSWERS
    for _, answer in found:
        if answer is not None:
            assert encode(answer, implicit, True)
