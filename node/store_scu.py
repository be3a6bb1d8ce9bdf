"""C-STORE SCU: files to a peer over one association, with what the peer answered to each."""

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from pydicom import dcmread
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import
from pynetdicom.status import code_to_category

from node.addresses import bracketed
from node.data_elements import MoreNeededError, UnusualEncodingError, walk_elements
from node.held_connection import hold_connection
from node.intake import DUPLICATE_INSTANCE
from node.part10 import HeadError, read_head
from node.settings import Peer, TLSSettings
from node.store_transfer import (
    ON_ITS_OWN,
    StoredObject,
    SubOperation,
    TransferError,
    transfer,
)
from node.transport_security import CertificateError, client_context, trouble_with

_MAXIMUM_CONTEXTS = 128  # PS3.8 Section 9.3.2.2: odd identifiers from 1 to 255
_IDENTITY = (BaseTag(0x00080016), BaseTag(0x00080018))  # SOP Class UID, SOP Instance UID
_IDENTITY_ENDS = _IDENTITY[1]
_BEGINNING = 4096  # bytes in which most files have said what they are
_CONNECTION_TIMEOUT = 10.0  # seconds
_RESPONSE_TIMEOUT = 60.0


class PeerError(Exception):
    """The peer could not be reached or does not take what was to be sent."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


class UnreachableError(PeerError):
    """There is no association with the peer, whatever was to be sent."""


@dataclass(frozen=True)
class Instance:
    """A Part 10 file, and what is in it.

    `consistent` is False where file meta and data set name different objects, as some anonymisers
    leave them: then the data set is right, and cannot be sent as the bytes it is.
    """

    path: Path
    sop_class: UID
    instance_uid: str
    transfer_syntax: UID
    consistent: bool
    offset: int | None = None
    """Where the data set begins in the file, if that is known already."""


@dataclass(frozen=True)
class Answer:
    """The peer's C-STORE response to one instance.

    A warning (Bxxx) means taken, and so does 0111: the peer has an instance of this UID, and our
    UIDs follow from content, so it is this one (PS3.7 Section 9.1.1.1.9).
    """

    instance: Instance
    status: int
    comment: str = ""

    @property
    def taken(self) -> bool:
        """Whether the peer has the instance now."""
        category = code_to_category(self.status)
        return category in ("Success", "Warning") or self.status == DUPLICATE_INSTANCE


def read_instance(path: Path) -> Instance:
    """What a file is (PS3.10 Section 7.1); ValueError if it is not Part 10."""
    return _walked(path) or _read(path)


def _walked(path: Path) -> Instance | None:
    """What a file says at its beginning; None where pydicom has to read it."""
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(_BEGINNING)
        head = read_head(start)
        syntax = UID("" if head is None else head.transfer_syntax)
        if head is None or syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            return None
        elements, _ = walk_elements(
            start, head.end, implicit=syntax.is_implicit_VR, until=_IDENTITY_ENDS + 1
        )
    except (OSError, HeadError, MoreNeededError, UnusualEncodingError):
        return None
    own = [
        (element.value or b"").rstrip(b"\0 ").decode("ascii", "replace")
        if (element := elements.get(tag))
        else ""
        for tag in _IDENTITY
    ]
    named = [head.sop_class_uid, head.instance_uid]
    if not all(named):
        return None
    sop_class, instance_uid = (one or meta for one, meta in zip(own, named, strict=True))
    return Instance(path, UID(sop_class), instance_uid, syntax, own == named, head.end)


def _read(path: Path) -> Instance:
    try:
        with path.open("rb") as file:
            header = read_partial(file, lambda tag, _vr, _length: tag > _IDENTITY_ENDS)
        meta = header.file_meta
        meta_class, meta_instance = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        sop_class = header.get("SOPClassUID") or meta_class
        instance_uid = header.get("SOPInstanceUID") or meta_instance
        consistent = (
            header.get("SOPClassUID") == meta_class
            and header.get("SOPInstanceUID") == meta_instance
        )
        return Instance(
            path, UID(sop_class), str(instance_uid), UID(meta.TransferSyntaxUID), consistent
        )
    except Exception as error:  # a parser of any file at all raises what it will
        raise ValueError(f"{path}: not a DICOM Part 10 file") from error


def send(
    instances: Sequence[Instance],
    peer: Peer,
    calling_ae_title: str,
    progress: Callable[[Answer], None] = lambda _answer: None,
    *,
    tls: TLSSettings | None = None,
) -> list[Answer]:
    """Send instances in the order given; raises PeerError where none can be sent at all.

    An instance for which the peer accepts no presentation context is answered with 0122, as the
    peer itself would (PS3.7 Section 9.1.1.1.9).
    """
    answers = []
    with associated(peer, calling_ae_title, _contexts(instances), tls=tls) as association:
        for instance in instances:
            answer = store(association, instance, peer.name)
            progress(answer)
            answers.append(answer)
    return answers


@contextmanager
def associated(
    peer: Peer,
    calling_ae_title: str,
    contexts: list[PresentationContext],
    *,
    tls: TLSSettings | None,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[evt.EventHandlerType] = (),
) -> Iterator[Association]:
    """Have an association; PeerError says why there is none and what to do.

    It is an UnreachableError where the peer would take nothing else either.
    """
    association = _associate(peer, calling_ae_title, contexts, tls, roles=roles, handlers=handlers)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _associate(
    peer: Peer,
    calling_ae_title: str,
    contexts: list[PresentationContext],
    tls: TLSSettings | None,
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    handlers: Sequence[evt.EventHandlerType],
) -> Association:
    entity = AE(ae_title=calling_ae_title)
    entity.maximum_pdu_size = 131072
    entity.connection_timeout = _CONNECTION_TIMEOUT
    entity.acse_timeout = _CONNECTION_TIMEOUT
    entity.dimse_timeout = _RESPONSE_TIMEOUT
    entity.network_timeout = None  # it is this side that is idle, while it sends a large object
    security = _security(peer, tls)
    association = entity.associate(
        peer.host,
        peer.port,
        contexts=contexts,
        ae_title=peer.ae_title,
        ext_neg=list(roles),
        tls_args=security,
        evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once), *handlers],
    )
    if association.is_established:
        hold_connection(association)
        return association
    where = f"{peer.name} ({peer.ae_title} at {bracketed(peer.host)}:{peer.port})"
    if association.is_rejected:
        raise UnreachableError(
            f"{where} rejected the association",
            f"let it know AE title {calling_ae_title}, and check that its own is {peer.ae_title}",
        )
    if association.acceptor.primitive is not None:
        raise PeerError(f"{where} accepts nothing of what is to be sent", "enable it at the peer")
    trouble = security and trouble_with((peer.host, peer.port), *security)
    if trouble:
        raise UnreachableError(f"{where}: TLS: {trouble.reason}", trouble.remedy)
    raise UnreachableError(
        f"{where} does not answer", "check host, port, firewall and that it is running"
    )


def _security(peer: Peer, tls: TLSSettings | None) -> tuple[ssl.SSLContext, str] | None:
    """Return how the connection is secured, and whose certificate the peer has to show."""
    if not peer.tls or tls is None:
        return None
    try:
        return client_context(tls), peer.tls_name or peer.host
    except CertificateError as error:
        raise UnreachableError(str(error), "mend the file that [tls] names") from None


def _send_at_once(event: evt.Event) -> None:
    """Turn Nagle's algorithm off, which has the end of each small object wait 40 ms."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def echo(peer: Peer, calling_ae_title: str, *, tls: TLSSettings | None = None) -> None:
    """C-ECHO (PS3.4 Annex A); PeerError unless it succeeds."""
    contexts = [build_context(Verification)]
    with associated(peer, calling_ae_title, contexts, tls=tls) as association:
        status = association.send_c_echo().get("Status")
    if status != 0x0000:
        raise PeerError(f"{peer.name} answered C-ECHO with {status}", "ask who runs the peer")


