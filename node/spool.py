"""Write-once instance files: atomic, fsynced, under paths that no UID can lead astray; the truth.

    spool/STUDY/SERIES/INSTANCE.dcm        received instances, DICOM Part 10
    spool/.incoming/                       being written; emptied when the listener starts
    spool/.incoming-N/, .incoming-dicomweb/  the same, of further listeners and of DICOMweb
    spool/.aside/STUDY/SERIES/...          other bytes under a UID that is already here
    spool/.returned/STUDY/SERIES/...       results of ours that a PACS sent back; no part of a study

An instance that lies under its final name is whole and durable: its bytes were fsynced before the
name was given, and the folders that lead to it after. The same data set sent again takes the name.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path

from node.durable import fsync_folder

UID_PATTERN = re.compile(
    r"[0-9]+(\.[0-9]+)*"
)  # PS3.5 Section 9.1; leading zeros occur and are let in
UID_LENGTH = 64
INCOMING = ".incoming"
_ASIDE = ".aside"
_RETURNED = ".returned"
_REMEMBERED_FOLDERS = 10_000
_PARTS_AT_ONCE = 512  # IOV_MAX is 1024


class InvalidUIDError(ValueError):
    """A UID that PS3.5 Section 9.1 does not allow, and that must not become a path."""


class Stored(Enum):
    """What became of an instance that was to be stored."""

    NEW = "new"
    SAME = "same"  # these very bytes were here already
    CONFLICT = "conflict"  # other bytes under the same UID: kept aside


@dataclass(frozen=True)
class InstanceKey:
    """The three UIDs that place an instance; each is checked, so that each is a safe file name."""

    study: str
    series: str
    instance: str

    def __post_init__(self) -> None:
        check_uid(self.study, "Study Instance UID")
        check_uid(self.series, "Series Instance UID")
        check_uid(self.instance, "SOP Instance UID")


def check_uid(value: str, name: str) -> None:
    """Raise InvalidUIDError unless `value` is a UID; its text may be hostile: not repeated."""
    if not value:
        raise InvalidUIDError(f"{name} is missing")
    if len(value) > UID_LENGTH or not UID_PATTERN.fullmatch(value):
        raise InvalidUIDError(f"{name} is not a valid UID")


def shown_uid(value: str) -> str:
    """Return a UID as it can be repeated, empty where it is none: then it may be hostile."""
    try:
        check_uid(value, "UID")
    except InvalidUIDError:
        return ""
    return value


class Partial:
    """A file of the spool that is being written and has no final name yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def write(self, *parts: bytes | memoryview) -> None:
        """Append parts in order; OSError where the disk cannot take them all."""
        for at in range(0, len(parts), _PARTS_AT_ONCE):
            left = [memoryview(part) for part in parts[at : at + _PARTS_AT_ONCE] if len(part)]
            while left:
                written = os.writev(self._descriptor, left)  # may be short on a full disk
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = left[0][written:]

    def sync(self) -> None:
        """Return when what was written is on the disk."""
        os.fsync(self._descriptor)

    def drop(self) -> None:
        """Close it and take its name away, or leave that to the listener's next start."""
        with suppress(OSError):  # the answer was decided by what failed before, if anything
            os.close(self._descriptor)
        with suppress(OSError):
            self.path.unlink()


