"""The outbox in the database: what waits for which peer, in which order, and what came of it.

A delivery is claimed before it is attempted, the oldest first. A peer that cannot be reached is
away: until its next round nothing is claimed for it, and one delivery finds out for all.
"""

import random
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, case, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from node.catalogue import Catalogue
from node.database import insert_into
from node.settings import Delivery as Limits
from node.tables import (
    UNSETTLED,
    DeliveredObject,
    Delivery,
    DeliveryState,
    Milestone,
    Outage,
    Run,
    RunState,
)

log = structlog.get_logger()

LEASE = timedelta(minutes=10)
"""How long an attempt may take before another process may try; longer than any attempt lasts."""


@dataclass(frozen=True)
class Trouble:
    """Why a peer does not have what it should, and what an operator can do."""

    reason: str
    remedy: str


class Outbox:
    """The deliveries of one node."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self._catalogue = catalogue
        self._limits = limits

    def _session(self) -> AbstractContextManager[Session]:
        return self._catalogue.session()

    # On their way

    def open(self, run_id: str, peers: Iterable[str]) -> None:
        """Put a run's objects into the outbox; they are due when they are released."""
        now = datetime.now(UTC)
        rows = [
            {
                "run_id": run_id,
                "peer": peer,
                "state": DeliveryState.WAITING,
                "attempts": 0,
                "opened_at": now,
                "tried_since": now,
                "next_attempt_at": now + LEASE,
                "is_claimed": False,
                "commitment_requests": 0,
                "error": "",
                "remedy": "",
                "note": "",
            }
            for peer in peers
        ]
        with self._session() as session:
            insert = insert_into(session.get_bind(), Delivery, rows)
            session.execute(insert.on_conflict_do_nothing())

    def release(self, run_id: str) -> None:
        """Make what was opened and never attempted due."""
        fresh = (Delivery.run_id == run_id, Delivery.attempts == 0)
        with self._session() as session:
            session.execute(
                update(Delivery)
                .where(*fresh, Delivery.state == DeliveryState.WAITING)
                .values(next_attempt_at=datetime.now(UTC))
            )

    def resume(self) -> None:
        """Make due what the worker before this one had claimed when it ended."""
        with self._session() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.is_claimed)
                .values(next_attempt_at=datetime.now(UTC), is_claimed=False)
            )

    def peers_due(self) -> list[str]:
        """Names of peers for which something is due, and that are not away."""
        with self._session() as session:
            due = _due(datetime.now(UTC), UNSETTLED)
            return list(session.scalars(select(Delivery.peer).where(*due).distinct()))

    def claim_next(self, peer: str) -> Delivery | None:
        """The oldest of what waits for a peer and is due, so that no other process takes it too.

        A claim that is not followed by a result, because the process died, is due again when the
        next worker starts, at the latest when its lease is over.
        """
        claimed = self._claim(peer, DeliveryState.WAITING, 1)
        return claimed[0] if claimed else None

    def claim_uncommitted(self, peer: str, most: int) -> list[Delivery]:
        """Claim what the peer has taken and is to be asked to commit, now or once more."""
        return self._claim(peer, DeliveryState.COMMITTING, most)

    def _claim(self, peer: str, state: DeliveryState, most: int) -> list[Delivery]:
        now = datetime.now(UTC)
        due = (*_due(now, (state,)), Delivery.peer == peer)
        order = (Delivery.opened_at, Delivery.run_id)
        with self._session() as session:
            runs = list(session.scalars(select(Delivery.run_id).where(*due).order_by(*order)))[
                :most
            ]
            if not runs:
                return []
            claimed = session.scalars(
                update(Delivery)
                .where(*due, Delivery.run_id.in_(runs))
                .values(next_attempt_at=now + LEASE, is_claimed=True, attempted_at=now)
                .returning(Delivery)
            )
            return sorted(claimed, key=lambda one: (one.opened_at, one.run_id))

    def objects(self, delivery: Delivery) -> list[DeliveredObject]:
        """What the peer has taken in earlier attempts."""
        with self._session() as session:
            query = select(DeliveredObject).where(*of(DeliveredObject, delivery))
            return list(session.scalars(query))

    # What came of it

    def record(
        self, delivery: Delivery, objects: Sequence[DeliveredObject], **values: object
    ) -> None:
        """Record what came of an attempt: columns of the delivery, and the objects taken."""
        with self._session() as session:
            session.execute(
                update(Delivery)
                .where(*of(Delivery, delivery))
                .values(attempts=Delivery.attempts + 1, is_claimed=False, **values)
            )
            for taken in objects:
                session.merge(taken)

    def accept(
        self, delivery: Delivery, objects: Sequence[DeliveredObject], *, note: str, commits: bool
    ) -> None:
        """Record that the peer has everything; where it `commits`, it is to be asked to."""
        now = datetime.now(UTC)
        state = DeliveryState.COMMITTING if commits else DeliveryState.DELIVERED
        said = {"error": "", "remedy": "", "note": note}
        self.record(delivery, objects, state=state, accepted_at=now, next_attempt_at=now, **said)

    def postpone(
        self,
        delivery: Delivery,
        trouble: Trouble,
        objects: Sequence[DeliveredObject] = (),
        *,
        note: str = "",
    ) -> timedelta | None:
        """Record what an attempt failed for; returns when the next is due, None if none is."""
        now = datetime.now(UTC)
        given_up = now - delivery.tried_since > patience(self._limits)
        wait = pause(self._limits, delivery.attempts)
        self.record(
            delivery,
            objects,
            state=DeliveryState.GIVEN_UP if given_up else delivery.state,
            next_attempt_at=now + wait,
            error=trouble.reason,
            remedy=trouble.remedy,
            note=note or delivery.note,
        )
        return None if given_up else wait

    def give_up(self, delivery: Delivery, trouble: Trouble) -> None:
        """Make a dead letter of it."""
        self.record(
            delivery,
            [],
            state=DeliveryState.GIVEN_UP,
            error=trouble.reason,
            remedy=trouble.remedy,
        )

    def is_away(self, tried: Sequence[Delivery], trouble: Trouble) -> list[str]:
        """Record that the peer of `tried` could not be reached: all that waits for it waits on.

        Returns the identities of runs whose deliveries have waited too long and are given up.
        """
        now, peer = datetime.now(UTC), tried[0].peer
        said = {"error": trouble.reason, "remedy": trouble.remedy}
        waits = (Delivery.peer == peer, Delivery.state.in_(UNSETTLED))
        was_tried = Delivery.run_id.in_([one.run_id for one in tried])
        with self._session() as session:
            rounds = session.scalar(select(Outage.attempts).where(Outage.peer == peer)) or 0
            wait = pause(self._limits, rounds)
            until = now + wait
            row = {"peer": peer, "since": now, "attempts": 1, "next_attempt_at": until, **said}
            changes = {"attempts": rounds + 1, "next_attempt_at": until, **said}
            insert = insert_into(session.get_bind(), Outage, [row])
            session.execute(insert.on_conflict_do_update(index_elements=["peer"], set_=changes))
            given_up = list(
                session.scalars(
                    update(Delivery)
                    .where(*waits, Delivery.tried_since < now - patience(self._limits))
                    .values(state=DeliveryState.GIVEN_UP, **said)
                    .returning(Delivery.run_id)
                    .execution_options(synchronize_session=False)
                )
            )
            waiting = session.execute(
                update(Delivery)
                .where(*waits, or_(was_tried, Delivery.next_attempt_at < until))
                .values(
                    next_attempt_at=until,
                    attempts=Delivery.attempts + case((was_tried, 1), else_=0),
                    is_claimed=False,
                    **said,
                )
                .returning(Delivery.run_id)
                .execution_options(synchronize_session=False)
            )
            count = len(waiting.all())
        seconds = round(wait.total_seconds())
        log.warning(
            "peer.away",
            peer=peer,
            waiting=count,
            retry_in_seconds=seconds,
            reason=trouble.reason,
            remedy=trouble.remedy,
        )
        return given_up

    def is_back(self, peer: str) -> None:
        """Record that a peer could be reached."""
        with self._session() as session:
            if session.get(Outage, peer) is None:  # so that there is mostly nothing to write
                return
            session.execute(delete(Outage).where(Outage.peer == peer))
        log.info("peer.back", peer=peer)

    def unsettled_runs(self) -> list[str]:
        """Runs whose deliveries are over, and that were not told, because a process died."""
        under_way = exists().where(Delivery.run_id == Run.id, Delivery.state.in_(UNSETTLED))
        with self._session() as session:
            over = (Run.state == RunState.DELIVERING, ~under_way)
            return list(session.scalars(select(Run.id).where(*over)))

    def settle(self, run_id: str) -> RunState:
        """Bring the run's state in line with its deliveries, and return it."""
        with self._session() as session:
            # Locks the run, so that of two the later sees what the earlier has settled.
            session.execute(update(Run).where(Run.id == run_id).values(state=Run.state))
            found = set(
                session.scalars(select(Delivery.state).where(Delivery.run_id == run_id).distinct())
            )
            state = _run_state(found)
            session.execute(update(Run).where(Run.id == run_id).values(state=state))
            now = datetime.now(UTC)
            rows = [{"run_id": run_id, "name": name, "at": now} for name in _milestones(found)]
            if rows:
                insert = insert_into(session.get_bind(), Milestone, rows)
                session.execute(insert.on_conflict_do_nothing())
            return state


