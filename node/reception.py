"""One data set on its way into the spool: in memory while it is small, in its file when it is not.

What is answered to the sender is decided here: Success when the instance is durable, else why not.
"""

import mmap
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.disk import Disk, trouble_of
from node.encoded_image import EncodedBytes
from node.intake import (
    COERCION,
    DUPLICATE_INSTANCE,
    MISMATCH,
    OUT_OF_RESOURCES,
    SUCCESS,
    Intake,
    IntakeError,
    inspect,
)
from node.received import Received
from node.remedies import REFUSED_INSTANCE
from node.spool import InstanceKey, Partial, Spool, Stored, shown_uid
from node.store_request import StoreAnswer, StoreRequest, file_meta

log = structlog.get_logger()

IN_MEMORY = 8 << 20  # bytes of one data set; what is more lies in its file already
_TAKING_MUCH = threading.BoundedSemaphore(2)
"""For data sets that may take hundreds of megabytes while they are inspected: inflated, or with a
header that is as long as headers may be. A hundred associations may bring one at the same time."""
PIECE = 256  # bytes that a piece takes besides its own: a sender may make them tiny
MAXIMUM_INSTANCE = 8 << 30  # bytes; native pixel data end at 4 GiB (PS3.5 Section 7.1.1)


@dataclass(frozen=True)
class Intaker:
    """Where data sets go: the spool and its disk, and who is told."""

    spool: Spool
    disk: Disk
    note: Callable[[Received], None]
    warns_of_other_content: bool = False
    """Whether other content under a SOP Instance UID that is held is a warning, and no failure."""

    def begin(self, request: StoreRequest) -> "Reception":
        """Return what takes the data set of a request."""
        return Reception(self, request)


class Reception:
    """Takes one data set piece by piece; `finish` or `drop` ends it."""

    def __init__(self, intaker: Intaker, request: StoreRequest) -> None:
        self._intaker = intaker
        self._request = request
        self._meta = file_meta(request)
        self._pieces: list[memoryview] = []
        self._size = 0
        self._held = 0
        self._partial: Partial | None = None
        self._trouble: IntakeError | OSError | None = None

    def add(self, piece: memoryview) -> None:
        """Take the next piece; trouble is told at the end, as DIMSE has it."""
        if self._trouble is not None:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        self._held += len(piece) + PIECE
        if self._held > IN_MEMORY:
            try:
                self._write_out()
            except (IntakeError, OSError) as error:
                self._trouble = error
                self.drop()

    def finish(self) -> StoreAnswer:
        """Return the answer; if it is Success, the instance is on the disk."""
        try:
            intake, stored = self._store()
        except IntakeError as error:
            return self._refusal(error.status, str(error), error.remedy)
        except OSError as error:
            self._intaker.disk.failed(error)
            trouble = trouble_of(error)
            reason = f"cannot be stored: {trouble.reason}"
            return self._refusal(OUT_OF_RESOURCES, reason, trouble.remedy)
        finally:
            self.drop()
        self._intaker.disk.worked()
        if stored is Stored.CONFLICT:
            return self._other_content(intake.key)
        if intake.is_own_result:
            log.info(
                "result.returned",
                instance=intake.key.instance,
                calling=self._request.calling_ae_title,
            )
        else:
            self._intaker.note(_received(intake, self._request))
        return StoreAnswer(SUCCESS, key=intake.key)

    def drop(self) -> None:
        """Forget the data set; of one that is stored nothing is left to forget."""
        self._pieces.clear()
        if self._partial is not None:
            self._partial.drop()
            self._partial = None

    def _write_out(self) -> None:
        if self._size > MAXIMUM_INSTANCE:
            raise IntakeError(
                OUT_OF_RESOURCES,
                "data set is larger than any image may be",
                "see at the sender what it is; have it sent in smaller images",
            )
        self._intaker.disk.check_space()
        if self._partial is None:
            self._partial = self._intaker.spool.begin()
            self._partial.write(self._meta)
        self._partial.write(*self._pieces)
        self._pieces.clear()
        self._held = 0

    def _store(self) -> tuple[Intake, Stored]:
        if self._trouble is not None:
            raise self._trouble
        if self._partial is not None:
            return self._store_large()
        self._intaker.disk.check_space()
        intake = self._inspected(EncodedBytes(self._pieces))
        spool, returned = self._intaker.spool, intake.is_own_result
        return intake, spool.store(intake.key, self._meta, *self._pieces, returned=returned)

    def _store_large(self) -> tuple[Intake, Stored]:
        self._write_out()
        partial = self._partial
        if partial is None:
            raise IntakeError(OUT_OF_RESOURCES, "data set is not in its file")
        with partial.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as m:
            intake = self._inspected(EncodedBytes([m], len(self._meta)))
        self._partial = None
        returned = intake.is_own_result
        return intake, self._intaker.spool.keep(partial, intake.key, returned=returned)

    def _inspected(self, encoded: EncodedBytes) -> Intake:
        request = self._request
        syntax = request.transfer_syntax
        takes_much = encoded.size > IN_MEMORY or syntax == DeflatedExplicitVRLittleEndian
        with _TAKING_MUCH if takes_much else nullcontext():
            intake = inspect(encoded, syntax, request.sop_class_uid, request.instance_uid)
        if request.study_uid not in ("", intake.key.study):
            raise IntakeError(MISMATCH, "the instance is of another study than the request")
        return intake

    def _other_content(self, key: InstanceKey) -> StoreAnswer:
        reason = "another instance has this SOP Instance UID; kept aside"
        if not self._intaker.warns_of_other_content:
            return self._refusal(DUPLICATE_INSTANCE, reason)
        log.warning(
            "instance.kept_aside",
            instance=key.instance,
            calling=self._request.calling_ae_title,
            remedy=REFUSED_INSTANCE[DUPLICATE_INSTANCE],
        )
        return StoreAnswer(COERCION, reason, key)

    def _refusal(self, status: int, reason: str, remedy: str = "") -> StoreAnswer:
        log.warning(
            "instance.refused",
            status=f"{status:04X}",
            reason=reason,
            instance=shown_uid(self._request.instance_uid),
            calling=self._request.calling_ae_title,
            address=self._request.address,
            remedy=remedy or REFUSED_INSTANCE[status],
        )
        return StoreAnswer(status, reason)


def _received(intake: Intake, request: StoreRequest) -> Received:
    return Received(
        key=intake.key,
        sop_class_uid=intake.sop_class_uid,
        transfer_syntax=str(request.transfer_syntax),
        calling_ae_title=request.calling_ae_title,
        received_at=datetime.now(UTC),
    )
