"""The durable study workflow: one run's way from received instances to delivered results.

DBOS checkpoints each step in the catalogue's database; a crash resumes at the last finished step.
"""

import socket

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID
from sqlalchemy.exc import SQLAlchemyError

from node import delivery, steps
from node.settings import Settings
from node.steps import RETRY, RunFailedError, Workbench
from node.tables import Run, RunState

log = structlog.get_logger()

WORKFLOW_VERSION = "1"
"""Steps of an older version are resumed by this code only if this stays the same: raise it only
when the order or the meaning of steps changes, and let the old version's studies finish first."""

STUDY_QUEUE = "studies"
SEE_LOG = f"see the worker's log; when it is mended, {RETRY}"
RECOVERY_ATTEMPTS = 3
"""How often a study may take its worker down before it is failed and lets the others pass."""
_RECOVERY_ENDED = ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

_bench: Workbench


def launch(bench: Workbench) -> None:
    """Start the workflow engine; pending runs of this machine's worker resume at once."""
    global _bench  # noqa: PLW0603  # steps are module functions, found again by name after a crash
    _bench = bench
    config: DBOSConfig = {
        "name": "overread",
        "system_database_url": bench.settings.database_url,
        "application_version": WORKFLOW_VERSION,
        "executor_id": _executor_id(bench.settings),
        "log_level": "WARNING",
        "enable_otlp": False,
    }
    DBOS(config=config)
    DBOS.launch()
    # One study at a time a worker: a model fills the machine, a second one would only slow both.
    DBOS.register_queue(STUDY_QUEUE, worker_concurrency=1, polling_interval_sec=0.2)


def _executor_id(settings: Settings) -> str:
    """Whose pending runs this worker resumes: all there are, where the database is its own."""
    if settings.database_url.startswith("sqlite"):
        return "worker"
    return f"worker@{socket.gethostname()}:{settings.node.port}"


def stop() -> None:
    """Stop the engine; a run that is not over resumes at the next launch."""
    DBOS.destroy(workflow_completion_timeout_sec=10)


def enqueue(run_id: str) -> None:
    """Have a run processed; does nothing where that was asked for before."""
    with SetWorkflowID(_workflow_id(_bench.catalogue.run(run_id))):
        DBOS.enqueue_workflow(STUDY_QUEUE, over_read, run_id)


def forget(run: Run) -> None:
    """Drop the checkpoints of a run that is over."""
    DBOS.delete_workflows([f"{run.id}.{attempt}" for attempt in range(run.attempt + 1)])


def _workflow_id(run: Run) -> str:
    return f"{run.id}.{run.attempt}"


@DBOS.workflow(name="over_read", max_recovery_attempts=RECOVERY_ATTEMPTS)
def over_read(run_id: str) -> None:
    """Take one run through all its steps."""
    try:
        candidates = select(run_id)
        series = assemble(run_id, candidates)
        assess(run_id, series)
        write(run_id, series)
        check(run_id, series)
        deliver(run_id)
    except RunFailedError as error:
        fail(run_id, error.reason, error.remedy)
    except Exception as error:  # whatever it is, the operator must see it
        log.exception("run.failed", run=run_id, remedy=SEE_LOG)
        fail(
            run_id,
            f"{type(error).__name__} while the study was processed",
            SEE_LOG,
        )


def _passing_trouble(error: BaseException) -> bool:
    return isinstance(error, (OSError, SQLAlchemyError))


_step = DBOS.step(retries_allowed=True, max_attempts=4, should_retry=_passing_trouble)


@_step
def select(run_id: str) -> list[str]:
    """Series that the run's route takes, the likeliest first."""
    _bench.catalogue.update_run(run_id, state=RunState.RUNNING)
    return steps.select(_bench, _bench.catalogue.run(run_id))


@_step
def assemble(run_id: str, candidates: list[str]) -> str:
    """The series to assess."""
    series = steps.assemble_first(_bench, _bench.catalogue.run(run_id), candidates)
    _bench.catalogue.reach(run_id, "assembled")
    return series


@_step
def assess(run_id: str, series: str) -> None:
    """Put the assessment into the run's folder."""
    outcome = steps.assess(_bench, _bench.catalogue.run(run_id), series)
    _bench.catalogue.update_run(run_id, outcome=outcome)
    _bench.catalogue.reach(run_id, "assessed")


@_step
def write(run_id: str, series: str) -> None:
    """Put the DICOM objects and pictures into the run's folder."""
    steps.write(_bench, _bench.catalogue.run(run_id), series)
    _bench.catalogue.reach(run_id, "written")


@_step
def check(run_id: str, series: str) -> None:
    """Hold back what must not leave."""
    run = _bench.catalogue.run(run_id)
    steps.check(_bench, run, series)
    _bench.outbox.open(run_id, _bench.route(run).results_to)
    _bench.catalogue.reach(run_id, "checked", RunState.DELIVERING)


@_step
def deliver(run_id: str) -> None:
    """Let the objects go: the lanes send them, so that no peer holds up the next study."""
    _bench.outbox.release(run_id)
    delivery.settle(_bench.outbox, run_id)


@_step
def fail(run_id: str, reason: str, remedy: str) -> None:
    """End the run, loudly."""
    _bench.catalogue.update_run(run_id, state=RunState.FAILED, error=reason, remedy=remedy)
    log.error("run.failed", run=run_id, reason=reason, remedy=remedy)


def look_after_open_runs() -> None:
    """Queue runs that are not, and fail those whose workflow ended without a word.

    The latter happens when a study has crashed its worker too many times.
    """
    for run in _bench.catalogue.runs_in((RunState.QUEUED, RunState.RUNNING)):
        status = DBOS.get_workflow_status(_workflow_id(run))
        if status is None:
            enqueue(run.id)  # retried by an operator, or a crash before it was queued
        elif status.status in _RECOVERY_ENDED:
            reason = f"the worker did not survive this study ({status.status.lower()})"
            _bench.catalogue.update_run(run.id, state=RunState.FAILED, error=reason, remedy=SEE_LOG)
            log.error("run.failed", run=run.id, reason=reason, remedy=SEE_LOG)
