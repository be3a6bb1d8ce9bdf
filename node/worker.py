"""The worker role: opens runs for complete studies, takes them through the workflow, delivers."""

import signal
import threading
from datetime import UTC, datetime

import structlog

from node import housekeeping, workflow
from node.catalogue import Catalogue
from node.completeness import Completeness
from node.lanes import Lanes
from node.settings import Settings
from node.steps import Workbench

log = structlog.get_logger()

_LOOK_INTERVAL = 0.25  # seconds between looks for studies that have become quiet


def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    bench = Workbench(settings, Catalogue(settings.database_url))
    completeness = Completeness(settings, bench.spool, bench.catalogue, datetime.now(UTC))
    workflow.launch(bench)
    scheduler = housekeeping.schedule(bench)
    lanes = Lanes(bench)
    log.info("worker.started", quiet_seconds=settings.node.quiet_seconds)
    while not stop.wait(_LOOK_INTERVAL):
        completeness.open_runs(workflow.enqueue)
        lanes.look()
    bench.stopping.set()
    scheduler.shutdown(wait=False)
    lanes.close()
    workflow.stop()
    bench.resident.close()
    bench.catalogue.close()
    log.info("worker.stopped")
