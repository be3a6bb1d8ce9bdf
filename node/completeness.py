"""When is a study complete: when it has been quiet for the configured time; then its runs open.

The time is counted from what the catalogue last listed, or from the start of this process where
that is later: a node that was down while a study was sent must not take the pause for its end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import structlog
from pydicom import Dataset, dcmread

from node.catalogue import Catalogue
from node.remedies import DAMAGED_HEADER
from node.routing import matches
from node.run_folder import RunFolder
from node.settings import Route, Settings
from node.spool import InstanceKey, Spool, revision_of
from node.tables import RunState, Study

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
            routes = [
                route
                for route in self.settings.routes
                if routed_series(self.spool, route, study.uid, instances)
            ]
            note = "" if routes else "no route matches any series of this study"
            for route in routes:
                run_id = run_id_of(study.uid, revision, route)
                RunFolder(self.settings.runs_dir / run_id).save_instances(instances)
                self._open(study, run_id, revision, route, now)
                enqueue(run_id)
            log.info(
                "study.complete",
                study=study.uid,
                routes=[route.name for route in routes],
                instances=sum(map(len, instances.values())),
            )
        self.catalogue.consider(study.uid, at=study.last_received, revision=revision, note=note)

    def _open(self, study: Study, run_id: str, revision: str, route: Route, now: datetime) -> None:
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


def routed_series(
    spool: Spool, route: Route, study: str, instances: dict[str, tuple[str, ...]]
) -> list[str]:
    """Series among `instances` that the route takes, most instances first, then by UID."""
    taken = []
    for series, uids in instances.items():
        header = _first_header(spool, [InstanceKey(study, series, uid) for uid in uids])
        if header is not None and matches(route.when, header, len(uids)):
            taken.append((-len(uids), series))
    return [series for _, series in sorted(taken)]


def run_id_of(study: str, revision: str, route: Route) -> str:
    """The one run of this content through this route: the same however often it is asked for."""
    identity = "\n".join((study, revision, route.name, route.model))
    return sha256(identity.encode()).hexdigest()[:32]


def _first_header(spool: Spool, keys: Sequence[InstanceKey]) -> Dataset | None:
    for key in keys:
        try:
            return dcmread(spool.path(key), stop_before_pixels=True)
        except Exception:  # parsed at intake, but not by this parser: assembly says why
            log.exception(
                "header.unreadable", study=key.study, instance=key.instance, remedy=DAMAGED_HEADER
            )
    return None
