"""DIMSE SCP: C-ECHO and C-STORE from configured peers; Success means fsynced on disk.

One process or several on one port, a thread an association. An instance goes from the association
into the spool in the association's own thread; a further thread tells the catalogue about what
came, in batches.
"""

import shutil
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from typing import cast

import structlog
from pydicom import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    Verification,
)

from node.admission import Refusal, Seats, may_query, peer_of, refusal
from node.association_listener import listen
from node.bookkeeper import Bookkeeper
from node.catalogue import Catalogue
from node.commitment_reports import ReportDesk
from node.disk import Disk, trouble_of
from node.holdings import Holdings
from node.intake import STORAGE_CLASSES, SUCCESS, TRANSFER_SYNTAXES
from node.pace import Pace, PacedReception
from node.query_retrieve import QUERY_CLASSES, QueryDesk, query_contexts
from node.reception import Intaker
from node.retrieval import RetrievingEntity
from node.settings import MOST_LISTENERS, Settings
from node.side_by_side import Share
from node.spool import INCOMING, Spool
from node.storage_commitment import CommitmentDesk
from node.store_request import COMMENT_LENGTH, StoreRequest
from node.transport_security import CertificateError, names_of, server_context
from node.upper_layer import MAXIMUM_PDU, Reception

log = structlog.get_logger()

_CALLING_AE_TITLE_NOT_RECOGNIZED = (0x01, 0x01, 0x03)  # PS3.8 Section 9.3.4, permanent
_LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)  # transient
_OVER = (evt.EVT_RELEASED, evt.EVT_ABORTED, evt.EVT_CONN_CLOSE)
_SEE_WHO = "senders try again; if this goes on, see what holds associations open"
_OTHER_TITLE = Refusal("the called AE title is another", "correct it there, or node.ae_title here")
_TOO_MANY = Refusal("there are too many connections", _SEE_WHO)


class Listener:
    """The DICOM listener of one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        share = Share()
        self._number = _number(share)
        self._spool = Spool(settings.spool_dir, incoming=_incoming(self._number))
        self._disk = Disk(settings)
        self._catalogue = Catalogue(settings.database_url)
        self._bookkeeper = Bookkeeper(self._catalogue, self._spool)
        self._intaker = Intaker(
            self._spool,
            self._disk,
            self._bookkeeper.note,
            warns_of_other_content=settings.node.other_content == "warn",
        )
        self._queries = QueryDesk(settings, Holdings(settings, self._catalogue))
        self._seats = Seats(settings, share)
        self._paces = {
            peer.ae_title: Pace(peer.max_mb_per_second * 1e6, share, index)
            for index, peer in enumerate(settings.peers)
            if peer.max_mb_per_second
        }
        self._commitment = CommitmentDesk(settings, self._spool, self._catalogue)
        self._reports = ReportDesk(settings, self._catalogue)

    def start(self) -> None:
        """Listen; returns at once. Raises OSError if the port is taken."""
        # pynetdicom would abort the association over a hostile UID; `inspect` answers it instead.
        _config.VALIDATORS["UI"] = lambda _uid: (True, "")
        self._spool.prepare()
        if self._number == 0:
            self._drop_incoming_of_none()
        self._disk.begin()
        self._commitment.prepare()
        node = self._settings.node
        self._entity = _application_entity(self._settings)
        handlers = self._handlers()
        if node.upper_layer == "pynetdicom":
            where = (node.host, node.port)
            self._entity.start_server(where, block=False, evt_handlers=handlers)
        else:
            self._listen(node.port, handlers)
        tls = self._settings.tls
        if tls is not None:
            server_context(tls)  # so that a wrong file is told now, not to the first sender
            self._listen(tls.port, handlers, lambda: server_context(tls))
        self._bookkeeper.start()
        if self._number == 0:  # one reports for all
            self._commitment.start()
        log.info("listener.started", ae_title=node.ae_title, host=node.host, port=node.port)

    def stop(self) -> None:
        """End all associations and list what they brought."""
        self._entity.shutdown()
        if self._number == 0:
            self._commitment.stop()
        self._bookkeeper.stop()
        self._catalogue.close()
        log.info("listener.stopped")

    def _drop_incoming_of_none(self) -> None:
        """Remove what processes left half-written that there are no more of."""
        for number in range(self._settings.node.listener_processes, MOST_LISTENERS):
            shutil.rmtree(self._settings.spool_dir / _incoming(number), ignore_errors=True)

    def _listen(
        self,
        port: int,
        handlers: list[evt.EventHandlerType],
        secured_by: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        node = self._settings.node
        listen(
            self._entity,
            (node.host, port),
            handlers,
            self._begin,
            most_associations=node.max_associations,
            secured_by=secured_by,
            shares_port=node.listener_processes > 1,
        )

    def _admit(self, event: evt.Event) -> None:
        """Reject a request of a peer that is not who it says, or not where it should be."""
        association, requestor = event.assoc, event.assoc.requestor
        connection = getattr(association.dul.socket, "socket", None)
        names = names_of(connection) if isinstance(connection, ssl.SSLSocket) else None
        calling = str(cast("A_ASSOCIATE", requestor.primitive).calling_ae_title).strip()
        asked = (self._settings, calling, str(requestor.address), names)
        found, answer = refusal(*asked), _CALLING_AE_TITLE_NOT_RECOGNIZED
        if found is None:
            excess, answer = self._seats.excess(association, peer_of(*asked)), _LOCAL_LIMIT_EXCEEDED
            found = Refusal(excess, _SEE_WHO) if excess else None
        if found:
            requestor.ae_title = calling
            association.acse.send_reject(*answer)
            _log_rejected(event, found)
            association.kill()
        elif may_query(*asked):
            self._offer_queries(association)
        elif {one.abstract_syntax for one in requestor.requested_contexts} & {*QUERY_CLASSES}:
            log.warning(
                "query.not_permitted",
                calling=calling,
                remedy="if it is meant to ask, set 'query' of this peer",
            )

    def _offer_queries(self, association: Association) -> None:
        roles = {
            uid: (bool(item.scu_role), bool(item.scp_role))
            for uid, item in association.requestor.role_selection.items()
        }
        offered = {one.abstract_syntax: one for one in self._entity.supported_contexts}
        offered |= {one.abstract_syntax: one for one in query_contexts(roles)}
        association.acceptor.supported_contexts = [*offered.values()]

    def _handlers(self) -> list[evt.EventHandlerType]:
        return [
            (evt.EVT_REQUESTED, self._admit),
            (evt.EVT_C_STORE, self.store),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_N_ACTION, self._commitment.accept),
            (evt.EVT_N_EVENT_REPORT, lambda event: self._reports.take(event, _calling(event))),
            *self._queries.handlers(),
            (evt.EVT_REJECTED, _log_rejected),
            (evt.EVT_ABORTED, _log_aborted),
            *((over, lambda _event: self._seats.clear()) for over in _OVER),
        ]

    def _begin(self, request: StoreRequest) -> Reception:
        """Return what takes a data set, at its peer's pace where it has one."""
        reception = self._intaker.begin(request)
        pace = self._paces.get(request.calling_ae_title)
        return reception if pace is None else PacedReception(reception, pace)

    def store(self, event: evt.Event) -> Dataset:
        """Answer one C-STORE request of pynetdicom's own upper layer."""
        asked = cast("C_STORE", event.request)
        request = StoreRequest(
            sop_class_uid=str(asked.AffectedSOPClassUID or ""),
            instance_uid=str(asked.AffectedSOPInstanceUID or ""),
            transfer_syntax=event.context.transfer_syntax,
            calling_ae_title=_calling(event),
            address=str(event.assoc.requestor.address),
        )
        reception = self._begin(request)
        reception.add(memoryview(event.encoded_dataset(include_meta=False)))
        answer = reception.finish()
        response = Dataset()
        response.Status = answer.status
        if answer.comment:
            response.ErrorComment = answer.comment[:COMMENT_LENGTH]
        return response


