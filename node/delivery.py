"""Results to peers: what an attempt does; nothing is dropped in silence."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile

import structlog
from pydicom.uid import UID

from node.commitment_requests import ask_to_commit
from node.negotiation import agreed_syntaxes, proposed_contexts
from node.outbox import Outbox, Trouble
from node.result_choice import Choice, choose, in_words
from node.run_folder import ResultFile
from node.settings import Peer
from node.steps import Workbench
from node.store_scu import (
    Answer,
    Instance,
    PeerError,
    UnreachableError,
    associated,
    read_instance,
    store,
)
from node.tables import DeliveredObject, Delivery, RunState
from sr_writer.encoding import UTF_8, EncodingError, encoded
from sr_writer.kinds import with_fallbacks
from sr_writer.results import class_name

log = structlog.get_logger()

NOT_SUPPORTED = 0x0122
"""SOP class not supported (PS3.7 Annex C.5.10): not accepted after all, so another form goes."""

CHARACTER_SETS = {"utf-8": "ISO_IR 192", "gb18030": "GB18030"}
"""Defined terms of `Peer.charset` (PS3.3 C.12.1.1.2)."""


@dataclass(frozen=True)
class _Offer:
    """What came of offering objects to a peer: what it was to get, and what it did not take."""

    choice: Choice
    refused: Sequence[Answer]


def deliver_due(bench: Workbench, peer: str) -> None:
    """Attempt what is due for a peer, the oldest first, until nothing is, or it is away."""
    while not bench.stopping.is_set():
        delivery = bench.outbox.claim_next(peer)
        if delivery is None:
            break
        attempt(bench, delivery)
        settle(bench.outbox, delivery.run_id)
    for run_id in ask_to_commit(bench, peer):
        settle(bench.outbox, run_id)


def attempt(bench: Workbench, delivery: Delivery) -> None:
    """Offer a run's objects to one peer and record what came of it."""
    taken: list[DeliveredObject] = []
    try:
        peer = _configured(bench, delivery.peer)
        offer = _offer(
            bench, delivery, peer, lambda answer: taken.append(_delivered(delivery, answer))
        )
    except UnreachableError as error:
        _wait_for_peer(bench.outbox, delivery, error)
        return
    except PeerError as error:
        bench.outbox.is_back(delivery.peer)
        _postpone(bench.outbox, delivery, Trouble(str(error), error.remedy), taken)
        return
    bench.outbox.is_back(delivery.peer)
    note = "; ".join(f"{in_words(one.kind)}: {one.text}" for one in offer.choice.degraded)
    missing = _trouble(delivery, offer)
    if missing is not None:
        _postpone(bench.outbox, delivery, missing, taken, note=note)
        return
    commits = peer.commitment and bool(offer.choice.results)
    bench.outbox.accept(delivery, taken, note=note, commits=commits)
    log.info(
        "results.delivered",
        run=delivery.run_id,
        peer=delivery.peer,
        objects=len(offer.choice.results),
        warnings=[f"{one.kind} {one.status}" for one in taken if one.status != "0000"],
        degraded=note,
    )


def settle(outbox: Outbox, run_id: str) -> RunState:
    """Bring the run's state in line with its deliveries."""
    state = outbox.settle(run_id)
    if state is RunState.DELIVERING:
        log.info("run.waits", run=run_id)
    else:
        log.info("run.over", run=run_id, state=state)
    return state


def settle_forgotten(bench: Workbench) -> None:
    """Settle what a process that died in between has not."""
    for run_id in bench.outbox.unsettled_runs():
        settle(bench.outbox, run_id)


def _offer(
    bench: Workbench, delivery: Delivery, peer: Peer, taken: Callable[[Answer], None]
) -> _Offer:
    """Send what the peer takes and does not have yet; `taken` is told of each as it is taken."""
    folder = bench.folder(delivery.run_id)
    kinds = with_fallbacks(peer.objects)
    results = [one for one in folder.results() if one.kind in kinds]
    has = {one.instance_uid for one in bench.outbox.objects(delivery)}
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
                    answer = store(association, instance, peer.name)
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
    try:
        instance = read_instance(path)
    except ValueError as error:
        raise PeerError(str(error), "restore it from the backup, or see to the disk") from None
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
        path = Path(f"/proc/self/fd/{file.fileno()}")
        yield replace(instance, path=path, transfer_syntax=syntax, offset=None)


def _trouble(delivery: Delivery, offer: _Offer) -> Trouble | None:
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
    return Trouble("; ".join(reasons), "; ".join(remedies)) if reasons else None


def _configured(bench: Workbench, name: str) -> Peer:
    try:
        return bench.settings.peer(name)
    except KeyError as error:
        raise PeerError(str(error.args[0]), "add the peer to the configuration again") from None


def _wait_for_peer(outbox: Outbox, delivery: Delivery, error: UnreachableError) -> None:
    """Let all that waits for the peer wait on, with what was given up after all this time."""
    trouble = Trouble(str(error), error.remedy)
    for run_id in outbox.is_away([delivery], trouble):
        _report_failure(run_id, delivery.peer, trouble, None)
        if run_id != delivery.run_id:
            settle(outbox, run_id)


def _postpone(
    outbox: Outbox,
    delivery: Delivery,
    trouble: Trouble,
    taken: Sequence[DeliveredObject],
    *,
    note: str = "",
) -> None:
    retry_in = outbox.postpone(delivery, trouble, taken, note=note)
    _report_failure(delivery.run_id, delivery.peer, trouble, retry_in)


def _report_failure(run_id: str, peer: str, trouble: Trouble, retry_in: timedelta | None) -> None:
    say = log.error if retry_in is None else log.warning
    say(
        "results.not_delivered",
        run=run_id,
        peer=peer,
        reason=trouble.reason,
        remedy=trouble.remedy,
        given_up=retry_in is None,
        retry_in_seconds=None if retry_in is None else round(retry_in.total_seconds()),
    )


def _delivered(delivery: Delivery, answer: Answer) -> DeliveredObject:
    return DeliveredObject(
        run_id=delivery.run_id,
        peer=delivery.peer,
        instance_uid=answer.instance.instance_uid,
        sop_class_uid=str(answer.instance.sop_class),
        kind=class_name(answer.instance.sop_class),
        status=f"{answer.status:04X}",
    )
