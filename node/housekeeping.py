"""What a node does by the clock: retention, disk watermark, abandoned runs."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from node import workflow
from node.delivery import settle_forgotten
from node.disk import Disk
from node.steps import Workbench
from node.tables import OVER, Run

log = structlog.get_logger()


def schedule(bench: Workbench) -> BackgroundScheduler:
    """Start the jobs; the caller shuts the scheduler down."""
    scheduler = BackgroundScheduler(
        timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": 60}
    )
    scheduler.add_job(settle_forgotten, "interval", seconds=5, args=[bench])
    scheduler.add_job(workflow.look_after_open_runs, "interval", seconds=5)
    scheduler.add_job(warn_of_full_disk, "interval", seconds=60, args=[bench])
    scheduler.add_job(remove_expired, "interval", hours=1, args=[bench, workflow.forget])
    scheduler.start()
    return scheduler


def warn_of_full_disk(bench: Workbench) -> None:
    """Say so in the log while the listener refuses instances for want of space."""
    node = bench.settings.node
    free = Disk(bench.settings).free_bytes()
    if free < node.min_free_gb * 1e9:
        log.error(
            "disk.nearly_full",
            free_gb=round(free / 1e9, 1),
            remedy="make room or lower node.retention_days; instances are refused until then",
        )


def remove_expired(bench: Workbench, forget: Callable[[Run], None]) -> None:
    """Take out studies past retention, unless a run of theirs is not over.

    `forget` drops a run's checkpoints, so that the study can be assessed anew if it comes again.
    """
    limit = datetime.now(UTC) - timedelta(days=bench.settings.node.retention_days)
    for study in bench.catalogue.studies_received_before(limit):
        if any(run.state not in OVER for run in study.runs):
            continue
        for run in study.runs:
            forget(run)
        # Index first: a crash in between leaves files that the listener lists and retention takes.
        bench.catalogue.remove_study(study.uid)
        bench.spool.remove_study(study.uid)
        for run in study.runs:
            bench.folder(run.id).remove()
        log.info("study.expired", study=study.uid)
