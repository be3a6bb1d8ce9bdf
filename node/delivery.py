"""Results to peers: an attempt, and when the next one is; nothing is dropped in silence."""

import random
from datetime import UTC, datetime, timedelta

import structlog

from node.steps import Workbench
from node.store_scu import Answer, PeerError, read_instance, send
from node.tables import DeliveredObject, Delivery, DeliveryState, RunState

log = structlog.get_logger()

LEASE = timedelta(minutes=10)
"""How long an attempt may take before another process may try; longer than any attempt lasts."""


def attempt(bench: Workbench, delivery: Delivery) -> None:
    """Offer a run's objects to one peer and record what came of it."""
    try:
        answers = _send(bench, delivery)
    except PeerError as error:
        _postpone(bench, delivery, str(error), error.remedy, [])
        return
    taken = [_delivered(delivery, answer) for answer in answers if answer.taken]
    refused = [answer for answer in answers if not answer.taken]
    if refused:
        said = ", ".join(f"{one.instance.sop_class.name} {one.status:04X}" for one in refused)
        comment = f" ({refused[0].comment})" if refused[0].comment else ""
        _postpone(
            bench,
            delivery,
            f"{delivery.peer} refused {said}{comment}",
            "run 'overread check': it shows what the peer accepts",
            taken,
        )
        return
    bench.catalogue.record_attempt(
        delivery, taken, state=DeliveryState.DELIVERED, error="", remedy=""
    )
    log.info("results.delivered", run=delivery.run_id, peer=delivery.peer, objects=len(taken))


def settle(bench: Workbench, run_id: str) -> RunState:
    """Bring the run's state in line with its deliveries."""
    states = {delivery.state for delivery in bench.catalogue.run(run_id).deliveries}
    if DeliveryState.WAITING in states:
        bench.catalogue.update_run(run_id, state=RunState.DELIVERING)
        log.info("run.waits", run=run_id)
        return RunState.DELIVERING
    if DeliveryState.GIVEN_UP in states:
        state = RunState.UNDELIVERABLE
        bench.catalogue.update_run(run_id, state=state)
    else:
        state = RunState.DELIVERED
        bench.catalogue.reach(run_id, "delivered", state)
    log.info("run.over", run=run_id, state=state)
    return state


def redeliver_due(bench: Workbench) -> None:
    """Attempt what waits and is due again."""
    for delivery in bench.catalogue.claim_due_deliveries(datetime.now(UTC), LEASE):
        attempt(bench, delivery)
        settle(bench, delivery.run_id)


def _send(bench: Workbench, delivery: Delivery) -> list[Answer]:
    try:
        peer = bench.settings.peer(delivery.peer)
    except KeyError as error:
        raise PeerError(str(error.args[0]), "add the peer to the configuration again") from None
    instances = [read_instance(path) for path in bench.folder(delivery.run_id).object_paths()]
    return send(instances, peer, bench.settings.node.ae_title)


def _postpone(
    bench: Workbench, delivery: Delivery, reason: str, remedy: str, taken: list[DeliveredObject]
) -> None:
    limits = bench.settings.delivery
    now = datetime.now(UTC)
    given_up = now - delivery.opened_at > timedelta(hours=limits.give_up_hours)
    wait = min(
        limits.first_retry_seconds * 2.0 ** min(delivery.attempts, 30),
        limits.longest_retry_seconds,
    )
    wait *= random.uniform(0.8, 1.2)  # noqa: S311  # so that a peer that comes back is not stormed
    bench.catalogue.record_attempt(
        delivery,
        taken,
        state=DeliveryState.GIVEN_UP if given_up else DeliveryState.WAITING,
        next_attempt_at=now + timedelta(seconds=wait),
        error=reason,
        remedy=remedy,
    )
    log.warning(
        "results.not_delivered",
        run=delivery.run_id,
        peer=delivery.peer,
        reason=reason,
        remedy=remedy,
        given_up=given_up,
        retry_in_seconds=None if given_up else round(wait),
    )


def _delivered(delivery: Delivery, answer: Answer) -> DeliveredObject:
    return DeliveredObject(
        run_id=delivery.run_id,
        peer=delivery.peer,
        instance_uid=answer.instance.instance_uid,
        kind=answer.instance.sop_class.name,
        status=f"{answer.status:04X}",
    )
