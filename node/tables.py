"""The tables of the catalogue: studies, series, instances, runs and deliveries."""

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import DateTime, Enum, ForeignKey, ForeignKeyConstraint, Index, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    mapped_column,
    query_expression,
    relationship,
)


class _UTC(TypeDecorator[datetime]):
    """Aware datetimes in, aware datetimes out; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


def _as_text(states: type[StrEnum]) -> Enum:
    """A column of state names, with no type of its own in the database."""
    return Enum(states, native_enum=False, length=32)


class Table(DeclarativeBase):
    """What all tables share."""

    type_annotation_map = {datetime: _UTC}  # noqa: RUF012  # SQLAlchemy reads it off the class


SCHEMA = 3
"""Raised whenever a table changes; the tables are an index, made anew from the spool."""


class Schema(Table):
    """Which version of the tables the database holds; one row."""

    __tablename__ = "catalogue_schema"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class Study(Table):
    """A study of which at least one instance was received; what its first header says of it.

    Names and descriptions are shown to operators and peers that may ask, and never logged.
    """

    __tablename__ = "studies"
    uid: Mapped[str] = mapped_column(primary_key=True)
    patient_name: Mapped[str] = mapped_column(default="")
    patient_id: Mapped[str] = mapped_column(default="", index=True)
    patient_birth_date: Mapped[str] = mapped_column(default="")
    patient_sex: Mapped[str] = mapped_column(default="")
    study_date: Mapped[str] = mapped_column(default="", index=True)
    study_time: Mapped[str] = mapped_column(default="")
    timezone: Mapped[str] = mapped_column(default="")
    accession_number: Mapped[str] = mapped_column(default="", index=True)
    study_id: Mapped[str] = mapped_column(default="")
    description: Mapped[str] = mapped_column(default="")
    referring_physician: Mapped[str] = mapped_column(default="")
    first_received: Mapped[datetime]
    last_received: Mapped[datetime] = mapped_column(index=True)
    considered_at: Mapped[datetime | None]  # up to when its content was looked at for runs
    revision: Mapped[str] = mapped_column(default="")  # that content
    note: Mapped[str] = mapped_column(default="")  # why there is no run, in words
    series: Mapped[list["Series"]] = relationship(  # those that were received
        primaryjoin="and_(Study.uid == Series.study_uid, Series.run_id == '')",
        order_by="Series.number",
        viewonly=True,
    )
    runs: Mapped[list["Run"]] = relationship(order_by="Run.opened_at")


class Series(Table):
    """A series that was received, or that a run made; what its first header says of it."""

    __tablename__ = "series"
    study_uid: Mapped[str] = mapped_column(ForeignKey("studies.uid"), primary_key=True)
    uid: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(default="", index=True)  # the run that made it; or received
    modality: Mapped[str] = mapped_column(default="")
    description: Mapped[str] = mapped_column(default="")
    number: Mapped[str] = mapped_column(default="")
    series_date: Mapped[str] = mapped_column(default="")
    series_time: Mapped[str] = mapped_column(default="")
    body_part: Mapped[str] = mapped_column(default="")
    protocol: Mapped[str] = mapped_column(default="")
    performed_date: Mapped[str] = mapped_column(default="")
    performed_time: Mapped[str] = mapped_column(default="")
    scheduled_step: Mapped[str] = mapped_column(default="")
    requested_procedure: Mapped[str] = mapped_column(default="")
    instances: Mapped[int | None] = query_expression()  # how many; counted for those who look only


class Instance(Table):
    """An instance that lies in the spool, or an object in the folder of the run that made it."""

    __tablename__ = "instances"
    study_uid: Mapped[str] = mapped_column(primary_key=True)
    series_uid: Mapped[str] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(primary_key=True, index=True)
    sop_class_uid: Mapped[str]
    transfer_syntax: Mapped[str]
    run_id: Mapped[str] = mapped_column(default="", index=True)  # the run that made it; or received
    calling_ae_title: Mapped[str] = mapped_column(default="")
    received_at: Mapped[datetime]


class RunState(StrEnum):
    """How far a run is; a run that is DELIVERED or FAILED is over."""

    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"  # written and checked; a peer has not taken, or not committed, them
    DELIVERED = "delivered"
    UNDELIVERABLE = "undeliverable"  # given up on a peer; see its delivery
    FAILED = "failed"


HELD = (RunState.DELIVERING, RunState.DELIVERED, RunState.UNDELIVERABLE)
"""States of runs whose objects passed the gate, so that others may see them."""

OVER = (RunState.DELIVERED, RunState.UNDELIVERABLE, RunState.FAILED)


class Run(Table):
    """One content of a study on its way through one route."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("studies.uid"), index=True)
    revision: Mapped[str]
    route: Mapped[str]
    state: Mapped[RunState] = mapped_column(_as_text(RunState), default=RunState.QUEUED)
    outcome: Mapped[str] = mapped_column(default="")  # one line for the worklist
    error: Mapped[str] = mapped_column(default="")
    remedy: Mapped[str] = mapped_column(default="")
    supersedes: Mapped[str | None] = mapped_column(default=None)
    attempt: Mapped[int] = mapped_column(default=0)  # raised each time an operator has it retried
    opened_at: Mapped[datetime]
    milestones: Mapped[list["Milestone"]] = relationship(order_by="Milestone.at")
    deliveries: Mapped[list["Delivery"]] = relationship(order_by="Delivery.peer")


