"""One Part 10 file on its way into the spool, the same way as a data set of C-STORE."""

import threading
from dataclasses import dataclass

import structlog
from pydicom.uid import UID

from node.intake import (
    CANNOT_UNDERSTAND,
    SOP_CLASS_NOT_SUPPORTED,
    STORAGE_CLASSES,
    TRANSFER_SYNTAX_NOT_SUPPORTED,
    TRANSFER_SYNTAXES,
)
from node.part10 import LARGEST_HEAD, HeadError, read_head
from node.reception import Intaker, Reception
from node.remedies import REFUSED_INSTANCE
from node.spool import shown_uid
from node.store_request import StoreAnswer, StoreRequest

log = structlog.get_logger()

# Failure reasons: PS3.18 Annex I, besides those of C-STORE


@dataclass(frozen=True)
class Sender:
    """Whose request it is, and the study that it names, if it does."""

    name: str
    address: str
    study_uid: str


@dataclass(frozen=True)
class Outcome:
    """What became of a part; the UIDs are empty where it has none that may be repeated."""

    sop_class_uid: str
    instance_uid: str
    answer: StoreAnswer


class Upload:
    """Takes a file piece by piece, in any thread; `finish` or `drop` ends it."""

    def __init__(self, intaker: Intaker, sender: Sender, trouble: str = "") -> None:
        self._intaker = intaker
        self._sender = sender
        self._lock = threading.Lock()  # a file is not closed while it is written to
        self._head = bytearray()
        self._class_uid = self._instance_uid = ""
        self._reception: Reception | None = None
        self._refusal = StoreAnswer(CANNOT_UNDERSTAND, trouble) if trouble else None

    def add(self, pieces: list[memoryview]) -> None:
        """Take the next pieces; trouble is told at the end."""
        with self._lock:
            for piece in pieces:
                if self._refusal is not None:
                    return
                if self._reception is None:
                    self._begin(piece)
                else:
                    self._reception.add(piece)

    def finish(self, pieces: list[memoryview]) -> Outcome:
        """Take the last pieces; if the answer is Success, the instance is on the disk."""
        self.add(pieces)
        if self._refusal is None and self._reception is not None:
            answer = self._reception.finish()
        else:
            answer = self._refused()
        return Outcome(shown_uid(self._class_uid), shown_uid(self._instance_uid), answer)

    def drop(self) -> None:
        """Forget the file."""
        with self._lock:
            if self._reception is not None:
                self._reception.drop()

    def _begin(self, piece: memoryview) -> None:
        known = len(self._head)
        self._head += piece[: LARGEST_HEAD + 1 - known]
        try:
            head = read_head(bytes(self._head))
        except HeadError as error:
            self._refusal = StoreAnswer(CANNOT_UNDERSTAND, str(error))
            return
        if head is None:
            return
        self._class_uid, self._instance_uid = head.sop_class_uid, head.instance_uid
        if head.sop_class_uid not in STORAGE_CLASSES:
            self._refusal = StoreAnswer(SOP_CLASS_NOT_SUPPORTED, "SOP class is not taken here")
        elif head.transfer_syntax not in TRANSFER_SYNTAXES:
            self._refusal = StoreAnswer(
                TRANSFER_SYNTAX_NOT_SUPPORTED, "transfer syntax is not taken here"
            )
        else:
            self._reception = self._intaker.begin(self._request(UID(head.transfer_syntax)))
            self._reception.add(memoryview(self._head)[head.end : known])
            self._reception.add(piece[max(head.end - known, 0) :])

    def _request(self, transfer_syntax: UID) -> StoreRequest:
        return StoreRequest(
            sop_class_uid=self._class_uid,
            instance_uid=self._instance_uid,
            transfer_syntax=transfer_syntax,
            calling_ae_title=self._sender.name,
            address=self._sender.address,
            study_uid=self._sender.study_uid,
        )

    def _refused(self) -> StoreAnswer:
        answer = self._refusal or StoreAnswer(CANNOT_UNDERSTAND, "this is no DICOM Part 10 file")
        log.warning(
            "instance.refused",
            status=f"{answer.status:04X}",
            reason=answer.comment,
            instance=shown_uid(self._instance_uid),
            calling=self._sender.name,
            address=self._sender.address,
            remedy=REFUSED_INSTANCE[answer.status],
        )
        return answer
