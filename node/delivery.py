"""Results to peers: an attempt, and when the next one is; nothing is dropped in silence."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

import structlog
from pydicom.uid import UID

from node.negotiation import agreed_syntaxes, proposed_contexts
from node.result_choice import Choice, choose, in_words
from node.run_folder import ResultFile
from node.settings import Peer
from node.steps import Workbench
from node.store_scu import Answer, Instance, PeerError, associated, read_instance, store
from node.tables import DeliveredObject, Delivery, DeliveryState, RunState
from sr_writer.encoding import EncodingError, encoded
from sr_writer.header import UTF_8
from sr_writer.results import class_name, with_fallbacks

log = structlog.get_logger()

LEASE = timedelta(minutes=10)
"""How long an attempt may take before another process may try; longer than any attempt lasts."""

NOT_SUPPORTED = 0x0122
"""SOP class not supported (PS3.7 Annex C.5.10): not accepted after all, so another form goes."""

CHARACTER_SETS = {"utf-8": "ISO_IR 192", "gb18030": "GB18030"}
"""Defined terms of `Peer.charset` (PS3.3 C.12.1.1.2)."""


@dataclass(frozen=True)
class _Offer:
    """What came of offering objects to a peer: what it was to get, and what it did not take."""

    choice: Choice
    refused: Sequence[Answer]


def attempt(bench: Workbench, delivery: Delivery) -> None:
    """Offer a run's objects to one peer and record what came of it."""
    taken: list[DeliveredObject] = []
    try:
        offer = _offer(bench, delivery, lambda answer: taken.append(_delivered(delivery, answer)))
    except PeerError as error:
        _postpone(bench, delivery, (str(error), error.remedy), taken)
        return
    note = "; ".join(f"{in_words(one.kind)}: {one.text}" for one in offer.choice.degraded)
    trouble = _trouble(delivery, offer)
    if trouble is not None:
        _postpone(bench, delivery, trouble, taken, note=note)
        return
    bench.catalogue.record_attempt(
        delivery, taken, state=DeliveryState.DELIVERED, error="", remedy="", note=note
    )
    log.info(
        "results.delivered",
        run=delivery.run_id,
        peer=delivery.peer,
        objects=len(offer.choice.results),
        degraded=note,
    )


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


def _offer(bench: Workbench, delivery: Delivery, taken: Callable[[Answer], None]) -> _Offer:
    """Send what the peer takes and does not have yet; `taken` is told of each as it is taken."""
    try:
        peer = bench.settings.peer(delivery.peer)
    except KeyError as error:
        raise PeerError(str(error.args[0]), "add the peer to the configuration again") from None
    folder = bench.folder(delivery.run_id)
    kinds = with_fallbacks(peer.objects)
    results = [one for one in folder.results() if one.kind in kinds]
    has = bench.catalogue.taken_objects(delivery)
    contexts = proposed_contexts((one.sop_class for one in results), deflated=peer.deflated)
    if not contexts:
        return _Offer(choose([], (), peer.objects, peer.languages), [])
    tls = bench.settings.tls
    with associated(peer, bench.settings.node.ae_title, contexts, tls=tls) as association:
        agreed = agreed_syntaxes(association.accepted_contexts)
        while True:
            choice = choose(results, agreed, peer.objects, peer.languages, has)
            refused = []
            for result in choice.results:
                if result.instance_uid in has or not has.issuperset(result.refers_to):
                    continue
                syntax = agreed[result.sop_class]
                with _as_agreed(folder.path / result.name, result, syntax, peer) as instance:
                    answer = store(association, instance, peer)
                if answer.taken:
                    taken(answer)
                    has.add(result.instance_uid)
                else:
                    refused.append(answer)
            unsupported = {one.instance.sop_class for one in refused if one.status == NOT_SUPPORTED}
            if not unsupported:
                return _Offer(choice, refused)
            agreed = {one: syntax for one, syntax in agreed.items() if one not in unsupported}


@contextmanager
def _as_agreed(path: Path, result: ResultFile, syntax: UID, peer: Peer) -> Iterator[Instance]:
    """The object as the peer takes it: the file as it is, or another without a name.

    A file without a name is gone when the process is, however it ends.
    """
    instance = read_instance(path)
    charset = CHARACTER_SETS[peer.charset]
    if syntax == instance.transfer_syntax and charset == UTF_8:
        yield instance
        return
    try:
        content = encoded(path, syntax, charset)
    except EncodingError as error:
        raise PeerError(
            f"{in_words(result.kind)} cannot be sent to {peer.name} in {charset}: {error}",
            f"set charset to 'utf-8' for peer {peer.name}, or report a defect of Overread",
        ) from None
    with TemporaryFile(dir=path.parent) as file:
        file.write(content)
        file.flush()
        yield replace(instance, path=Path(f"/proc/self/fd/{file.fileno()}"), transfer_syntax=syntax)


def _trouble(delivery: Delivery, offer: _Offer) -> tuple[str, str] | None:
    """Reason and remedy where the peer did not get all that it should."""
    reasons, remedies = [], []
    if offer.refused:
        said = ", ".join(
            f"{class_name(one.instance.sop_class)} {one.status:04X}" for one in offer.refused
        )
        comment = f" ({offer.refused[0].comment})" if offer.refused[0].comment else ""
        reasons.append(f"{delivery.peer} refused {said}{comment}")
        remedies.append("run 'overread check': it shows what the peer accepts")
    reasons += [f"{delivery.peer}: {in_words(one.kind)} {one.text}" for one in offer.choice.missing]
    if offer.choice.missing:
        kinds = ", ".join(f"'{one.kind}'" for one in offer.choice.missing)
        remedies.append(f"enable it at {delivery.peer}, or take {kinds} out of its 'objects'")
    return ("; ".join(reasons), "; ".join(remedies)) if reasons else None


def _postpone(
    bench: Workbench,
    delivery: Delivery,
    trouble: tuple[str, str],
    taken: Sequence[DeliveredObject],
    *,
    note: str = "",
) -> None:
    reason, remedy = trouble
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
        note=note,
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
        kind=class_name(answer.instance.sop_class),
        status=f"{answer.status:04X}",
    )