def run_listener(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT."""
    listener = Listener(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        listener.start()
    except (OSError, CertificateError) as error:
        remedy = "run 'overread check': it says whether port, disk or certificate is at fault"
        path = getattr(error, "filename", None)  # the disk is at fault
        log.error(  # noqa: TRY400  # where in the code says nothing to an operator
            "listener.cannot_start",
            reason=getattr(error, "strerror", None) or str(error),
            path=path,
            remedy=trouble_of(error).remedy if path and isinstance(error, OSError) else remedy,
        )
        sys.exit(1)
    stop.wait()
    listener.stop()


def _application_entity(settings: Settings) -> AE:
    node = settings.node
    entity = RetrievingEntity(ae_title=node.ae_title)
    entity.maximum_pdu_size = MAXIMUM_PDU
    entity.acse_timeout = node.acse_timeout_seconds
    entity.network_timeout = node.idle_timeout_seconds
    entity.maximum_associations = 3 * node.max_associations  # connections; see `Seats`
    entity.require_called_aet = True
    entity.add_supported_context(Verification)
    # Who asks us is SCU, who reports what we asked for is SCP.
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    for storage_class in STORAGE_CLASSES:
        entity.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
    return entity


def _number(share: Share) -> int:
    """Return this process's number among the listener processes, from 0."""
    number = share.take(range(MOST_LISTENERS))
    if number is None:
        raise RuntimeError("the supervisor started more listeners than there may be")
    return number


def _incoming(number: int) -> str:
    return INCOMING if number == 0 else f"{INCOMING}-{number + 1}"


def _calling(event: evt.Event) -> str:
    return str(event.assoc.requestor.ae_title).strip()


def _log_rejected(event: evt.Event, why: Refusal | None = None) -> None:
    """Tell whom the node, or pynetdicom by itself, turned away."""
    request = event.assoc.requestor.primitive
    if why is None:
        is_meant = request and request.called_ae_title.strip() == event.assoc.ae.ae_title
        why = _TOO_MANY if is_meant else _OTHER_TITLE
    log.warning(
        "association.rejected",
        reason=why.reason,
        calling=_calling(event),
        called=str(request.called_ae_title).strip() if request else "",
        address=event.assoc.requestor.address,
        remedy=why.remedy,
    )


def _log_aborted(event: evt.Event) -> None:
    log.warning(
        "association.aborted",
        calling=_calling(event),
        address=event.assoc.requestor.address,
        remedy="see its log; what was not acknowledged it has to send again",
    )
