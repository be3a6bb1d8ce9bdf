"""Whether the node is well, and what an operator should do where it is not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from node.catalogue import Catalogue
from node.certificate_validity import days_left
from node.disk import Disk
from node.kept_requests import KeptRequests
from node.replay import outages, unsettled
from node.settings import Settings
from node.spool import Spool
from node.tables import UNSETTLED, Delivery, DeliveryState, Outage, Run
from node.transport_security import CertificateError

RECENT = timedelta(hours=24)
"""How long a run that ended badly keeps the banner red, unless its study is sent again."""
SHORT_ABSENCE = timedelta(minutes=15)
"""How long a peer may be away before anyone needs to know."""
EXPIRES_NOW = 7
"""Days before it expires that a certificate is an alarm; `overread check` warns sooner."""


@dataclass(frozen=True)
class Alarm:
    """Something an operator must know on whatever page they are, and what to do about it."""

    text: str
    remedy: str
    studies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Health:
    """How the node is; it is well while there is no alarm."""

    database_reachable: bool
    free_gb: float | None
    min_free_gb: float
    instances_kept_aside: int
    troubled_runs: int
    peers_away: tuple[str, ...]
    deliveries_waiting: int
    deliveries_given_up: int
    alarms: tuple[Alarm, ...]


def health_of(settings: Settings, catalogue: Catalogue) -> Health:
    """Look at disk, database and runs."""
    alarms = []
    node = settings.node
    free_gb = None
    disk = Disk(settings)
    try:
        free_gb = round(disk.free_bytes() / 1e9, 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        alarms.append(
            Alarm(
                f"The state folder cannot be read: {reason}.",
                "Mount it, or correct node.state_dir; nothing can be received until then.",
            )
        )
    trouble = disk.trouble()
    if trouble is not None:
        alarms.append(
            Alarm(
                f"The disk does not take what is received: {trouble.reason}. "
                "Instances are refused, and senders try again.",
                f"{trouble.remedy[0].upper()}{trouble.remedy[1:]}.",
            )
        )
    if free_gb is not None and free_gb < node.min_free_gb:
        alarms.append(
            Alarm(
                f"Disk nearly full: {free_gb} GB free, less than {node.min_free_gb} GB. "
                "Instances are refused.",
                "Make room, or lower node.retention_days.",
            )
        )
    reachable = True
    troubled: list[Run] = []
    away: list[Outage] = []
    deliveries: list[Delivery] = []
    try:
        troubled = catalogue.troubled_runs()
        away = outages(catalogue)
        deliveries = [delivery for delivery, _study in unsettled(catalogue)]
    except SQLAlchemyError:
        reachable = False
        alarms.append(Alarm("The database of the node does not answer.", "Run 'overread check'."))
    recent = [run for run in troubled if datetime.now(UTC) - _ended(run) < RECENT]
    if recent:
        count = "One result" if len(recent) == 1 else f"{len(recent)} results"
        alarms.append(
            Alarm(
                f"{count} failed or could not be delivered in the last 24 hours.",
                "Open the study: it says what to do.",
                tuple(sorted({run.study_uid for run in recent})),
            )
        )
    alarms += _absences(away, deliveries)
    alarms += _owed_reports(settings)
    alarms += _certificate(settings)
    given_up = sum(one.state is DeliveryState.GIVEN_UP for one in deliveries)
    return Health(
        database_reachable=reachable,
        free_gb=free_gb,
        min_free_gb=node.min_free_gb,
        instances_kept_aside=Spool(settings.spool_dir).aside(),
        troubled_runs=len(troubled),
        peers_away=tuple(one.peer for one in away),
        deliveries_waiting=len(deliveries) - given_up,
        deliveries_given_up=given_up,
        alarms=tuple(alarms),
    )


def _absences(away: Sequence[Outage], deliveries: Sequence[Delivery]) -> Iterator[Alarm]:
    for one in away:
        if datetime.now(UTC) - one.since > SHORT_ABSENCE:
            waiting = sum(
                delivery.peer == one.peer and delivery.state in UNSETTLED for delivery in deliveries
            )
            what = "1 delivery waits" if waiting == 1 else f"{waiting} deliveries wait"
            since = f"{one.since.astimezone():%Y-%m-%d %H:%M}"
            text = f"{one.error}, since {since}; {what} for it."
            yield Alarm(text, f"{one.remedy[0].upper()}{one.remedy[1:]}.")


def _owed_reports(settings: Settings) -> Iterator[Alarm]:
    """Senders that asked for commitment and do not take the report: they keep what they sent."""
    now = datetime.now(UTC)
    owed = [
        one
        for one in KeptRequests(settings.node.state_dir).owed()
        if now - one.received_at > SHORT_ABSENCE
    ]
    for title in sorted({one.calling_ae_title for one in owed}):
        to_sender = [one for one in owed if one.calling_ae_title == title]
        last = max(to_sender, key=lambda one: one.due)
        what = "A report" if len(to_sender) == 1 else f"{len(to_sender)} reports"
        text = f"{what} of storage commitment not delivered to {title}: {last.reason}."
        yield Alarm(text, f"{last.remedy[0].upper()}{last.remedy[1:]}.")


def _certificate(settings: Settings) -> Iterator[Alarm]:
    if settings.tls is None:
        return
    try:
        left = days_left(settings.tls)
    except CertificateError as error:
        yield Alarm(f"TLS: {error}.", "Renew it in place; no restart is needed.")
        return
    if left < EXPIRES_NOW:
        text = (
            f"TLS: {settings.tls.certificate} expires in {left:.1f} days; peers will turn it away."
        )
        yield Alarm(text, "Renew it in place; no restart is needed.")


def _ended(run: Run) -> datetime:
    """About when a run ended badly: the last that is known of it."""
    moments = [run.opened_at, *(milestone.at for milestone in run.milestones)]
    return max([*moments, *(delivery.next_attempt_at for delivery in run.deliveries)])
