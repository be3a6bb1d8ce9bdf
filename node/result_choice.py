"""What of a run's results one destination is sent, by what it accepts and by what it asks for."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from node.run_folder import ResultFile
from sr_writer.kinds import FALLBACKS, Kind
from sr_writer.results import class_name

Form = tuple[ResultFile, ...]
"""The objects of one kind and rank, which go together."""


@dataclass(frozen=True)
class KindOutcome:
    """What becomes of one kind that a destination asks for.

    `sent` is the kind itself, what stands in for it, or None where nothing can; `reason` says why
    that is not the best there is, and is empty where it is.
    """

    kind: Kind
    sent: Kind | None
    sop_classes: tuple[str, ...]
    reason: str

    @property
    def text(self) -> str:
        """The outcome in words."""
        if self.sent is None:
            return f"not sent: {self.reason}"
        if self.sent is not self.kind:
            return f"{in_words(self.sent)} instead: {self.reason}"
        names = ", ".join(class_name(one) for one in self.sop_classes)
        return f"{names}: {self.reason}" if self.reason else names


@dataclass(frozen=True)
class Choice:
    """The results to send, in that order, and what becomes of each kind that was asked for."""

    results: tuple[ResultFile, ...]
    outcomes: tuple[KindOutcome, ...]

    @property
    def missing(self) -> tuple[KindOutcome, ...]:
        """Kinds of which nothing can be sent, nor anything in their place."""
        return tuple(one for one in self.outcomes if one.sent is None)

    @property
    def degraded(self) -> tuple[KindOutcome, ...]:
        """Kinds that are sent in a lesser form, or replaced."""
        return tuple(one for one in self.outcomes if one.sent is not None and one.reason)


def choose(
    results: Sequence[ResultFile],
    accepted: Collection[str],
    kinds: Collection[Kind],
    languages: Collection[str],
    taken: Collection[str] = (),
) -> Choice:
    """Choose the best form of each kind that can be sent, and what stands in where there is none.

    A form can be sent where each of its SOP classes is `accepted`, and what it refers to is sent as
    well. A kind of which nothing was written has no outcome.

    Parameters
    ----------
    accepted
        SOP Class UIDs.
    kinds, languages
        What the destination asks for.
    taken
        SOP Instance UIDs of what it has. The form that they are of is the one that it gets, so that
        it never has two of one kind, unless it accepts that form no more.
    """
    offered = [one for one in results if not one.language or one.language in languages]
    forms = {kind: _forms(offered, kind) for kind in Kind}
    wanted = set(kinds)
    chosen: dict[Kind, Form] = {}
    sent: set[str] = set()
    for kind in Kind:  # what stands in comes after what it stands in for
        if kind not in wanted or not forms[kind]:
            continue
        had_first = sorted(forms[kind], key=lambda form: not _is_among(form, taken))
        form = next((form for form in had_first if _can_be_sent(form, accepted, sent)), None)
        if form is not None:
            chosen[kind] = form
            sent |= {one.instance_uid for one in form}
        elif kind in FALLBACKS:
            wanted.add(FALLBACKS[kind])
    return Choice(
        tuple(result for form in chosen.values() for result in form),
        tuple(
            _outcome(kind, forms, chosen, accepted)
            for kind in Kind
            if kind in kinds and forms[kind]
        ),
    )


def in_words(kind: Kind) -> str:
    """Return a kind as people say it."""
    return kind.replace("_", " ")


def _forms(results: Iterable[ResultFile], kind: Kind) -> list[Form]:
    """Return the forms of a kind, the best first."""
    of_kind = [one for one in results if one.kind is kind]
    ranks = sorted({one.rank for one in of_kind})
    return [tuple(one for one in of_kind if one.rank == rank) for rank in ranks]


def _is_among(form: Form, taken: Collection[str]) -> bool:
    return any(one.instance_uid in taken for one in form)


def _can_be_sent(form: Form, accepted: Collection[str], sent: Collection[str]) -> bool:
    return _is_resolved(form, sent) and all(one.sop_class in accepted for one in form)


def _is_resolved(form: Form, sent: Collection[str]) -> bool:
    return all(set(one.refers_to) <= set(sent) for one in form)


def _outcome(
    kind: Kind,
    forms: dict[Kind, list[Form]],
    chosen: dict[Kind, Form],
    accepted: Collection[str],
) -> KindOutcome:
    sent = next((one for one in (kind, FALLBACKS.get(kind)) if one in chosen), None)
    better = forms[kind]
    if sent is kind:
        better = [form for form in better if form[0].rank < chosen[kind][0].rank]
    elif sent is None and kind in FALLBACKS:
        better = better + forms[FALLBACKS[kind]]
    uids = {one.instance_uid for form in chosen.values() for one in form}
    classes = [one.sop_class for form in better if _is_resolved(form, uids) for one in form]
    lacking = [class_name(one) for one in dict.fromkeys(classes) if one not in accepted]
    reason = f"does not accept {', '.join(lacking)}" if lacking else ""
    if sent is not kind and not reason:
        reason = "refers to an object that is not sent"
    return KindOutcome(
        kind,
        sent,
        tuple(dict.fromkeys(one.sop_class for one in chosen[sent])) if sent else (),
        reason,
    )
