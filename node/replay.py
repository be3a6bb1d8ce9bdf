"""What has not arrived, for operators, and having it tried again."""

from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, select, update

from node.catalogue import Catalogue
from node.tables import (
    UNSETTLED,
    DeliveredObject,
    Delivery,
    DeliveryState,
    Outage,
    Run,
    RunState,
)


def replay(
    catalogue: Catalogue, *, study: str | None = None, peer: str | None = None, again: bool = False
) -> int:
    """Have what waits or was given up tried at once, and return how many deliveries.

    With `again` also what was delivered is sent anew, as if the peers had none of it.
    """
    now = datetime.now(UTC)
    which: list[ColumnElement[bool]] = []
    if study is not None:
        which.append(Delivery.run_id.in_(select(Run.id).where(Run.study_uid == study)))
    if peer is not None:
        which.append(Delivery.peer == peer)
    if not again:
        which.append(Delivery.state.in_((*UNSETTLED, DeliveryState.GIVEN_UP)))
    with catalogue.session() as session:
        replayed = session.execute(
            update(Delivery)
            .where(*which)
            .values(
                state=DeliveryState.WAITING,
                tried_since=now,
                next_attempt_at=now,
                commitment_requests=0,
                error="",
                remedy="",
            )
            .returning(Delivery.run_id, Delivery.peer)
            .execution_options(synchronize_session=False)
        ).all()
        runs, peers = {row.run_id for row in replayed}, {row.peer for row in replayed}
        for run, to in replayed if again else ():
            gone = (DeliveredObject.run_id == run, DeliveredObject.peer == to)
            session.execute(delete(DeliveredObject).where(*gone))
        session.execute(delete(Outage).where(Outage.peer.in_(peers)))
        session.execute(update(Run).where(Run.id.in_(runs)).values(state=RunState.DELIVERING))
        return len(replayed)


def unsettled(catalogue: Catalogue, peer: str | None = None) -> list[tuple[Delivery, str]]:
    """What waits and what was given up, the oldest first, each with its Study Instance UID."""
    states = (*UNSETTLED, DeliveryState.GIVEN_UP)
    query = (
        select(Delivery, Run.study_uid)
        .join(Run, Run.id == Delivery.run_id)
        .where(Delivery.state.in_(states))
        .order_by(Delivery.peer, Delivery.opened_at, Delivery.run_id)
    )
    if peer is not None:
        query = query.where(Delivery.peer == peer)
    with catalogue.session() as session:
        return [(delivery, study) for delivery, study in session.execute(query)]


def outages(catalogue: Catalogue) -> list[Outage]:
    """Peers that are away, the longest first."""
    with catalogue.session() as session:
        return list(session.scalars(select(Outage).order_by(Outage.since)))
