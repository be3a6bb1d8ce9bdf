"""C-FIND, C-MOVE and C-GET SCP at study root (PS3.4 Annex C) over what the node holds.

Only peers whose configuration says so are offered these services: others find them not supported.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import structlog
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from sqlalchemy.exc import SQLAlchemyError

from node.holdings import HeldInstance, Holdings, Level, unsupported
from node.intake import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.matching import UnmatchableKeyError, texts_of
from node.remedies import CHECK_DATABASE, DEFECT
from node.retrieval import Retrieval, back, to_peer
from node.settings import Settings
from node.spool import check_uid
from node.store_request import COMMENT_LENGTH
from sr_writer.encoding import transfer_syntaxes
from sr_writer.results import SOP_CLASSES

log = structlog.get_logger()

# Status codes: PS3.4 Tables C.4-1, C.4-2 and C.4-3
PENDING, PENDING_UNSUPPORTED, CANCELLED = 0xFF00, 0xFF01, 0xFE00
OUT_OF_RESOURCES, UNKNOWN_DESTINATION, MISMATCH, CANNOT_PROCESS = 0xA700, 0xA801, 0xA900, 0xC000
MOST_MATCHES = 10_000  # of one C-FIND
MOST_INSTANCES = 65_535  # of one retrieval: their number is a US (PS3.7 Section 9.1.4.1)

QUERY_CLASSES = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
)
_UNIQUE_KEYS = {
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}
_LEVELS = tuple(Level)

Answer = tuple[int | Dataset, Dataset | None]
"""Status, and what belongs to it."""


class QueryError(Exception):
    """A request that is answered with a failure; the text goes into its comment and the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def query_contexts(proposed_roles: dict[UID, tuple[bool, bool]]) -> list[PresentationContext]:
    """Return what a peer that may query is offered besides storage.

    `proposed_roles` are those of the request: SOP class -> roles of SCU and SCP. Objects that the
    node makes are offered to those alone that would take them (C-GET): it receives none.
    """
    contexts = [
        build_context(one, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        for one in QUERY_CLASSES
    ]
    for storage_class in STORAGE_CLASSES:
        context = build_context(storage_class, list(TRANSFER_SYNTAXES))
        context.scu_role = context.scp_role = True
        contexts.append(context)
    for made in {uid for classes in SOP_CLASSES.values() for uid in classes} - {*STORAGE_CLASSES}:
        if proposed_roles.get(made, (True, False))[1]:
            context = build_context(made, list(transfer_syntaxes(made)))
            context.scu_role, context.scp_role = False, True
            contexts.append(context)
    return contexts


@dataclass(frozen=True)
class QueryDesk:
    """Answers C-FIND, C-MOVE and C-GET requests of peers that may ask."""

    settings: Settings
    holdings: Holdings

    def handlers(self) -> list[evt.EventHandlerType]:
        """Return the handlers of the three services."""
        return [
            (evt.EVT_C_FIND, self.find),
            (evt.EVT_C_MOVE, self.move),
            (evt.EVT_C_GET, self.get),
        ]

    def find(self, event: evt.Event) -> Iterator[Answer]:
        """Answer a C-FIND request, a match at a time (PS3.4 Section C.4.1)."""
        matches = 0
        try:
            level, query = _asked(event, _single_keys_above)
            answers = self.holdings.find(level, query, limit=MOST_MATCHES + 1)
            pending = PENDING_UNSUPPORTED if unsupported(level, query) else PENDING
            for answer in answers:
                if event.is_cancelled:
                    yield CANCELLED, None
                    return
                if matches == MOST_MATCHES:
                    raise QueryError(OUT_OF_RESOURCES, f"over {MOST_MATCHES} matches: narrow it")
                matches += 1
                yield pending, self._response(level, query, answer)
            log.info(
                "query.answered", query_level=str(level), matches=matches, calling=_calling(event)
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, log and peer are told
            yield _failure(event, error), None

    def move(self, event: evt.Event) -> Iterator[object]:
        """Answer a C-MOVE request: send what it names to a peer (PS3.4 Section C.4.2)."""
        asked = str(cast("C_MOVE", event.request).MoveDestination or "").strip()
        peer = next((one for one in self.settings.peers if one.ae_title == asked), None)
        if peer is None:
            log.warning(
                "retrieve.refused",
                calling=_calling(event),
                reason="the move destination is no configured peer",
                remedy="if it is meant, add it as a peer",
            )
            yield None, None
            return
        retrieval = Retrieval(_calling(event), to_peer(peer, self.settings), peer.name)
        yield peer.host, peer.port, {"retrieval": retrieval}
        yield from self._retrieve(event, peer.name, retrieval)

    def get(self, event: evt.Event) -> Iterator[object]:
        """Answer a C-GET request: send what it names back (PS3.4 Section C.4.3)."""
        retrieval = Retrieval(_calling(event), back(event.assoc), _calling(event))
        event.assoc.send_c_store = retrieval.send_c_store  # type: ignore[assignment]
        try:
            yield from self._retrieve(event, _calling(event), retrieval)
        finally:
            retrieval.release()

    def _retrieve(self, event: evt.Event, to: str, retrieval: Retrieval) -> Iterator[object]:
        try:
            instances = self._named(*_asked(event, _unique_keys))
        except Exception as error:  # noqa: BLE001  # whatever it is, log and peer are told
            yield 1  # there has to be one, so that it can fail
            yield _failure(event, error), None
            return
        # Where the node stops, nobody waits for a peer that takes nothing.
        event.assoc.bind(evt.EVT_ABORTED, lambda _event: retrieval.break_off())
        yield len(instances)
        for reference in retrieval.references(instances):
            if event.is_cancelled:
                yield CANCELLED, None
                return
            yield PENDING, reference
        log.info(
            "retrieve.answered",
            calling=_calling(event),
            to=to,
            instances=len(instances),
            sent=retrieval.sent,
            failed=retrieval.failed,
        )

    def _named(self, level: Level, query: Dataset) -> list[HeldInstance]:
        wanted = [*dict.fromkeys(_values(query, _UNIQUE_KEYS[level]))]
        above = [_values(query, _UNIQUE_KEYS[one])[0] for one in _above(level)]
        instances: list[HeldInstance] = []
        for uid in wanted:
            instances += self.holdings.instances(*(*above, uid))
            if max(len(instances), len(wanted)) > MOST_INSTANCES:
                reason = f"over {MOST_INSTANCES} instances: ask for fewer"
                raise QueryError(OUT_OF_RESOURCES, reason)
        return instances

    def _response(self, level: Level, query: Dataset, answer: Dataset) -> Dataset:
        """What was asked for of a match (PS3.4 Section C.4.1.1.3.2)."""
        response = Dataset()
        response.update({tag: answer[tag] for tag in query.keys() if tag in answer})  # noqa: SIM118
        for one in (*_above(level), level):
            response[_UNIQUE_KEYS[one]] = answer[_UNIQUE_KEYS[one]]
        response.SpecificCharacterSet = answer.SpecificCharacterSet
        response.QueryRetrieveLevel = str(level)
        response.RetrieveAETitle = self.settings.node.ae_title
        return response


def _asked(event: evt.Event, check: Callable[[Level, Dataset], None]) -> tuple[Level, Dataset]:
    """Return level and keys of a request; QueryError where it has none or not those it has to."""
    try:
        query = event.identifier
        level = str(query.get("QueryRetrieveLevel", ""))
    except Exception as error:  # a parser of hostile bytes raises what it will
        raise QueryError(CANNOT_PROCESS, "the identifier cannot be parsed") from error
    if level not in _LEVELS:
        raise QueryError(MISMATCH, "Query/Retrieve Level is not STUDY, SERIES or IMAGE")
    check(Level(level), query)
    return Level(level), query


def _single_keys_above(level: Level, query: Dataset) -> None:
    """Check that each level above is one (PS3.4 Section C.4.1.2.1: hierarchical search)."""
    for one in _above(level):
        if len(_values(query, _UNIQUE_KEYS[one])) != 1:
            raise QueryError(MISMATCH, f"{_UNIQUE_KEYS[one]} has to be one UID")


def _unique_keys(level: Level, query: Dataset) -> None:
    """Check that what is to be sent is named by UIDs (PS3.4 Section C.4.2.2.1)."""
    _single_keys_above(level, query)
    if not _values(query, _UNIQUE_KEYS[level]):
        raise QueryError(MISMATCH, f"{_UNIQUE_KEYS[level]} has to be there")


def _values(query: Dataset, keyword: str) -> list[str]:
    """UIDs of a unique key; QueryError where one is none, as a wildcard would be."""
    try:
        uids = [uid for uid in texts_of(query[keyword]) if uid] if keyword in query else []
        for uid in uids:
            check_uid(uid, keyword)
    except Exception as error:  # pydicom raises what it will over a value that is none of its kind
        raise QueryError(MISMATCH, f"{keyword} is not a valid UID") from error
    return uids


def _above(level: Level) -> tuple[Level, ...]:
    return _LEVELS[: _LEVELS.index(level)]


def _failure(event: evt.Event, error: Exception) -> Dataset:
    """Return the status of a request that failed, and say so in the log."""
    remedy = "have the peer ask for what the reason says"
    if isinstance(error, QueryError):
        status, comment = error.status, str(error)
    elif isinstance(error, UnmatchableKeyError):
        status, comment = MISMATCH, str(error)
    elif isinstance(error, SQLAlchemyError):
        status, comment, remedy = CANNOT_PROCESS, "the catalogue does not answer", CHECK_DATABASE
        log.error("catalogue.unreachable", remedy=remedy)
    else:
        status, comment, remedy = CANNOT_PROCESS, "a defect of the node: see its log", DEFECT
        log.error("query.failed", exc_info=error, remedy=remedy)
    said = {"calling": _calling(event), "status": f"{status:04X}", "reason": comment}
    log.warning("query.refused", **said, remedy=remedy)
    failure = Dataset()
    failure.Status = status
    failure.ErrorComment = comment[:COMMENT_LENGTH]
    return failure


def _calling(event: evt.Event) -> str:
    return str(event.assoc.requestor.ae_title).strip()