class Milestone(Table):
    """When a run got where: received, complete, assembled, ..., delivered, committed."""

    __tablename__ = "milestones"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]


class DeliveryState(StrEnum):
    """Where the objects of a run stand with one peer."""

    WAITING = "waiting"
    COMMITTING = "committing"  # taken; the peer has not confirmed yet that it keeps them
    DELIVERED = "delivered"  # taken, by a peer that is not asked to commit
    COMMITTED = "committed"
    GIVEN_UP = "given up"


UNSETTLED = (DeliveryState.WAITING, DeliveryState.COMMITTING)


class Delivery(Table):
    """The objects of one run on their way to one peer."""

    __tablename__ = "deliveries"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    peer: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[DeliveryState] = mapped_column(
        _as_text(DeliveryState), default=DeliveryState.WAITING
    )
    attempts: Mapped[int] = mapped_column(default=0)
    opened_at: Mapped[datetime]
    tried_since: Mapped[datetime]  # from when on the time is counted after which it is given up
    next_attempt_at: Mapped[datetime]
    is_claimed: Mapped[bool] = mapped_column(default=False)  # an attempt is under way
    attempted_at: Mapped[datetime | None]
    accepted_at: Mapped[datetime | None]  # when the peer had taken all
    committed_at: Mapped[datetime | None]
    commitment_requests: Mapped[int] = mapped_column(default=0)  # that the peer took
    error: Mapped[str] = mapped_column(default="")
    remedy: Mapped[str] = mapped_column(default="")
    note: Mapped[str] = mapped_column(default="")  # what it gets in a lesser form, or in its place
    objects: Mapped[list["DeliveredObject"]] = relationship(order_by="DeliveredObject.kind")
    __table_args__ = (Index("due_deliveries", "peer", "state", "next_attempt_at"),)


class DeliveredObject(Table):
    """What a peer answered to one object: the C-STORE status, 0000 or a warning (PS3.4 B.2.3)."""

    __tablename__ = "delivered_objects"
    run_id: Mapped[str] = mapped_column(primary_key=True)
    peer: Mapped[str] = mapped_column(primary_key=True)
    instance_uid: Mapped[str] = mapped_column(primary_key=True)
    sop_class_uid: Mapped[str]
    kind: Mapped[str]
    status: Mapped[str]
    is_committed: Mapped[bool] = mapped_column(default=False)
    __table_args__ = (
        ForeignKeyConstraint(["run_id", "peer"], ["deliveries.run_id", "deliveries.peer"]),
    )


class CommitmentRequest(Table):
    """A transaction by which a peer was asked to commit a delivery's objects (PS3.4 Annex J)."""

    __tablename__ = "commitment_requests"
    transaction_uid: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    peer: Mapped[str]
    asked_at: Mapped[datetime]
    reported_at: Mapped[datetime | None]
    __table_args__ = (
        ForeignKeyConstraint(["run_id", "peer"], ["deliveries.run_id", "deliveries.peer"]),
        Index("requests_of_delivery", "run_id", "peer"),
    )


class Outage(Table):
    """A peer that could not be reached: tried once a round, however much waits for it."""

    __tablename__ = "outages"
    peer: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    error: Mapped[str]
    remedy: Mapped[str]
