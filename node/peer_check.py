"""The checks of `overread check` that ask a peer: is it there, and what would it get."""

import socket
from collections.abc import Collection, Iterator, Mapping

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
)

from node.check_result import Outcome, Result
from node.negotiation import agreed_syntaxes, proposed_contexts
from node.result_choice import KindOutcome, choose, in_words
from node.run_folder import ResultFile
from node.settings import Peer, Settings
from node.store_scu import PeerError, accepted_contexts, echo
from sr_writer.kinds import Kind, SegmentationForm, with_fallbacks
from sr_writer.results import LABEL_MAP_SEGMENTATION_STORAGE, SOP_CLASSES


def check_peer(peer: Peer, settings: Settings) -> Iterator[Result]:
    """Say whether a peer can be reached, and what of the results it would be sent."""
    subject = f"peer {peer.name}"
    if peer.query and not peer.addresses and not (peer.tls and peer.tls_name):
        yield Result(
            f"{subject}, queries",
            Outcome.WARNING,
            f"whoever calls as {peer.ae_title}, from anywhere, reads what the node holds",
            "give it 'addresses', or 'tls' with 'tls_name'",
        )
    if not _host_resolves(peer.host):
        yield Result(
            subject,
            Outcome.FAILED,
            f"host {peer.host} is not known to this machine",
            "correct peers.host, or the name service",
        )
        return
    try:
        echo(peer, settings.node.ae_title, tls=settings.tls)
    except PeerError as error:
        yield Result(subject, Outcome.FAILED, f"C-ECHO: {error}", error.remedy)
        return
    yield Result(subject, Outcome.OK, f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO")
    forms = {route.segmentation for route in settings.routes if peer.name in route.results_to}
    if forms:
        yield from _acceptance(peer, settings, forms)
    if peer.commitment:
        yield _commitment(peer, settings)


def _host_resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _acceptance(
    peer: Peer, settings: Settings, forms: Collection[SegmentationForm]
) -> Iterator[Result]:
    """What the peer would be sent of each kind that it is configured for."""
    results = list(_expected(peer, forms))
    contexts = proposed_contexts((one.sop_class for one in results), deflated=peer.deflated)
    try:
        accepted = accepted_contexts(peer, settings.node.ae_title, contexts, tls=settings.tls)
    except PeerError as error:
        yield Result(f"peer {peer.name}, results", Outcome.FAILED, str(error), error.remedy)
        return
    agreed = agreed_syntaxes(accepted)
    for outcome in choose(results, agreed, peer.objects, peer.languages).outcomes:
        yield _kind_result(peer, outcome, agreed)


def _commitment(peer: Peer, settings: Settings) -> Result:
    subject = f"peer {peer.name}, storage commitment"
    node, contexts = settings.node, [build_context(StorageCommitmentPushModel)]
    try:
        accepted_contexts(peer, node.ae_title, contexts, tls=settings.tls)
    except PeerError as error:
        remedy = "enable it at the peer, or set its 'commitment' to false"
        return Result(subject, Outcome.FAILED, str(error), remedy)
    text = f"can be asked; it reports to {node.ae_title} at this machine, port {node.port}"
    return Result(subject, Outcome.OK, text)


def _expected(peer: Peer, forms: Collection[SegmentationForm]) -> Iterator[ResultFile]:
    """What may be written for a peer; the SEG of label maps is BINARY where segments overlap."""
    for kind in with_fallbacks(peer.objects):
        for rank, sop_class in enumerate(SOP_CLASSES[kind]):
            if (
                sop_class == LABEL_MAP_SEGMENTATION_STORAGE
                and SegmentationForm.LABELMAP not in forms
            ):
                continue
            yield ResultFile(
                name="",
                kind=kind,
                rank=0 if kind is Kind.SEGMENTATION else rank,
                language="",
                sop_class=sop_class,
                instance_uid=sop_class,
                refers_to=(),
            )


def _kind_result(peer: Peer, outcome: KindOutcome, agreed: Mapping[str, UID]) -> Result:
    subject = f"peer {peer.name}, {in_words(outcome.kind)}"
    if outcome.sent is None:
        remedy = f"enable it at the peer, or take '{outcome.kind}' out of its 'objects'"
        return Result(subject, Outcome.FAILED, outcome.text, remedy)
    syntaxes = dict.fromkeys(agreed[sop_class] for sop_class in outcome.sop_classes)
    names = ["deflated" if one == DeflatedExplicitVRLittleEndian else one.name for one in syntaxes]
    text = f"{outcome.text} ({', '.join(names)})"
    if outcome.reason:
        return Result(subject, Outcome.WARNING, text, "enable it at the peer to have the best form")
    return Result(subject, Outcome.OK, text)
