"""Requests for storage commitment, each in a file until its report is delivered."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from node.durable import fsync_folder, replace_durably

_MOST_OWED = 100


class Request(BaseModel):
    """One N-ACTION request (PS3.4 Section J.3.2), and what came of reporting to its sender."""

    model_config = ConfigDict(frozen=True)

    transaction_uid: str
    calling_ae_title: str
    references: tuple[tuple[str, str], ...]
    """SOP Class UID and SOP Instance UID."""
    due: AwareDatetime
    received_at: AwareDatetime
    looks: int = 0
    """How often something of it was not found."""
    attempts: int = 0
    reason: str = ""
    """Why the last attempt to report failed."""
    remedy: str = ""


class KeptRequests:
    """The folder of them."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "commitment"

    def prepare(self) -> None:
        """Make the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(self._folder.parent)

    def paths(self) -> list[Path]:
        """The files, in a stable order."""
        return sorted(self._folder.glob("*.json"))

    def keep(self, request: Request) -> Path:
        """Return when a request is on the disk, as it is now; raises OSError."""
        path = self._path(request)
        replace_durably(path, request.model_dump_json().encode())
        return path

    def drop(self, request: Request) -> Path:
        """Forget a request; raises OSError."""
        path = self._path(request)
        path.unlink(missing_ok=True)
        return path

    def owed(self) -> Iterator[Request]:
        """Those whose reports their senders did not take, of the first hundred.

        Each may name a hundred thousand instances, and a monitor asks again and again.
        """
        for path in self.paths()[:_MOST_OWED]:
            try:
                request = read_request(path)
            except (OSError, ValidationError):  # gone a moment ago, or logged by who reports
                continue
            if request.attempts:
                yield request

    def _path(self, request: Request) -> Path:
        identity = f"{request.calling_ae_title}\n{request.transaction_uid}"
        return self._folder / f"{sha256(identity.encode()).hexdigest()[:32]}.json"


def read_request(path: Path) -> Request:
    """Read one; OSError or ValidationError where that cannot be done."""
    return Request.model_validate_json(path.read_bytes())
