"""Structured logs: one line an event, with study and instance UIDs but no other patient data.

Messages of exceptions and warnings raised in libraries may repeat attribute values, a patient's
name among them. So tracebacks are logged with their types and places only, warnings not at all.
"""

import logging
import sys
import traceback
import warnings

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SILENT = ("pydicom", "pynetdicom")
"""Libraries whose lines repeat values, or events that are logged by us."""


def configure_logging(role: str) -> None:
    """Log to standard error: coloured lines at a terminal, JSON for a journal."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_role(role),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _traceback_without_values,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library: what they have to say belongs in the same stream.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared, _first_line],
        )
    )
    # Not by the level: when it is imported, pydicom sets its own.
    handler.addFilter(lambda record: record.name.split(".", 1)[0] not in _SILENT)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    dbos = logging.getLogger("dbos")  # without a handler of its own it takes one for itself
    dbos.handlers, dbos.propagate = [handler], False
    warnings.simplefilter("ignore")


def _with_role(role: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("role", role)
        return event

    return add


def _first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep what a library says, and not the statement and the values that it adds to it."""
    event["event"] = str(event.get("event", "")).split("\n", 1)[0]
    return event


def _traceback_without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by exception types and places in the code."""
    found = event.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found
    if isinstance(error, tuple):
        error = error[1]
    places = []
    while isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        places.append({"type": type(error).__name__, "where": where})
        error = error.__cause__ or error.__context__
    if places:
        event["exception"] = places
    return event
