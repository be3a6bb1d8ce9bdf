"""What peers report of the results that they were asked to commit (PS3.4 Annex J, N-EVENT-REPORT).

A report comes to the worker, which asked, or to the listener: what was asked is in the database.
"""

import threading
import time

import structlog
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from sqlalchemy.exc import SQLAlchemyError

from node.catalogue import Catalogue
from node.commitment_ledger import CommitmentLedger
from node.outbox import Outbox
from node.remedies import CHECK_DATABASE, SEE_ITS_LOG
from node.settings import Settings
from node.storage_commitment import (
    ALL_COMMITTED,
    INVALID_ARGUMENT,
    MOST_REFERENCES,
    NO_SUCH_INSTANCE,
    NOT_AUTHORIZED,
    PROCESSING_FAILURE,
    SOME_FAILED,
    SUCCESS,
)
from node.tables import RunState

log = structlog.get_logger()

NO_SUCH_EVENT_TYPE = 0x0113  # PS3.7 Section 10.1.1.1.8


class ReportDesk:
    """Takes reports of what this node asked for, from those that it asked."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._outbox = Outbox(catalogue, settings.delivery)
        self._ledger = CommitmentLedger(catalogue, settings.delivery)
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, event: evt.Event, reporter: str) -> tuple[int, None]:
        """Answer one N-EVENT-REPORT of the AE `reporter`: Success once it is recorded."""
        if event.event_type not in (ALL_COMMITTED, SOME_FAILED):
            return NO_SUCH_EVENT_TYPE, None
        try:
            transaction, held, failed = _report_of(event.event_information)
        except (ValueError, AttributeError, TypeError):
            reason = "it cannot be understood"
            log.warning("report.refused", calling=reporter, reason=reason, remedy=SEE_ITS_LOG)
            return INVALID_ARGUMENT, None
        try:
            return self._record(reporter, transaction, held, failed), None
        except SQLAlchemyError:
            reason = "the database does not answer"
            log.exception("report.refused", calling=reporter, reason=reason, remedy=CHECK_DATABASE)
            return PROCESSING_FAILURE, None

    def _record(
        self, reporter: str, transaction: str, held: set[str], failed: dict[str, int]
    ) -> int:
        peers = [peer.name for peer in self._settings.peers if peer.ae_title == reporter]
        report = self._ledger.report(peers, transaction, failed, held)
        if not report.is_known:
            reason = "this node did not ask it for that transaction"
            remedy = "have it report under the AE title that is configured for it, and once"
            log.warning("report.refused", calling=reporter, reason=reason, remedy=remedy)
            return NOT_AUTHORIZED
        if report.run_id:
            state = self._outbox.settle(report.run_id)
            if report.refused:
                log.warning(
                    "results.not_committed",
                    run=report.run_id,
                    peer=reporter,
                    reason=f"not kept: {', '.join(report.refused)}",
                    remedy="see the peer's log",
                    given_up=state is RunState.UNDELIVERABLE,
                )
            else:
                log.info("results.committed", run=report.run_id, peer=reporter)
        with self._changed:
            self._taken += 1
            self._changed.notify_all()
        return SUCCESS

    def await_reports(self, association: Association, count: int, seconds: float) -> None:
        """Return when so many reports came, the association ended, or the time is up."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._taken < count and association.is_established and time.monotonic() < until:
                self._changed.wait(0.05)


def _report_of(report: Dataset) -> tuple[str, set[str], dict[str, int]]:
    """Transaction, what is kept, and what is not, with reasons (PS3.4 Table J.3-2)."""
    kept = report.get("ReferencedSOPSequence") or []
    lost = report.get("FailedSOPSequence") or []
    if len(kept) + len(lost) > MOST_REFERENCES:
        raise ValueError("it refers to too many instances")
    held = {str(item.ReferencedSOPInstanceUID) for item in kept}
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or NO_SUCH_INSTANCE)
        for item in lost
    }
    return str(report.TransactionUID), held, failed
