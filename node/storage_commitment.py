"""Storage Commitment Push Model as SCP (PS3.4 Annex J): what was received is confirmed on request.

A request is kept on disk before it is answered. A thread looks up what it names, and reports to
the sender over an association of its own, again and again until the sender has the report.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from pydantic import ValidationError
from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from sqlalchemy.exc import SQLAlchemyError

from node.catalogue import Catalogue
from node.disk import trouble_of
from node.kept_requests import KeptRequests, Request, read_request
from node.remedies import SEE_ITS_LOG
from node.settings import Peer, Settings
from node.spool import InvalidUIDError, Spool, check_uid
from node.store_scu import PeerError, UnreachableError, associated

log = structlog.get_logger()

REQUEST_COMMITMENT = 1  # Action Type ID
ALL_COMMITTED, SOME_FAILED = 1, 2  # Event Type ID
SUCCESS, PROCESSING_FAILURE, INVALID_ARGUMENT, NOT_AUTHORIZED = 0x0000, 0x0110, 0x0115, 0x0124
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119  # Failure Reason (0008,1197), PS3.3 C.14.1.1
MOST_REFERENCES = 100_000
SETTLED = timedelta(seconds=1)  # what came before a request is listed in the catalogue by then
LOOK_AGAIN = (timedelta(seconds=2), timedelta(seconds=8))
"""After which what was not found is looked for again: the catalogue may be behind, after the
database was away or where a process has much to list."""
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=5), timedelta(hours=1)
_INTERVAL = 0.5
_ENABLE_REPORTS = "have it accept Storage Commitment Push Model from the node, which is SCP of it"


@dataclass(frozen=True)
class _Absence:
    """A sender that could not be reached, and again so many times: its reports wait."""

    rounds: int
    until: datetime


class CommitmentDesk(threading.Thread):
    """Takes requests for commitment, and reports."""

    def __init__(self, settings: Settings, spool: Spool, catalogue: Catalogue) -> None:
        super().__init__(name="commitment", daemon=True)
        self._settings = settings
        self._spool = spool
        self._catalogue = catalogue
        self._kept = KeptRequests(settings.node.state_dir)
        self._stopping = threading.Event()
        self._told: set[Path] = set()
        self._due: dict[Path, datetime] = {}  # so that no file is read before it is due
        self._away: dict[str, _Absence] = {}  # by AE title

    def prepare(self) -> None:
        """Make the folder of requests."""
        self._kept.prepare()

    def accept(self, event: evt.Event) -> tuple[int, None]:
        """Answer one N-ACTION request: Success once it is kept."""
        calling = str(event.assoc.requestor.ae_title).strip()
        if event.action_type != REQUEST_COMMITMENT:
            return INVALID_ARGUMENT, None
        try:
            asked = _request_of(event.action_information, calling)
        except (ValueError, AttributeError) as error:
            reason = str(error)
            log.warning("commitment.refused", calling=calling, reason=reason, remedy=SEE_ITS_LOG)
            return INVALID_ARGUMENT, None
        if self._peer(calling) is None:
            reason = "it is no configured peer, so there is no address to report to"
            remedy = "if it is meant to ask, add it as a peer"
            log.warning("commitment.refused", calling=calling, reason=reason, remedy=remedy)
            return NOT_AUTHORIZED, None
        try:
            self._keep(asked)
        except OSError as error:
            trouble = trouble_of(error)
            said = {"reason": trouble.reason, "remedy": trouble.remedy}
            log.warning("commitment.refused", calling=calling, **said)
            return PROCESSING_FAILURE, None
        return SUCCESS, None

    def run(self) -> None:
        """Report what is due, until told to stop."""
        while not self._stopping.wait(_INTERVAL):
            for path in self._kept.paths():
                try:
                    self._look_at(path)
                except (OSError, ValidationError) as error:  # the others must not wait for it
                    self._tell(path, error)

    def _look_at(self, path: Path) -> None:
        now = datetime.now(UTC)
        if self._due.get(path, now) > now:
            return
        request = read_request(path)
        away = self._away.get(request.calling_ae_title)
        if away is not None and away.until > now and not self._is_too_old(request):
            self._due[path] = away.until  # the others must not wait until each has found that out
        elif request.due <= now:
            self._attempt(request)
        else:
            self._due[path] = request.due

    def _tell(self, path: Path, error: Exception) -> None:
        if path not in self._told:
            self._told.add(path)
            reason = getattr(error, "strerror", None) or type(error).__name__
            remedy = "see the disk; remove the file if it is damaged, and have the peer ask again"
            log.error("commitment.unreadable", path=str(path), reason=reason, remedy=remedy)

    def stop(self) -> None:
        """End after the report that is under way."""
        self._stopping.set()
        self.join(timeout=30)

    def _attempt(self, request: Request) -> None:
        calling = request.calling_ae_title
        try:
            missing = self._missing(request)
            if NO_SUCH_INSTANCE in missing.values() and request.looks < len(LOOK_AGAIN):
                later = datetime.now(UTC) + LOOK_AGAIN[request.looks]
                self._keep(request.model_copy(update={"due": later, "looks": request.looks + 1}))
                return
            self._report(request, missing)
        except (PeerError, SQLAlchemyError) as error:
            if isinstance(error, UnreachableError):
                rounds = self._away[calling].rounds + 1 if calling in self._away else 0
                self._away[calling] = _Absence(rounds, datetime.now(UTC) + _pause(rounds))
            self._postpone(request, error)
            return
        self._away.pop(calling, None)
        self._drop(request)
        log.info(
            "commitment.reported",
            peer=calling,
            instances=len(request.references),
            missing=len(missing),
        )

    def _missing(self, request: Request) -> dict[str, int]:
        """Return the SOP Instance UIDs that are not held, and why."""
        wanted = {instance: sop_class for sop_class, instance in request.references}
        found = {
            key.instance: sop_class
            for key, sop_class in self._catalogue.instances_called(list(wanted))
            if self._spool.path(key).exists()
        }
        found.update(
            {uid: wanted[uid] for uid in wanted.keys() - found if self._spool.was_returned(uid)}
        )
        return {
            uid: CLASS_CONFLICT if uid in found else NO_SUCH_INSTANCE
            for uid, sop_class in wanted.items()
            if found.get(uid) != sop_class
        }

    def _report(self, request: Request, missing: dict[str, int]) -> None:
        peer = self._peer(request.calling_ae_title)
        if peer is None:
            raise PeerError("the sender is no peer any more", "add it as a peer again")
        settings = self._settings
        try:
            with associated(
                peer,
                settings.node.ae_title,
                [build_context(StorageCommitmentPushModel)],
                tls=settings.tls,
                roles=[build_role(StorageCommitmentPushModel, scp_role=True)],
            ) as association:
                answer, _ = association.send_n_event_report(
                    _report_of(request, missing),
                    SOME_FAILED if missing else ALL_COMMITTED,
                    StorageCommitmentPushModel,
                    StorageCommitmentPushModelInstance,
                )
        except UnreachableError:
            raise
        except (PeerError, ValueError) as error:  # the context was not accepted, or the role
            reason = f"{peer.name} accepts no reports of storage commitment"
            raise PeerError(reason, _ENABLE_REPORTS) from error
        status = answer.get("Status")
        if status != SUCCESS:
            said = "did not answer" if status is None else f"answered {status:04X} to"
            raise PeerError(f"{peer.name} {said} the report", "see the peer's log")

    def _postpone(self, request: Request, error: Exception) -> None:
        wait = _pause(request.attempts)
        is_peer = isinstance(error, PeerError)
        reason = str(error) if is_peer else "the database does not answer"
        remedy = getattr(error, "remedy", "run 'overread check'")
        given_up = self._is_too_old(request)
        if given_up:
            self._drop(request)
        else:
            later = {"due": datetime.now(UTC) + wait, "attempts": request.attempts + 1}
            self._keep(request.model_copy(update=later | {"reason": reason, "remedy": remedy}))
        log.log(
            logging.ERROR if given_up else logging.WARNING,
            "commitment.not_reported",
            peer=request.calling_ae_title,
            reason=reason,
            remedy=remedy,
            given_up=given_up,
            retry_in_seconds=None if given_up else round(wait.total_seconds()),
        )

    def _is_too_old(self, request: Request) -> bool:
        patience = timedelta(hours=self._settings.delivery.give_up_hours)
        return datetime.now(UTC) - request.received_at > patience

    def _keep(self, request: Request) -> None:
        self._due.pop(self._kept.keep(request), None)

    def _drop(self, request: Request) -> None:
        self._due.pop(self._kept.drop(request), None)

    def _peer(self, ae_title: str) -> Peer | None:
        found = (peer for peer in self._settings.peers if peer.ae_title == ae_title)
        return next(found, None)


def _pause(attempts: int) -> timedelta:
    wait: timedelta = min(FIRST_RETRY * 2 ** min(attempts, 20), LONGEST_RETRY)
    return wait


def _request_of(asked: Dataset, calling: str) -> Request:
    """Return the request of an Action Information (PS3.4 Table J.3-1); ValueError if it is none."""
    transaction = str(asked.TransactionUID)
    references = [
        (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
        for item in asked.ReferencedSOPSequence
    ]
    if not 0 < len(references) <= MOST_REFERENCES:
        raise ValueError(f"it refers to {len(references)} instances")
    try:
        check_uid(transaction, "Transaction UID")
        for sop_class, instance in references:
            check_uid(sop_class, "Referenced SOP Class UID")
            check_uid(instance, "Referenced SOP Instance UID")
    except InvalidUIDError as error:
        raise ValueError(str(error)) from None
    now = datetime.now(UTC)
    return Request(
        transaction_uid=transaction,
        calling_ae_title=calling,
        references=tuple(references),
        due=now + SETTLED,
        received_at=now,
    )


def _report_of(request: Request, missing: dict[str, int]) -> Dataset:
    """Return the Event Information (PS3.4 Table J.3-2)."""
    report = Dataset()
    report.TransactionUID = request.transaction_uid
    held = [each for each in request.references if each[1] not in missing]
    if held:
        report.ReferencedSOPSequence = references(held)
    if missing:
        report.FailedSOPSequence = references(
            [each for each in request.references if each[1] in missing]
        )
        for item in report.FailedSOPSequence:
            item.FailureReason = missing[item.ReferencedSOPInstanceUID]
    return report


def references(instances: Sequence[tuple[str, str]]) -> list[Dataset]:
    """Return items of (SOP Class UID, SOP Instance UID), as requests and reports have them."""
    items = []
    for sop_class, instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = instance
        items.append(item)
    return items
