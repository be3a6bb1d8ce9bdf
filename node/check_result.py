"""What one check of `overread check` found, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """One check: what was looked at, what was found, and what to do about it."""

    subject: str
    outcome: Outcome
    text: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return {
            "subject": self.subject,
            "outcome": self.outcome,
            "text": self.text,
            "remedy": self.remedy,
        }
