"""What is proposed to a destination for results, and which of what it accepts is used."""

from collections.abc import Iterable

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext

from sr_writer.encoding import transfer_syntaxes


def proposed_contexts(
    sop_classes: Iterable[str], *, deflated: bool = True
) -> list[PresentationContext]:
    """A context for each SOP class and transfer syntax, so that each is accepted on its own."""
    return [
        build_context(sop_class, syntax)
        for sop_class in dict.fromkeys(sop_classes)
        for syntax in transfer_syntaxes(UID(sop_class))
        if deflated or not syntax.is_deflated
    ]


def agreed_syntaxes(accepted: Iterable[PresentationContext]) -> dict[str, UID]:
    """The best transfer syntax for each SOP class of the accepted contexts."""
    agreed: dict[str, list[UID]] = {}
    for context in accepted:
        agreed.setdefault(str(context.abstract_syntax), []).append(context.transfer_syntax[0])
    return {
        sop_class: min(found, key=transfer_syntaxes(UID(sop_class)).index)
        for sop_class, found in agreed.items()
    }
