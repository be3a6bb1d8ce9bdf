"""Where each study stands, in words: for the status page, `overread status` and the demo."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from node.tables import UNSETTLED, Delivery, Run, RunState, Study

MILESTONES = (
    "first received",
    "received",
    "complete",
    "assembled",
    "assessed",
    "written",
    "checked",
    "delivered",
    "committed",
)
RECEIVING = "receiving"
NO_ROUTE = "no route"
NO_ROUTE_REMEDY = "if it should have one: add a route, restart, then run 'overread retry STUDY'"

# A study with several routes stands where its worst or slowest run stands.
_WORST_FIRST = (
    RunState.FAILED,
    RunState.UNDELIVERABLE,
    RunState.RUNNING,
    RunState.QUEUED,
    RunState.DELIVERING,
    RunState.DELIVERED,
)
_MEANINGS = {  # PS3.4 Table B.2-1, PS3.7 Annex C
    "0000": "success",
    "0111": "it had this object already",
    "B000": "taken with a warning: it changed elements (coercion)",
    "B006": "taken with a warning: it left elements out",
    "B007": "taken with a warning: the data set does not match its SOP class",
}
_STYLES = {
    RunState.FAILED: "bold red",
    RunState.UNDELIVERABLE: "bold red",
    RunState.DELIVERED: "green",
    NO_ROUTE: "dim",
}


@dataclass(frozen=True)
class MilestoneRow:
    """One step of a run's way; `milliseconds` since the milestone before it."""

    name: str
    at: datetime
    milliseconds: float


@dataclass(frozen=True)
class ObjectRow:
    """One object that a peer took, the C-STORE status it answered, and whether it confirmed."""

    kind: str
    instance_uid: str
    status: str
    meaning: str
    is_committed: bool


@dataclass(frozen=True)
class DeliveryRow:
    """A run's objects on their way to one peer; `next_attempt_at` is None when there is none."""

    peer: str
    state: str
    attempts: int
    queued_at: datetime
    attempted_at: datetime | None
    accepted_at: datetime | None
    committed_at: datetime | None
    next_attempt_at: datetime | None
    error: str
    remedy: str
    note: str
    """What the peer gets in a lesser form, or in the place of what it does not accept."""
    objects: tuple[ObjectRow, ...]


@dataclass(frozen=True)
class RunRow:
    """One content of a study on its way through one route."""

    run_id: str
    route: str
    state: str
    outcome: str
    error: str
    remedy: str
    superseded: bool
    timeline: tuple[MilestoneRow, ...]
    deliveries: tuple[DeliveryRow, ...]


@dataclass(frozen=True)
class SeriesRow:
    """One series, in the sender's words."""

    uid: str
    number: str
    modality: str
    description: str
    instances: int


