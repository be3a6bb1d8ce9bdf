"""Which content an object was written from, by which node, and when."""

from dataclasses import dataclass
from datetime import datetime

PRODUCT = "Overread "
"""Opens one of the Software Versions of every object that is made here."""


@dataclass(frozen=True)
class Provenance:
    """What makes two runs of the writers give the same bytes.

    `content` is a digest of the study revision and the route; together with the model's digest it
    determines every UID. `written_at` comes from the checkpointed assessment, never from a clock,
    and carries its time zone.
    """

    content: str
    software_version: str
    station_name: str
    written_at: datetime

    def __post_init__(self) -> None:
        if self.written_at.tzinfo is None:
            raise ValueError("written_at has no time zone: give the assessment's time with one")