class Spool:
    """The folder of received instances."""

    def __init__(self, root: Path, *, incoming: str = INCOMING) -> None:
        """`incoming` is where files are written first; each process that writes has its own."""
        self.root = root
        self._incoming = root / incoming
        self._durable: set[Path] = set()

    def prepare(self) -> None:
        """Make the folders, and drop what a crash left half-written (it was never acknowledged)."""
        self._make_durable(self.root)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._make_durable(self._incoming)

    def store(self, key: InstanceKey, *parts: bytes | memoryview, returned: bool = False) -> Stored:
        """Write an instance and return once a power cut could not take it away.

        `parts` are the bytes of the Part 10 file in order. Raises OSError where the disk cannot
        take it; nothing is left behind then.
        """
        partial = self.begin()
        try:
            partial.write(*parts)
        except OSError:
            partial.drop()
            raise
        return self.keep(partial, key, returned=returned)

    def begin(self) -> Partial:
        """Return a new file to write to; `keep` or its `drop` ends it."""
        return Partial(self._incoming / uuid.uuid4().hex)

    def keep(self, partial: Partial, key: InstanceKey, *, returned: bool = False) -> Stored:
        """Give what was written its name, durably; raises OSError, with nothing left behind.

        What is `returned` is kept, and is no part of its study.
        """
        folder = (self.root / _RETURNED if returned else self.root) / key.study / key.series
        final = folder / f"{key.instance}.dcm"
        try:
            partial.sync()
            self._make_durable(folder)
            try:
                # Unlike rename, never replaces what another association put there.
                os.link(partial.path, final)
            except FileExistsError:
                return self._already_there(key, partial.path, final)
            fsync_folder(folder)
        finally:
            partial.drop()
        return Stored.NEW

    def _already_there(self, key: InstanceKey, partial: Path, final: Path) -> Stored:
        digest = _dataset_digest(partial)
        if digest == _dataset_digest(final):
            # The name may be so new that its writer has not yet fsynced the folder, or could not: a
            # failed fsync is not made good by another. So these bytes get the name anew.
            partial.replace(final)
            fsync_folder(final.parent)
            return Stored.SAME
        folder = self.root / _ASIDE / key.study / key.series
        self._make_durable(folder)
        partial.replace(folder / f"{key.instance}.{digest[:16]}.dcm")
        fsync_folder(folder)
        return Stored.CONFLICT

    def _make_durable(self, folder: Path) -> None:
        """Make a folder and its parents, each entry fsynced in the folder that holds it.

        That another association made the folder does not say that it has fsynced it yet, so each
        process fsyncs the way to a folder itself, once.
        """
        if folder in self._durable and folder.is_dir():
            return
        if folder != self.root:
            self._make_durable(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(folder.parent)
        if len(self._durable) >= _REMEMBERED_FOLDERS:
            self._durable.clear()
        self._durable.add(folder)

    def instances(self, study: str) -> dict[str, tuple[str, ...]]:
        """Series Instance UID -> SOP Instance UIDs that are here, both in ascending order."""
        check_uid(study, "Study Instance UID")
        series_folders = sorted(path for path in _listed(self.root / study) if path.is_dir())
        return {
            folder.name: tuple(sorted(path.stem for path in _listed(folder)))
            for folder in series_folders
        }

    def studies(self) -> Iterator[str]:
        """Study Instance UIDs that are here."""
        return (path.name for path in _listed(self.root) if not path.name.startswith("."))

    def path(self, key: InstanceKey) -> Path:
        """Where an instance lies, or would lie."""
        return self.root / key.study / key.series / f"{key.instance}.dcm"

    def was_returned(self, instance: str) -> bool:
        """Whether an instance of this UID is among the results that came back."""
        check_uid(instance, "SOP Instance UID")
        return any((self.root / _RETURNED).glob(f"*/*/{instance}.dcm"))

    def remove_study(self, study: str) -> None:
        """Take a study out, instances kept aside included (retention)."""
        check_uid(study, "Study Instance UID")
        for folder in (self.root, self.root / _ASIDE, self.root / _RETURNED):
            if (folder / study).exists():
                shutil.rmtree(folder / study)

    def aside(self) -> int:
        """How many instances are kept aside because their UID was taken by other bytes."""
        return sum(1 for _ in (self.root / _ASIDE).rglob("*.dcm"))


def revision_of(instances: dict[str, tuple[str, ...]]) -> str:
    """Digest of a study's content: the set of its SOP Instance UIDs."""
    uids = sorted(uid for series in instances.values() for uid in series)
    return sha256("\n".join(uids).encode()).hexdigest()


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _dataset_digest(path: Path) -> str:
    """SHA-256 of transfer syntax and data set; the rest of the file meta names the sender.

    The group length (PS3.10 Section 7.1) gives where the data set begins.
    """
    with path.open("rb") as file:
        head = file.read(144)
        length = int.from_bytes(head[140:144], "little")
        meta = file.read(length)
        marker = meta.find(b"\x02\x00\x10\x00UI")
        size = int.from_bytes(meta[marker + 6 : marker + 8], "little")
        digest = sha256(meta[marker + 8 : marker + 8 + size])
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