def patience(limits: Limits) -> timedelta:
    """How long a delivery is tried."""
    return timedelta(hours=limits.give_up_hours)


def pause(limits: Limits, attempts: int) -> timedelta:
    """How long to wait after so many attempts and one more."""
    wait = min(limits.first_retry_seconds * 2.0 ** min(attempts, 30), limits.longest_retry_seconds)
    # Varied, so that a peer that comes back is not stormed.
    return timedelta(seconds=wait * random.uniform(0.8, 1.2))  # noqa: S311


def _due(now: datetime, states: Iterable[DeliveryState]) -> tuple[ColumnElement[bool], ...]:
    away = exists().where(Outage.peer == Delivery.peer, Outage.next_attempt_at > now)
    return (Delivery.state.in_(list(states)), Delivery.next_attempt_at <= now, ~away)


def of(
    table: type[Delivery] | type[DeliveredObject], delivery: Delivery
) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that choose the rows of a delivery."""
    return (table.run_id == delivery.run_id, table.peer == delivery.peer)


def _run_state(found: set[DeliveryState]) -> RunState:
    if found & set(UNSETTLED):
        return RunState.DELIVERING
    return RunState.UNDELIVERABLE if DeliveryState.GIVEN_UP in found else RunState.DELIVERED


def _milestones(found: set[DeliveryState]) -> list[str]:
    """What the run has reached when its deliveries are in these states."""
    names = []
    if not found & {DeliveryState.WAITING, DeliveryState.GIVEN_UP}:
        names.append("delivered")
        if DeliveryState.COMMITTED in found and DeliveryState.COMMITTING not in found:
            names.append("committed")
    return names
