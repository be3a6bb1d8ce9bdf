"""Storage Commitment Push Model as SCU (PS3.4 Annex J): the worker asks peers to keep the results.

The report comes over the same association, or over one that the peer opens to the listener, another
process: `node.commitment_reports` takes it in either.
"""

from collections.abc import Sequence

import structlog
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.commitment_ledger import MOST_COMMITMENT_REQUESTS
from node.commitment_reports import ReportDesk
from node.outbox import Trouble
from node.steps import Workbench
from node.storage_commitment import REQUEST_COMMITMENT, SUCCESS, references
from node.store_scu import PeerError, UnreachableError, associated
from node.tables import Delivery

log = structlog.get_logger()

_MOST_AT_ONCE = 100
_LINGER = 2.0
"""Seconds that the association stays for reports: some peers report over this one only."""


def ask_to_commit(bench: Workbench, peer_name: str) -> list[str]:
    """Ask a peer for what it has taken and not confirmed; returns runs that may have changed."""
    claimed = bench.outbox.claim_uncommitted(peer_name, _MOST_AT_ONCE)
    due = [one for one in claimed if one.commitment_requests < MOST_COMMITMENT_REQUESTS]
    for delivery in claimed:
        if delivery not in due:
            _give_up(bench, delivery)
    if due:
        try:
            _ask_all(bench, peer_name, due)
        except UnreachableError as error:
            given_up = bench.outbox.is_away(due, Trouble(str(error), error.remedy))
            return [*(one.run_id for one in claimed), *given_up]
    return [one.run_id for one in claimed]


def _ask_all(bench: Workbench, peer_name: str, due: Sequence[Delivery]) -> None:
    """Ask over one association; UnreachableError where there is none."""
    settings = bench.settings
    desk = ReportDesk(settings, bench.catalogue)
    contexts = [build_context(StorageCommitmentPushModel)]
    left = list(due)
    try:
        peer = settings.peer(peer_name)
        with associated(
            peer,
            settings.node.ae_title,
            contexts,
            tls=settings.tls,
            handlers=[(evt.EVT_N_EVENT_REPORT, lambda event: desk.take(event, peer.ae_title))],
        ) as association:
            bench.outbox.is_back(peer_name)
            while left:
                _ask(bench, association, left[0])
                left.pop(0)
            desk.await_reports(association, len(due), _LINGER)
    except KeyError as error:
        _postpone(bench, left, str(error.args[0]), "add the peer to the configuration again")
    except UnreachableError:
        raise
    except PeerError as error:
        remedy = f"{error.remedy}, or set its 'commitment' to false"
        _postpone(bench, left, f"storage commitment: {error}", remedy)


def _ask(bench: Workbench, association: Association, delivery: Delivery) -> None:
    """N-ACTION for one delivery; PeerError where the peer does not answer."""
    objects = bench.outbox.objects(delivery)
    asked = Dataset()
    asked.TransactionUID = generate_uid(prefix=None)
    asked.ReferencedSOPSequence = references(
        [(one.sop_class_uid, one.instance_uid) for one in objects]
    )
    bench.ledger.open_request(delivery, str(asked.TransactionUID))
    if not association.is_established:
        raise PeerError(f"{delivery.peer} ended the association", "see the peer's log")
    answer, _ = association.send_n_action(
        asked,
        REQUEST_COMMITMENT,
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )
    status = answer.get("Status")
    if status != SUCCESS:
        said = "did not answer" if status is None else f"answered {status:04X} to"
        remedy = "see the peer's log, or set its 'commitment' to false"
        trouble = Trouble(f"{delivery.peer} {said} a request for storage commitment", remedy)
        _refused(bench, delivery, trouble)
        return
    log.info("commitment.requested", run=delivery.run_id, peer=delivery.peer, objects=len(objects))


def _postpone(bench: Workbench, deliveries: Sequence[Delivery], reason: str, remedy: str) -> None:
    for delivery in deliveries:
        _refused(bench, delivery, Trouble(reason, remedy))


def _refused(bench: Workbench, delivery: Delivery, trouble: Trouble) -> None:
    retry_in = bench.ledger.postpone_request(delivery, trouble)
    log.warning(
        "commitment.not_requested",
        run=delivery.run_id,
        peer=delivery.peer,
        reason=trouble.reason,
        remedy=trouble.remedy,
        given_up=retry_in is None,
        retry_in_seconds=None if retry_in is None else round(retry_in.total_seconds()),
    )


def _give_up(bench: Workbench, delivery: Delivery) -> None:
    hours = bench.settings.delivery.commitment_hours
    trouble = Trouble(
        f"{delivery.peer} took the results and did not report that it keeps them: asked "
        f"{delivery.commitment_requests} times, waited {hours:g} hours each time",
        f"have the peer know {bench.settings.node.ae_title} with address and port "
        f"{bench.settings.node.port} for its reports, then run 'overread retry'; or set its "
        "'commitment' to false",
    )
    bench.outbox.give_up(delivery, trouble)
    log.error(
        "results.not_committed",
        run=delivery.run_id,
        peer=delivery.peer,
        reason=trouble.reason,
        remedy=trouble.remedy,
        given_up=True,
    )
