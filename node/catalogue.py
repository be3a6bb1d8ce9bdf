"""The SQL index over the spool and the runs: what operators see, and what the timers ask.

What was received can be rebuilt from the spool at any time (`Catalogue.unlisted`, `add_received`).
Runs and deliveries are written by the workflow; their content lies in the run's folder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session, selectinload, with_expression

from node.database import insert_into, open_database
from node.descriptions import Description
from node.received import Received, SeriesKey, instance_rows, series_rows, study_rows
from node.spool import InstanceKey
from node.tables import (
    CommitmentRequest,
    DeliveredObject,
    Delivery,
    Instance,
    Milestone,
    Run,
    RunState,
    Series,
    Study,
    Table,
)

_ROWS_AT_ONCE = 500  # SQLite takes 32766 values in a statement


class Catalogue:
    """One database, shared by all roles of the node."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on an exception."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _insert(self, table: type[Table], rows: Sequence[dict[str, Any]] = ()) -> Any:
        """INSERT that can be told what to do about rows that are there."""
        return insert_into(self._engine, table, rows)

    # What was received

    def unlisted_series(self, received: Iterable[Received]) -> dict[SeriesKey, InstanceKey]:
        """Those series among `received` that the catalogue has not heard of, with one instance."""
        new = {(one.key.study, one.key.series): one.key for one in received}
        with self.session() as session:
            query = select(Series.study_uid, Series.uid).where(
                tuple_(Series.study_uid, Series.uid).in_(list(new))
            )
            for study, series in session.execute(query):
                del new[study, series]
        return new

    def add_received(
        self, received: Sequence[Received], described: Mapping[SeriesKey, Description] | None = None
    ) -> None:
        """List instances; what is listed already is left as it is.

        `described` has what is said of series, and their studies, that are listed now.
        """
        described = described or {}
        for start in range(0, len(received), _ROWS_AT_ONCE):
            with self.session() as session:
                self._add(session, received[start : start + _ROWS_AT_ONCE], described)

    def _add(
        self,
        session: Session,
        received: Sequence[Received],
        described: Mapping[SeriesKey, Description],
    ) -> None:
        # Rows apart from the statements: these are compiled once, not for each number of rows.
        insert = self._insert(Study)
        new = insert.excluded.last_received
        later = new > Study.last_received
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["uid"],
                set_={"last_received": case((later, new), else_=Study.last_received)},
            ),
            study_rows(received, described),
        )
        insert = self._insert(Series).on_conflict_do_nothing()
        session.execute(insert, series_rows(received, described))
        insert = self._insert(Instance).on_conflict_do_nothing()
        session.execute(insert, instance_rows(received))

    def add_results(
        self, run_id: str, results: Sequence[Received], described: Mapping[SeriesKey, Description]
    ) -> None:
        """List the objects that a run made, in place of any that it made before."""
        with self.session() as session:
            for table in (Instance, Series):
                session.execute(delete(table).where(table.run_id == run_id))
            if results:
                session.execute(self._insert(Series), series_rows(results, described, run_id))
                session.execute(self._insert(Instance), instance_rows(results, run_id))

    def unlisted(self, study: str, instances: dict[str, tuple[str, ...]]) -> list[InstanceKey]:
        """Those instances of the spool's study that the catalogue has not heard of."""
        with self.session() as session:
            query = select(Instance.series_uid, Instance.uid).where(Instance.study_uid == study)
            listed = {(series, instance) for series, instance in session.execute(query)}
        return [
            InstanceKey(study, series, instance)
            for series, uids in instances.items()
            for instance in uids
            if (series, instance) not in listed
        ]

    def instances_called(self, uids: Sequence[str]) -> list[tuple[InstanceKey, str]]:
        """Received instances with one of these SOP Instance UIDs, each with its SOP Class UID."""
        found = []
        with self.session() as session:
            for start in range(0, len(uids), 500):
                query = select(Instance).where(
                    Instance.uid.in_(uids[start : start + 500]), Instance.run_id == ""
                )
                found += [
                    (InstanceKey(one.study_uid, one.series_uid, one.uid), one.sop_class_uid)
                    for one in session.scalars(query)
                ]
        return found

    def quiet_studies(self, since: datetime) -> list[Study]:
        """Studies that received nothing after `since`, and something after they were considered."""
        with self.session() as session:
            return list(
                session.scalars(
                    select(Study).where(
                        Study.last_received <= since,
                        or_(
                            Study.considered_at.is_(None),
                            Study.last_received > Study.considered_at,
                        ),
                    )
                )
            )

    # Runs

    def consider(self, study: str, *, at: datetime, revision: str, note: str) -> None:
        """Record that the study's content up to `at` was looked at for runs."""
        with self.session() as session:
            session.execute(
                update(Study)
                .where(Study.uid == study)
                .values(considered_at=at, revision=revision, note=note)
            )

    def open_run(self, run: dict[str, Any], milestones: dict[str, datetime]) -> None:
        """Insert a run, columns by name, unless it is there."""
        rows = [{"run_id": run["id"], "name": name, "at": at} for name, at in milestones.items()]
        with self.session() as session:
            session.execute(self._insert(Run, [run]).on_conflict_do_nothing())
            session.execute(self._insert(Milestone, rows).on_conflict_do_nothing())

    def run(self, run_id: str) -> Run:
        """Return a run with its milestones and deliveries; KeyError where there is none."""
        with self.session() as session:
            run = session.get(Run, run_id, options=_WHOLE_RUN)
        if run is None:
            raise KeyError(f"no run {run_id}")
        return run

    def latest_run(self, study: str, route: str) -> Run | None:
        """The run that a new revision of the study would supersede."""
        with self.session() as session:
            return session.scalars(
                select(Run)
                .where(Run.study_uid == study, Run.route == route)
                .order_by(Run.opened_at.desc())
                .limit(1)
            ).one_or_none()

    def runs_in(self, states: Iterable[RunState]) -> list[Run]:
        """Runs in one of `states`."""
        with self.session() as session:
            return list(session.scalars(select(Run).where(Run.state.in_(list(states)))))

    def update_run(self, run_id: str, **values: object) -> None:
        """Set columns of a run."""
        with self.session() as session:
            session.execute(update(Run).where(Run.id == run_id).values(**values))

    def reach(self, run_id: str, milestone: str, state: RunState | None = None) -> None:
        """Record when a run got somewhere, the first time it does."""
        row = {"run_id": run_id, "name": milestone, "at": datetime.now(UTC)}
        with self.session() as session:
            session.execute(self._insert(Milestone, [row]).on_conflict_do_nothing())
            if state is not None:
                session.execute(update(Run).where(Run.id == run_id).values(state=state))

    def retry(self, study: str) -> list[Run]:
        """Have the study looked at again, and the runs that failed tried again.

        Returns the runs that failed, as they were. KeyError where there is no such study.
        """
        with self.session() as session:
            found = session.get(Study, study)
            if found is None:
                raise KeyError(f"no study {study}")
            found.considered_at, found.revision = None, ""
            failed = list(
                session.scalars(
                    select(Run)
                    .where(Run.study_uid == study, Run.state == RunState.FAILED)
                    .options(*_PARTS)
                )
            )
            session.execute(
                update(Run)
                .where(Run.id.in_([run.id for run in failed]))
                .values(state=RunState.QUEUED, attempt=Run.attempt + 1, error="", remedy="")
                .execution_options(synchronize_session=False)
            )
            return failed

    # Retention

    def studies_received_before(self, limit: datetime) -> list[Study]:
        """Studies, with their runs, that received nothing since."""
        with self.session() as session:
            return list(
                session.scalars(
                    select(Study)
                    .where(Study.last_received < limit)
                    .options(selectinload(Study.runs))
                )
            )

    def remove_study(self, uid: str) -> None:
        """Forget a study and its runs."""
        runs = select(Run.id).where(Run.study_uid == uid)
        with self.session() as session:
            for table in (CommitmentRequest, DeliveredObject, Delivery, Milestone):
                session.execute(delete(table).where(table.run_id.in_(runs)))
            session.execute(delete(Run).where(Run.study_uid == uid))
            session.execute(delete(Instance).where(Instance.study_uid == uid))
            session.execute(delete(Series).where(Series.study_uid == uid))
            session.execute(delete(Study).where(Study.uid == uid))

    # For those who look

    def worklist(self, limit: int = 200) -> list[Study]:
        """The studies that received something last, with their series and runs."""
        with self.session() as session:
            return list(
                session.scalars(
                    select(Study)
                    .order_by(Study.last_received.desc())
                    .limit(limit)
                    .options(*_WHOLE_STUDY)
                )
            )

    def study(self, uid: str) -> Study | None:
        """One study with its series and runs."""
        with self.session() as session:
            return session.get(Study, uid, options=_WHOLE_STUDY)

    def troubled_runs(self) -> list[Run]:
        """Runs that ended badly and were not superseded by a later content of their study."""
        superseded = select(Run.supersedes).where(Run.supersedes.is_not(None))
        with self.session() as session:
            return list(
                session.scalars(
                    select(Run)
                    .where(
                        Run.state.in_((RunState.FAILED, RunState.UNDELIVERABLE)),
                        Run.id.not_in(superseded),
                    )
                    .options(*_PARTS)
                )
            )


_PARTS = (
    selectinload(Run.milestones),
    selectinload(Run.deliveries).selectinload(Delivery.objects),
)
_WHOLE_RUN = list(_PARTS)
_INSTANCE_COUNT = (
    select(func.count(Instance.uid))
    .where(Instance.study_uid == Series.study_uid, Instance.series_uid == Series.uid)
    .correlate(Series)
    .scalar_subquery()
)
_WHOLE_STUDY = [
    selectinload(Study.series).options(with_expression(Series.instances, _INSTANCE_COUNT)),
    selectinload(Study.runs).options(*_PARTS),
]
