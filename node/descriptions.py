"""What the headers of a study and a series say of them, as far as the catalogue keeps it.

These are the attributes that queries ask for (PS3.4 Tables C.6-1 to C.6-3, PS3.18 Table 10.6.1-5).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import Tag

from node.remedies import NOT_ITS_KIND

log = structlog.get_logger()

STUDY_COLUMNS = {
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "TimezoneOffsetFromUTC": "timezone",
    "AccessionNumber": "accession_number",
    "StudyID": "study_id",
    "StudyDescription": "description",
    "ReferringPhysicianName": "referring_physician",
}
"""Keyword -> column of the table of studies."""

SERIES_COLUMNS = {
    "Modality": "modality",
    "SeriesNumber": "number",
    "SeriesDescription": "description",
    "SeriesDate": "series_date",
    "SeriesTime": "series_time",
    "BodyPartExamined": "body_part",
    "ProtocolName": "protocol",
    "PerformedProcedureStepStartDate": "performed_date",
    "PerformedProcedureStepStartTime": "performed_time",
}
"""Keyword -> column of the table of series."""

REQUEST_COLUMNS = {
    "ScheduledProcedureStepID": "scheduled_step",
    "RequestedProcedureID": "requested_procedure",
}
"""Keyword in the first item of Request Attributes Sequence -> column of the table of series."""

_TAGS: list[int] = [
    Tag(one) for one in (*STUDY_COLUMNS, *SERIES_COLUMNS, "RequestAttributesSequence")
]
_LAST = max(_TAGS)  # well before the functional groups of thousands of frames
LONGEST = 1024  # characters of one value; a person name has at most some 200 (PS3.5 Section 6.2)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DOTTED_DATE = re.compile(r"(\d{4})\.(\d{2})\.(\d{2})")  # ACR-NEMA; PS3.5 Section 6.2, note


def _no_words(columns: dict[str, str]) -> dict[str, str]:
    return dict.fromkeys(columns.values(), "")


@dataclass(frozen=True)
class Description:
    """Columns of a study and of one of its series with their texts, empty where nothing is said."""

    study: dict[str, str] = field(default_factory=lambda: _no_words(STUDY_COLUMNS))
    series: dict[str, str] = field(
        default_factory=lambda: _no_words(SERIES_COLUMNS | REQUEST_COLUMNS)
    )


def read_description(path: Path) -> Description:
    """Describe the study and the series that a Part 10 file belongs to."""
    with path.open("rb") as file:
        header = read_partial(file, lambda tag, _vr, _length: tag > _LAST, specific_tags=_TAGS)
    return describe(header)


def describe(header: Dataset) -> Description:
    """Describe the study and the series that a data set belongs to, in Unicode."""
    return Description(
        _texts(header, STUDY_COLUMNS),
        _texts(header, SERIES_COLUMNS) | _texts(_request(header), REQUEST_COLUMNS),
    )


def plain(text: str) -> str:
    """Return text as a database and a page can take it, and no longer than it may be."""
    return UNPRINTABLE.sub("", text).strip()[:LONGEST]


def _request(header: Dataset) -> Dataset:
    try:
        return next(iter(header.get("RequestAttributesSequence") or ()), Dataset())
    except Exception:  # what lies there is no sequence
        attribute = "RequestAttributesSequence"
        log.exception("attribute.unreadable", attribute=attribute, remedy=NOT_ITS_KIND)
        return Dataset()


def _texts(header: Dataset, columns: dict[str, str]) -> dict[str, str]:
    return {column: _text(header, keyword) for keyword, column in columns.items()}


def _text(header: Dataset, keyword: str) -> str:
    try:
        value = header.get(keyword)
        text = "" if value is None else plain(str(value))
    except Exception:  # pydicom raises what it will over a value that is none of its kind
        log.exception("attribute.unreadable", attribute=keyword, remedy=NOT_ITS_KIND)
        return ""
    return _DOTTED_DATE.sub(r"\1\2\3", text) if keyword.endswith("Date") else text
