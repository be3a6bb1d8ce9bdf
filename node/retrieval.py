"""Sub-operations of C-MOVE and C-GET: held instances go out as the bytes that were stored.

pynetdicom's SCP counts and answers, and would have data sets to send. Here it is given references,
and what it takes for the association that it sends them on puts the files in their place.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, cast

import structlog
from pydicom import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.status import code_to_category

from node.held_connection import lending
from node.holdings import HeldInstance
from node.remedies import DAMAGED_FILE
from node.settings import Peer, Settings
from node.spool import InstanceKey
from node.store_request import MoveOriginator
from node.store_scu import Instance, PeerError, associated, store
from node.store_transfer import SubOperation

log = structlog.get_logger()

_NO_ASSOCIATION = 0xA702  # unable to perform sub-operations (PS3.4 Table C.4-2)
_NOT_READ = 0xC001
_NO_CONTEXT = 0x0122
_REMEDIES = {
    _NO_CONTEXT: "have its SOP class in the transfer syntax that it is held in accepted there",
    _NOT_READ: DAMAGED_FILE,
}
_MOST_CONTEXTS = 128  # PS3.8 Section 9.3.2.2

Associate = Callable[[Sequence[HeldInstance], ExitStack], Association]


class Retrieval:
    """Sends the instances of one request by C-STORE, and counts.

    `associate` gives the association to send on when the first of them goes out; it may raise
    PeerError, and leaves what is to be done at the end. `to` is the name of whom it leads to.
    """

    is_established = True

    def __init__(self, calling_ae_title: str, associate: Associate, to: str) -> None:
        self._calling = calling_ae_title
        self._to = to
        self._associate = associate
        self._association: Association | None = None
        self._has_begun = False
        self._at_end = ExitStack()
        self._held: dict[InstanceKey, HeldInstance] = {}
        self.sent = self.failed = 0

    def references(self, instances: Sequence[HeldInstance]) -> list[Dataset]:
        """Return what pynetdicom is to be given for instances: it reports the UIDs that failed."""
        self._held = {one.key: one for one in instances}
        return [_reference(key) for key in self._held]

    def send_c_store(
        self,
        reference: Dataset,
        msg_id: int = 1,
        originator_id: int | None = None,
        **_keywords: Any,
    ) -> Dataset:
        """Send what a reference means; return the response, or one that says why there is none."""
        held = self._held[_key(reference)]
        if not self._has_begun:
            self._begin()
        answer = Dataset()
        answer.Status = self._sent(held, msg_id, originator_id)
        if code_to_category(answer.Status) in ("Success", "Warning"):
            self.sent += 1
            return answer
        self.failed += 1
        if self._association is not None and self._association.is_established:
            log.warning(
                "retrieve.not_sent",
                instance=held.key.instance,
                status=f"{answer.Status:04X}",
                remedy=_REMEDIES.get(answer.Status, "see the log of who was to take it"),
            )
        return answer

    def break_off(self) -> None:
        """End the connection, which another thread may be waiting on."""
        transport = None if self._association is None else self._association.dul.socket
        if transport is not None and transport.socket is not None:
            with suppress(OSError):  # it may have ended already
                transport.socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Release an association that was opened for this."""
        self._at_end.close()
        self._association = None

    def _begin(self) -> None:
        self._has_begun = True
        try:
            self._association = self._associate([*self._held.values()], self._at_end)
        except PeerError as error:
            log.warning("retrieve.no_association", reason=str(error), remedy=error.remedy)

    def _sent(self, held: HeldInstance, message: int, originator: int | None) -> int:
        association = self._association
        if association is None or not association.is_established:
            return _NO_ASSOCIATION
        syntax = _agreed(held, association.accepted_contexts)
        if syntax is None:
            return _NO_CONTEXT
        try:
            by = None if originator is None else MoveOriginator(self._calling, originator)
            part_of = SubOperation(message, by)
            return store(association, _instance(held), self._to, syntax, part_of).status
        except PeerError as error:
            log.warning("retrieve.no_association", reason=str(error), remedy=error.remedy)
            return _NO_ASSOCIATION
        except Exception:  # the file may be gone, or the connection: the others may still go
            log.exception("object.unreadable", instance=held.key.instance, remedy=DAMAGED_FILE)
            return _NOT_READ


class RetrievingEntity(AE):
    """An application entity that sends a retrieval where C-MOVE would open an association."""

    def associate(
        self, *arguments: Any, retrieval: Retrieval | None = None, **keywords: Any
    ) -> Association:
        """Return the retrieval in place of an association, where there is one."""
        if retrieval is not None:
            return cast("Association", retrieval)
        return super().associate(*arguments, **keywords)


def to_peer(peer: Peer, settings: Settings) -> Associate:
    """Open an association with a peer that proposes what is to be sent as it was stored."""

    def associate(instances: Sequence[HeldInstance], at_end: ExitStack) -> Association:
        contexts = _contexts(instances)
        ours = settings.node.ae_title
        return at_end.enter_context(associated(peer, ours, contexts, tls=settings.tls))

    return associate


def back(association: Association) -> Associate:
    """Have the association on which a peer asks, where the connection can be had for objects."""

    def associate(_instances: Sequence[HeldInstance], at_end: ExitStack) -> Association:
        at_end.enter_context(lending(association))
        return association

    return associate


def _reference(key: InstanceKey) -> Dataset:
    reference = Dataset()
    reference.StudyInstanceUID, reference.SeriesInstanceUID = key.study, key.series
    reference.SOPInstanceUID = key.instance
    return reference


def _key(reference: Dataset) -> InstanceKey:
    return InstanceKey(
        reference.StudyInstanceUID, reference.SeriesInstanceUID, reference.SOPInstanceUID
    )


def _contexts(instances: Sequence[HeldInstance]) -> list[PresentationContext]:
    """A context for each SOP class and transfer syntax; native data can go in the default too."""
    pairs = {(one.sop_class_uid, one.transfer_syntax) for one in instances}
    native = {(one, ImplicitVRLittleEndian) for one, syntax in pairs if not syntax.is_compressed}
    return [build_context(*pair) for pair in sorted(pairs | native)][:_MOST_CONTEXTS]


def _agreed(held: HeldInstance, accepted: Sequence[PresentationContext]) -> UID | None:
    """The transfer syntax to send an instance in: its own, or of native data another native one.

    None where no context is for it.
    """
    syntaxes = [
        one.transfer_syntax[0]
        for one in accepted
        if one.as_scu and one.abstract_syntax == held.sop_class_uid
    ]
    if held.transfer_syntax in syntaxes:
        return held.transfer_syntax
    if held.transfer_syntax.is_compressed or not held.transfer_syntax.is_little_endian:
        return None
    # Explicit, implicit or deflated: pydicom encodes it.
    native = (one for one in syntaxes if one.is_little_endian and not one.is_compressed)
    return next(native, None)


def _instance(held: HeldInstance) -> Instance:
    sop_class, uid = UID(held.sop_class_uid), held.key.instance
    return Instance(held.path, sop_class, uid, held.transfer_syntax, consistent=True)