def accepted_contexts(
    peer: Peer,
    calling_ae_title: str,
    contexts: list[PresentationContext],
    *,
    tls: TLSSettings | None,
) -> list[PresentationContext]:
    """Those presentation contexts that the peer accepts."""
    with associated(peer, calling_ae_title, contexts, tls=tls) as association:
        return list(association.accepted_contexts)


def store(
    association: Association,
    instance: Instance,
    peer: str,
    syntax: UID | None = None,
    part_of: SubOperation = ON_ITS_OWN,
) -> Answer:
    """C-STORE one instance (PS3.7 Section 9.1.1); PeerError where the peer does not answer.

    It goes as the bytes that it is, unless `syntax` is another, in which it is encoded first.
    """
    if not association.is_established:
        raise PeerError(f"{peer} ended the association", "see the peer's log")
    syntax = syntax or instance.transfer_syntax
    context_id = _context_id(association, instance.sop_class, syntax)
    if context_id is None:
        return Answer(instance, 0x0122, "no presentation context accepted")
    with _sendable(instance, syntax) as stored:
        try:
            answer = transfer(association, context_id, stored, part_of, _RESPONSE_TIMEOUT)
        except TransferError as error:
            raise PeerError(f"{peer} {error}", error.remedy) from error
    return Answer(instance, answer.status, answer.comment)


def _context_id(association: Association, sop_class: UID, syntax: UID) -> int | None:
    """The accepted presentation context in which such an instance can be sent by this side."""
    for context in association.accepted_contexts:
        accepted = (context.abstract_syntax, context.transfer_syntax)
        if context.as_scu and accepted == (sop_class, [syntax]):
            return context.context_id
    return None


@contextmanager
def _sendable(instance: Instance, syntax: UID) -> Iterator[StoredObject]:
    """The file as it is, or one without a name in another syntax, or with the identity it lacks."""
    about = (str(instance.sop_class), instance.instance_uid)
    if instance.consistent and syntax == instance.transfer_syntax:
        offset = instance.offset or split_dataset(instance.path)[1]
        yield StoredObject(instance.path, offset, *about)
        return
    dataset = dcmread(instance.path)
    dataset.SOPClassUID, dataset.SOPInstanceUID = about
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    with TemporaryFile() as file:
        dataset.save_as(file, enforce_file_format=True)
        file.flush()
        path = Path(f"/proc/self/fd/{file.fileno()}")
        yield StoredObject(path, split_dataset(path)[1], *about)


def _contexts(instances: Iterable[Instance]) -> list[PresentationContext]:
    """A context for each SOP class and transfer syntax, so that each is accepted on its own."""
    pairs = sorted({(one.sop_class, one.transfer_syntax) for one in instances})
    return [build_context(*pair) for pair in pairs[:_MAXIMUM_CONTEXTS]]