@dataclass(frozen=True)
class StudyRow:
    """One line of the worklist; runs of the study's latest content come first."""

    study_uid: str
    study_date: str
    modalities: tuple[str, ...]
    instances: int
    state: str
    outcome: str
    error: str
    remedy: str
    first_received: datetime
    last_received: datetime
    series: tuple[SeriesRow, ...]
    runs: tuple[RunRow, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What destinations get in a lesser form, of the study's latest content."""
        return tuple(
            f"{delivery.peer} gets {delivery.note}"
            for run in self.runs
            if not run.superseded
            for delivery in run.deliveries
            if delivery.note
        )

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return asdict(self)


def study_rows(studies: Iterable[Study]) -> list[StudyRow]:
    """Rows of studies that came from `Catalogue.worklist` or `Catalogue.study`, in their order."""
    return [_study_row(study) for study in studies]


def timeline(run: Run) -> list[tuple[str, datetime, float]]:
    """(milestone, when, milliseconds since the one before), in the order of the study's way."""
    reached = {milestone.name: milestone.at for milestone in run.milestones}
    steps = []
    before = None
    for name in MILESTONES:
        if name in reached:
            at = reached[name]
            steps.append((name, at, (at - (before or at)).total_seconds() * 1000))
            before = at
    return steps


def as_table(rows: Iterable[StudyRow]) -> Table:
    """Return the worklist as a table for a terminal."""
    table = Table(title="Studies, the latest first", caption="Unverified second opinions")
    table.add_column("state")
    table.add_column("study", overflow="fold", ratio=5)
    table.add_column("outcome", ratio=4)
    table.expand = True
    for row in rows:
        said = Text(row.outcome)
        if row.error:
            said = Text(f"{row.error}\n", style="red").append(f"-> {row.remedy}", style="bold")
        for note in row.notes:
            said.append(f"\n{note}", style="yellow")
        study = Text(row.study_uid, overflow="fold").append(
            f"\n{row.study_date} {', '.join(row.modalities)}, {row.instances} instances, "
            f"received {row.last_received.astimezone():%Y-%m-%d %H:%M:%S}",
            style="dim",
        )
        table.add_row(Text(row.state, style=_STYLES.get(row.state, "")), study, said)
    return table


def _study_row(study: Study) -> StudyRow:
    superseded = {run.supersedes for run in study.runs}
    latest_first = sorted(study.runs, key=lambda run: run.opened_at, reverse=True)
    runs = sorted(
        (_run_row(run, superseded=run.id in superseded) for run in latest_first),
        key=lambda row: row.superseded,
    )
    current = [row for row in runs if not row.superseded]
    state, error, remedy = _standing(study, current)
    series = tuple(
        SeriesRow(one.uid, one.number, one.modality, one.description, one.instances or 0)
        for one in study.series
    )
    return StudyRow(
        study_uid=study.uid,
        study_date=study.study_date,
        modalities=tuple(sorted({one.modality for one in series if one.modality})),
        instances=sum(one.instances for one in series),
        state=state,
        outcome=" | ".join(row.outcome for row in current if row.outcome) or study.note,
        error=error,
        remedy=remedy,
        first_received=study.first_received,
        last_received=study.last_received,
        series=series,
        runs=tuple(runs),
    )


def _standing(study: Study, current: list[RunRow]) -> tuple[str, str, str]:
    """State, error and remedy of a study as a whole."""
    if study.considered_at is None or study.considered_at < study.last_received:
        return RECEIVING, "", ""
    if not current:
        return NO_ROUTE, "", NO_ROUTE_REMEDY
    worst = min(current, key=lambda row: _WORST_FIRST.index(RunState(row.state)))
    if worst.error:
        return worst.state, worst.error, worst.remedy
    for delivery in worst.deliveries:
        if delivery.error:
            return worst.state, delivery.error, delivery.remedy
    return worst.state, "", ""


def _run_row(run: Run, *, superseded: bool) -> RunRow:
    return RunRow(
        run_id=run.id,
        route=run.route,
        state=run.state.value,
        outcome=run.outcome,
        error=run.error,
        remedy=run.remedy,
        superseded=superseded,
        timeline=tuple(MilestoneRow(*step) for step in timeline(run)),
        deliveries=tuple(_delivery_row(delivery) for delivery in run.deliveries),
    )


def _delivery_row(delivery: Delivery) -> DeliveryRow:
    waiting = delivery.state in UNSETTLED
    return DeliveryRow(
        peer=delivery.peer,
        state=delivery.state.value,
        attempts=delivery.attempts,
        queued_at=delivery.opened_at,
        attempted_at=delivery.attempted_at,
        accepted_at=delivery.accepted_at,
        committed_at=delivery.committed_at,
        next_attempt_at=delivery.next_attempt_at if waiting else None,
        error=delivery.error,
        remedy=delivery.remedy,
        note=delivery.note,
        objects=tuple(
            ObjectRow(
                one.kind, one.instance_uid, one.status, _meaning(one.status), one.is_committed
            )
            for one in delivery.objects
        ),
    )


def _meaning(status: str) -> str:
    return _MEANINGS.get(status, "taken with a warning")
