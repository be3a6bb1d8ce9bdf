"""What the catalogue is told of instances, and the rows that it makes of that.

Rows come in the order of their keys, so that two processes that list at once do not wait for each
other in a circle.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from node.descriptions import Description
from node.spool import InstanceKey

SeriesKey = tuple[str, str]
"""Study and Series Instance UID."""

_NOTHING_SAID = Description()


@dataclass(frozen=True)
class Received:
    """One instance that is held, and what the catalogue wants to know of it."""

    key: InstanceKey
    sop_class_uid: str
    transfer_syntax: str
    calling_ae_title: str
    received_at: datetime


def study_rows(
    received: Iterable[Received], described: Mapping[SeriesKey, Description]
) -> list[dict[str, Any]]:
    """Return a row for each study, described by one of its series."""
    rows: dict[str, dict[str, Any]] = {}
    for one in received:
        said = described.get((one.key.study, one.key.series), _NOTHING_SAID)
        row = rows.setdefault(one.key.study, _study_row(one, said))
        row["first_received"] = min(row["first_received"], one.received_at)
        row["last_received"] = max(row["last_received"], one.received_at)
    return [rows[uid] for uid in sorted(rows)]


def series_rows(
    received: Iterable[Received], described: Mapping[SeriesKey, Description], run_id: str = ""
) -> list[dict[str, Any]]:
    """Return a row for each series; `run_id` is that of the run that made it."""
    return [
        {
            "study_uid": study,
            "uid": uid,
            "run_id": run_id,
            **described.get((study, uid), _NOTHING_SAID).series,
        }
        for study, uid in sorted({(one.key.study, one.key.series) for one in received})
    ]


def instance_rows(received: Iterable[Received], run_id: str = "") -> list[dict[str, Any]]:
    """Return a row for each instance; `run_id` is that of the run that made it."""
    return [
        {
            "study_uid": one.key.study,
            "series_uid": one.key.series,
            "uid": one.key.instance,
            "sop_class_uid": one.sop_class_uid,
            "transfer_syntax": one.transfer_syntax,
            "run_id": run_id,
            "calling_ae_title": one.calling_ae_title,
            "received_at": one.received_at,
        }
        for one in sorted(
            received, key=lambda one: (one.key.study, one.key.series, one.key.instance)
        )
    ]


def _study_row(first: Received, said: Description) -> dict[str, Any]:
    return {
        "uid": first.key.study,
        "first_received": first.received_at,
        "last_received": first.received_at,
        "revision": "",
        "note": "",
        **said.study,
    }
