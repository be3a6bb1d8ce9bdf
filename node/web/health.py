"""Whether the node is well, and what an operator should do where it is not."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from node.catalogue import Catalogue
from node.disk import Disk
from node.settings import Settings
from node.spool import Spool
from node.tables import Run

RECENT = timedelta(hours=24)
"""How long a run that ended badly keeps the banner red, unless its study is sent again."""


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
    try:
        troubled = catalogue.troubled_runs()
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
    return Health(
        database_reachable=reachable,
        free_gb=free_gb,
        min_free_gb=node.min_free_gb,
        instances_kept_aside=Spool(settings.spool_dir).aside(),
        troubled_runs=len(troubled),
        alarms=tuple(alarms),
    )


def _ended(run: Run) -> datetime:
    """About when a run ended badly: the last that is known of it."""
    moments = [run.opened_at, *(milestone.at for milestone in run.milestones)]
    return max([*moments, *(delivery.next_attempt_at for delivery in run.deliveries)])
