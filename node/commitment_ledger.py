"""What peers were asked to commit and what they reported (PS3.4 Annex J), in the database.

The worker asks and the listener hears: neither needs to be the process that it was.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from node.catalogue import Catalogue
from node.database import insert_into
from node.outbox import Outbox, Trouble, of, pause
from node.settings import Delivery as Limits
from node.tables import CommitmentRequest, DeliveredObject, Delivery, DeliveryState

MOST_COMMITMENT_REQUESTS = 3
"""How often a peer is asked to commit one delivery before that is given up."""


@dataclass(frozen=True)
class Report:
    """What a peer's report of storage commitment changed; nothing, where `run_id` is empty."""

    is_known: bool
    run_id: str = ""
    refused: tuple[str, ...] = ()
    """Kinds of the objects that the peer does not keep."""


class CommitmentLedger:
    """The requests for storage commitment of one node."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._outbox = Outbox(catalogue, limits)

    def _session(self) -> AbstractContextManager[Session]:
        return self._catalogue.session()

    def open_request(self, delivery: Delivery, transaction_uid: str) -> None:
        """Record that the peer is about to be asked: its report may come before its answer."""
        now = datetime.now(UTC)
        row = {
            "transaction_uid": transaction_uid,
            "run_id": delivery.run_id,
            "peer": delivery.peer,
            "asked_at": now,
        }
        with self._session() as session:
            session.execute(insert_into(session.get_bind(), CommitmentRequest, [row]))
            session.execute(
                update(Delivery)
                .where(*of(Delivery, delivery))
                .values(
                    commitment_requests=Delivery.commitment_requests + 1,
                    is_claimed=False,
                    next_attempt_at=now + timedelta(hours=self._limits.commitment_hours),
                )
            )

    def postpone_request(self, delivery: Delivery, trouble: Trouble) -> timedelta | None:
        """Record that the peer was asked and will not report; returns when it is asked again."""
        with self._session() as session:
            awaited = session.execute(
                update(Delivery)
                .where(*of(Delivery, delivery), Delivery.state == DeliveryState.COMMITTING)
                .values(commitment_requests=Delivery.commitment_requests - 1)
                .returning(Delivery.run_id)
            ).all()
        return self._outbox.postpone(delivery, trouble) if awaited else None

    def report(
        self, peers: Collection[str], transaction_uid: str, failed: dict[str, int], held: set[str]
    ) -> Report:
        """Record what one of `peers` says of a transaction: SOP Instance UIDs, failure reasons."""
        now = datetime.now(UTC)
        with self._session() as session:
            request = session.scalars(
                update(CommitmentRequest)
                .where(
                    CommitmentRequest.transaction_uid == transaction_uid,
                    CommitmentRequest.peer.in_(peers),
                )
                .values(reported_at=now)
                .returning(CommitmentRequest)
            ).one_or_none()
            if request is None:
                return Report(is_known=False)
            delivery = session.get_one(
                Delivery, (request.run_id, request.peer), with_for_update=True
            )
            objects = list(
                session.scalars(select(DeliveredObject).where(*of(DeliveredObject, delivery)))
            )
            lost = [
                one for one in objects if one.instance_uid in failed or one.instance_uid not in held
            ]
            given_up = delivery.state is DeliveryState.GIVEN_UP
            is_late = given_up and delivery.accepted_at is not None and not lost
            if delivery.state is not DeliveryState.COMMITTING and not is_late:
                return Report(is_known=True)  # an earlier report, said again
            for one in objects:
                one.is_committed = one not in lost
            if lost:
                self._send_again(session, delivery, lost, failed)
            else:
                delivery.state, delivery.committed_at = DeliveryState.COMMITTED, now
                delivery.error = delivery.remedy = ""
            return Report(
                is_known=True,
                run_id=delivery.run_id,
                refused=tuple(one.kind for one in lost),
            )

    def _send_again(
        self,
        session: Session,
        delivery: Delivery,
        lost: Sequence[DeliveredObject],
        failed: dict[str, int],
    ) -> None:
        said = ", ".join(f"{one.kind} {failed.get(one.instance_uid, 0x0112):04X}" for one in lost)
        delivery.error = f"{delivery.peer} took and did not keep: {said}"
        delivery.remedy = "see the peer's log"
        delivery.accepted_at = None
        for one in lost:
            session.delete(one)
        given_up = delivery.commitment_requests >= MOST_COMMITMENT_REQUESTS
        if given_up:
            delivery.remedy += ", mend it, then run 'overread retry'"
        delivery.state = DeliveryState.GIVEN_UP if given_up else DeliveryState.WAITING
        delivery.next_attempt_at = datetime.now(UTC) + pause(
            self._limits, delivery.commitment_requests
        )
