"""What the study page shows of a run: timeline, findings, report, pictures, objects."""

from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import ValidationError
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from inference.assessment import AssessmentRecord, Text
from node.remedies import DAMAGED_RUN
from node.run_folder import RunFolder
from node.status import RunRow
from sr_writer.plain_report import report_text

log = structlog.get_logger()

_MAIN_STEPS_FROM = "complete"  # what comes before is the sender's time and the quiet period


@dataclass(frozen=True)
class Bar:
    """One step of a timeline as drawn: percent of the time since the study was complete."""

    name: str
    at: datetime
    milliseconds: float
    start: float
    width: float


@dataclass(frozen=True)
class Picture:
    """A key slice, counted from 1 as on the picture itself."""

    name: str
    number: int


@dataclass(frozen=True)
class ObjectFile:
    """A DICOM object in the run's folder."""

    name: str
    sop_class: str
    instance_uid: str
    kilobytes: float


@dataclass(frozen=True)
class RunView:
    """All there is to show of a run."""

    row: RunRow
    bars: tuple[Bar, ...]
    record: AssessmentRecord | None
    report: Text | None
    pictures: tuple[Picture, ...]
    objects: tuple[ObjectFile, ...]
    quarantined: tuple[str, ...]  # why its objects were held back
    damaged: bool  # something is there that cannot be read


def view_of(run: RunRow, folder: RunFolder) -> RunView:
    """Gather what the run has made; what cannot be read is logged and shown as damaged."""
    record = record_of(folder)
    objects = _object_files(folder)
    return RunView(
        row=run,
        bars=_bars(run),
        record=record,
        report=report_text(record) if record is not None else None,
        pictures=tuple(
            Picture(path.name, int(path.stem.removeprefix("slice_")) + 1)
            for path in folder.pictures()
        ),
        objects=objects,
        quarantined=folder.quarantine_reasons(),
        damaged=(record is None and folder.has_assessment())
        or len(objects) < len(folder.object_paths()),
    )


def record_of(folder: RunFolder) -> AssessmentRecord | None:
    """The run's assessment, None where there is none that can be read."""
    try:
        return folder.record_on_images()
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        said = {"reason": type(error).__name__, "remedy": DAMAGED_RUN}
        log.error("assessment.unreadable", run=folder.path.name, **said)  # noqa: TRY400
        return None


def _object_files(folder: RunFolder) -> tuple[ObjectFile, ...]:
    files = []
    for path in folder.object_paths():
        try:
            meta = read_file_meta_info(path)
            kilobytes = path.stat().st_size / 1000
        except (OSError, InvalidDicomError) as error:
            said = {"reason": type(error).__name__, "remedy": DAMAGED_RUN}
            log.error("object.unreadable", run=folder.path.name, file=path.name, **said)  # noqa: TRY400
            continue
        files.append(
            ObjectFile(
                path.name,
                meta.MediaStorageSOPClassUID.name,
                meta.MediaStorageSOPInstanceUID,
                kilobytes,
            )
        )
    return tuple(files)


def _bars(run: RunRow) -> tuple[Bar, ...]:
    """Steps with their place on a common scale that begins when the study was complete."""
    begin = next((step.at for step in run.timeline if step.name == _MAIN_STEPS_FROM), None)
    bars = []
    for step in run.timeline:
        start = width = 0.0
        if begin is not None and step.at > begin:
            whole = (run.timeline[-1].at - begin).total_seconds() * 1000
            width = 100 * step.milliseconds / whole
            start = 100 * (step.at - begin).total_seconds() * 1000 / whole - width
        bars.append(Bar(step.name, step.at, step.milliseconds, start, width))
    return tuple(bars)
