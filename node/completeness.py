"""When is a study complete: when it has been quiet for the configured time; then its runs open.

The time is counted from what the catalogue last listed, or from the start of this process where
that is later: a node that was down while a study was sent must not take the pause for its end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import structlog
from pydicom import Dataset, dcmread

from node.catalogue import Catalogue
from node.routing import matches
from node.settings import Route, Settings
from node.spool import Spool, revision_of
from node.tables import Run, RunState, Study

log = structlog.get_logger()


@dataclass(frozen=True)
class Completeness:
    """Opens the runs of studies that have become quiet."""

    settings: Settings
    spool: Spool
    catalogue: Catalogue
    started_at: datetime

    def open_runs(self, enqueue: Callable[[str], None]) -> None:
        """Open a run for each quiet study and route; `enqueue` is given run ids, perhaps again."""
        quiet = timedelta(seconds=self.settings.node.quiet_seconds)
        now = datetime.now(UTC)
        if now - self.started_at < quiet:
            return
        for study in self.catalogue.quiet_studies(since=now - quiet):
            self._consider(study, now, enqueue)

    def _consider(self, study: Study, now: datetime, enqueue: Callable[[str], None]) -> None:
        instances = self.spool.instances(study.uid)
        revision = revision_of(instances)
        note = study.note
        if revision != study.revision:
            routes = [route for route in self.settings.routes if self._series(route, study.uid)]
            note = "" if routes else "no route matches any series of this study"
            for route in routes:
                enqueue(self._open(study, revision, route, now))
            log.info(
                "study.complete",
                study=study.uid,
                routes=[route.name for route in routes],
                instances=sum(map(len, instances.values())),
            )
        self.catalogue.consider(study.uid, at=study.last_received, revision=revision, note=note)

    def _open(self, study: Study, revision: str, route: Route, now: datetime) -> str:
        run_id = run_id_of(study.uid, revision, route)
        earlier = self.catalogue.latest_run(study.uid, route.name)
        supersedes = earlier.id if earlier is not None and earlier.id != run_id else None
        row = {
            "id": run_id,
            "study_uid": study.uid,
            "revision": revision,
            "route": route.name,
            "state": RunState.QUEUED,
            "outcome": "",
            "error": "",
            "remedy": "",
            "supersedes": supersedes,
            "attempt": 0,
            "opened_at": now,
        }
        received = {"first received": study.first_received, "received": study.last_received}
        self.catalogue.open_run(row, {**received, "complete": now})
        return run_id

    def _series(self, route: Route, study: str) -> list[str]:
        return routed_series(self.spool, route, study)


def routed_series(spool: Spool, route: Route, study: str) -> list[str]:
    """Series of the study that the route takes, most instances first, then by UID."""
    taken = []
    for series, uids in spool.instances(study).items():
        header = _first_header(spool, study, series)
        if header is not None and matches(route.when, header, len(uids)):
            taken.append((-len(uids), series))
    return [series for _, series in sorted(taken)]


def run_id_of(study: str, revision: str, route: Route) -> str:
    """The one run of this content through this route: the same however often it is asked for."""
    identity = "\n".join((study, revision, route.name, route.model))
    return sha256(identity.encode()).hexdigest()[:32]


def superseded_run(catalogue: Catalogue, run: Run) -> Run | None:
    """The run of earlier content that this run's report replaces."""
    return catalogue.run(run.supersedes) if run.supersedes else None


def _first_header(spool: Spool, study: str, series: str) -> Dataset | None:
    for path in spool.series_files(study, series):
        try:
            return dcmread(path, stop_before_pixels=True)
        except Exception:  # parsed at intake, but not by this parser: assembly says why
            log.exception("header.unreadable", study=study, instance=path.stem)
    return None
