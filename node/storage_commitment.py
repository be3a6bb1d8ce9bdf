"""Storage Commitment Push Model as SCP (PS3.4 Annex J): what was received is confirmed on request.

A request is kept on disk before it is answered. A thread looks up what it names, and reports to
the sender over an association of its own, again and again until the sender has the report.
"""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from sqlalchemy.exc import SQLAlchemyError

from node.catalogue import Catalogue
from node.durable import fsync_folder, replace_durably
from node.settings import Peer, Settings
from node.spool import InvalidUIDError, Spool, check_uid
from node.store_scu import PeerError, associated

log = structlog.get_logger()

REQUEST_COMMITMENT = 1  # Action Type ID
ALL_COMMITTED, SOME_FAILED = 1, 2  # Event Type ID
SUCCESS, PROCESSING_FAILURE, INVALID_ARGUMENT, NOT_AUTHORIZED = 0x0000, 0x0110, 0x0115, 0x0124
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119  # Failure Reason (0008,1197), PS3.3 C.14.1.1
MOST_REFERENCES = 100_000
SETTLED = timedelta(seconds=1)  # what came before a request is listed in the catalogue by then
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=5), timedelta(hours=1)
_INTERVAL = 0.5


class Request(BaseModel):
    """One N-ACTION request, as it is kept until its report is delivered."""

    model_config = ConfigDict(frozen=True)

    transaction_uid: str
    calling_ae_title: str
    references: tuple[tuple[str, str], ...]
    """SOP Class UID and SOP Instance UID."""
    due: AwareDatetime
    received_at: AwareDatetime
    attempts: int = 0


class CommitmentDesk(threading.Thread):
    """Takes requests for commitment, and reports."""

    def __init__(self, settings: Settings, spool: Spool, catalogue: Catalogue) -> None:
        super().__init__(name="commitment", daemon=True)
        self._settings = settings
        self._spool = spool
        self._catalogue = catalogue
        self._folder = settings.node.state_dir / "commitment"
        self._stopping = threading.Event()
        self._told: set[Path] = set()

    def prepare(self) -> None:
        """Make the folder of requests."""
        self._folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(self._folder.parent)

    def accept(self, event: evt.Event) -> tuple[int, None]:
        """Answer one N-ACTION request: Success once it is kept."""
        calling = str(event.assoc.requestor.ae_title).strip()
        if event.action_type != REQUEST_COMMITMENT:
            return INVALID_ARGUMENT, None
        try:
            asked = _request_of(event.action_information, calling)
        except (ValueError, AttributeError) as error:
            log.warning("commitment.refused", calling=calling, reason=str(error))
            return INVALID_ARGUMENT, None
        if self._peer(calling) is None:
            reason = "it is no configured peer, so there is no address to report to"
            log.warning("commitment.refused", calling=calling, reason=reason)
            return NOT_AUTHORIZED, None
        try:
            self._keep(asked)
        except OSError as error:
            log.warning("commitment.refused", calling=calling, reason=error.strerror)
            return PROCESSING_FAILURE, None
        return SUCCESS, None

    def run(self) -> None:
        """Report what is due, until told to stop."""
        while not self._stopping.wait(_INTERVAL):
            for path in sorted(self._folder.glob("*.json")):
                try:
                    request = Request.model_validate_json(path.read_bytes())
                    if request.due <= datetime.now(UTC):
                        self._attempt(request)
                except (OSError, ValidationError) as error:  # the others must not wait for it
                    self._tell(path, error)

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
        try:
            missing = self._missing(request)
            self._report(request, missing)
        except (PeerError, SQLAlchemyError) as error:
            self._postpone(request, error)
            return
        self._path(request).unlink(missing_ok=True)
        log.info(
            "commitment.reported",
            peer=request.calling_ae_title,
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
        with associated(
            peer,
            settings.node.ae_title,
            [build_context(StorageCommitmentPushModel)],
            tls=settings.tls,
            roles=[build_role(StorageCommitmentPushModel, scp_role=True)],
        ) as association:
            try:
                answer, _ = association.send_n_event_report(
                    _report_of(request, missing),
                    SOME_FAILED if missing else ALL_COMMITTED,
                    StorageCommitmentPushModel,
                    StorageCommitmentPushModelInstance,
                )
            except ValueError as error:  # the role or the context was not accepted
                raise PeerError(f"{peer.name} takes no report", "enable it at the peer") from error
        if answer.get("Status") != SUCCESS:
            raise PeerError(f"{peer.name} did not take the report", "see the peer's log")

    def _postpone(self, request: Request, error: Exception) -> None:
        wait = min(FIRST_RETRY * 2 ** min(request.attempts, 20), LONGEST_RETRY)
        now = datetime.now(UTC)
        given_up = now - request.received_at > timedelta(
            hours=self._settings.delivery.give_up_hours
        )
        if given_up:
            self._path(request).unlink(missing_ok=True)
        else:
            later = {"due": now + wait, "attempts": request.attempts + 1}
            self._keep(request.model_copy(update=later))
        log.warning(
            "commitment.not_reported",
            peer=request.calling_ae_title,
            reason=str(error),
            given_up=given_up,
        )

    def _keep(self, request: Request) -> None:
        replace_durably(self._path(request), request.model_dump_json().encode())

    def _path(self, request: Request) -> Path:
        identity = f"{request.calling_ae_title}\n{request.transaction_uid}"
        return self._folder / f"{sha256(identity.encode()).hexdigest()[:32]}.json"

    def _peer(self, ae_title: str) -> Peer | None:
        found = (peer for peer in self._settings.peers if peer.ae_title == ae_title)
        return next(found, None)


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
