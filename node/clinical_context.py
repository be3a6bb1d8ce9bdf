"""Why the study was asked for, as the scanner wrote it into the images: text for the model.

It may name the patient, so it goes to a model of this machine only, and into no log.
"""

import unicodedata
from collections.abc import Sequence

from pydicom import Dataset

MAX_CHARACTERS = 500

_SOURCES = (
    ("Indication", "ReasonForTheRequestedProcedure"),
    ("Indication", "ReasonForStudy"),
    ("Diagnosis", "AdmittingDiagnosesDescription"),
    ("History", "AdditionalPatientHistory"),
)


def clinical_context(header: Dataset) -> str:
    """Indication, diagnosis and history of a source image in one line; "" where it has none."""
    requests = header.get("RequestAttributesSequence") or []
    said: dict[str, None] = {}
    for name, keyword in _SOURCES:
        for dataset in (header, *requests):
            text = _plain(dataset.get(keyword))
            if text:
                said[f"{name}: {text}"] = None
    return " ".join(said)[:MAX_CHARACTERS]


def _plain(value: str | Sequence[object] | None) -> str:
    """Text on one line, ending in a full stop; scanners fill in anything."""
    values = [value or ""] if value is None or isinstance(value, str) else value
    text = "; ".join(map(str, values))
    printable = "".join(" " if unicodedata.category(one)[0] == "C" else one for one in text)
    line = " ".join(printable.split())
    return line if not line or line.endswith((".", "。", "?", "!")) else f"{line}."
