"""Lists in the catalogue what came into the spool, so that no sender waits for SQL.

Of each new series one header is read here, once, for what queries ask of it and of its study.
"""

import queue
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from pydicom.filereader import read_file_meta_info
from sqlalchemy.exc import SQLAlchemyError

from node.catalogue import Catalogue
from node.descriptions import Description, plain, read_description
from node.disk import trouble_of
from node.received import Received
from node.remedies import CHECK_DATABASE, DAMAGED_FILE, DAMAGED_HEADER
from node.spool import InstanceKey, Spool

log = structlog.get_logger()

_INTERVAL = 0.2  # seconds between batches
_AFTER_TROUBLE = 5.0
_BETWEEN_TRIES = 1.0
_REMIND = 60.0  # seconds after which it is said again that the database does not answer
_BATCH = 1000
_MOST_NOTED = 100_000  # while the database is away; what comes then is found in the spool


class Bookkeeper(threading.Thread):
    """Tells the catalogue what was received, a batch at a time, so that no sender waits for SQL."""

    def __init__(self, catalogue: Catalogue, spool: Spool) -> None:
        super().__init__(name="bookkeeper", daemon=True)
        self._catalogue = catalogue
        self._spool = spool
        self._received: queue.SimpleQueue[Received | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._told_at: float | None = None  # that the database does not answer
        self._has_forgotten = True  # what an earlier process did not list

    def note(self, received: Received) -> None:
        """Have an instance listed soon."""
        if self._received.qsize() < _MOST_NOTED:
            self._received.put(received)
        else:
            self._has_forgotten = True

    def run(self) -> None:
        """List what lies in the spool unlisted since a crash, then what comes."""
        pending: list[Received] = []
        while True:
            if not (pending or self._has_forgotten or self._stopping.is_set()):
                pending += self._next()
            # What comes meanwhile is listed with it.
            last_round = self._stopping.wait(0 if self._received.qsize() > _BATCH else _INTERVAL)
            try:
                if self._has_forgotten and self._received.qsize() < _BATCH:
                    self._has_forgotten = False
                    self._list_forgotten()
                while len(pending) < _BATCH and not self._received.empty():
                    pending += self._next()
                self._list(pending)
                pending.clear()
                self._tell_reachable()
            except SQLAlchemyError:  # the spool has it all: keep it in mind and try again
                self._tell_unreachable()
                self._stopping.wait(_BETWEEN_TRIES)
            except OSError as error:
                trouble = trouble_of(error)
                log.exception("spool.unlisted", reason=trouble.reason, remedy=trouble.remedy)
                self._stopping.wait(_AFTER_TROUBLE)
            if last_round and self._received.empty():
                return

    def stop(self) -> None:
        """List what is left, then end."""
        self._stopping.set()
        self._received.put(None)
        self.join(timeout=10)

    def _tell_unreachable(self) -> None:
        now = time.monotonic()
        if self._told_at is None or now - self._told_at > _REMIND:
            self._told_at = now
            log.exception("catalogue.unreachable", remedy=CHECK_DATABASE)

    def _tell_reachable(self) -> None:
        if self._told_at is not None:
            self._told_at = None
            log.info("catalogue.reachable")

    def _next(self) -> list[Received]:
        """What comes next, once it comes; nothing where it is the end."""
        received = self._received.get()
        return [] if received is None else [received]

    def _list(self, received: Sequence[Received]) -> None:
        for start in range(0, len(received), _BATCH):
            new = self._catalogue.unlisted_series(received[start : start + _BATCH])
            described = {series: self._described(key) for series, key in new.items()}
            self._catalogue.add_received(received[start : start + _BATCH], described)

    def _described(self, key: InstanceKey) -> Description:
        try:
            return read_description(self._spool.path(key))
        except Exception:  # it was whole when it came; the study must be found nevertheless
            log.exception(
                "header.unreadable", study=key.study, instance=key.instance, remedy=DAMAGED_HEADER
            )
            return Description()

    def _list_forgotten(self) -> None:
        count = 0
        try:
            for study in self._spool.studies():
                received = self._unlisted(study)
                self._list(received)
                count += len(received)
        except (SQLAlchemyError, OSError):
            self._has_forgotten = True
            raise
        if count:
            log.info("catalogue.repaired", instances=count)

    def _unlisted(self, study: str) -> list[Received]:
        received = []
        for key in self._catalogue.unlisted(study, self._spool.instances(study)):
            try:
                received.append(_from_file(self._spool, key))
            except Exception:  # one bad file must not hide the others
                log.exception("spool.unreadable", instance=key.instance, remedy=DAMAGED_FILE)
        return received


def _from_file(spool: Spool, key: InstanceKey) -> Received:
    """What the catalogue wants to know; received now, so that the study is looked at again."""
    meta = read_file_meta_info(spool.path(key))
    return Received(
        key=key,
        sop_class_uid=plain(str(meta.MediaStorageSOPClassUID)),
        transfer_syntax=plain(str(meta.TransferSyntaxUID)),
        calling_ae_title=plain(str(meta.get("SourceApplicationEntityTitle", ""))),
        received_at=datetime.now(UTC),
    )
