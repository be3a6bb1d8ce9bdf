"""What is said of a series that became a volume, or did not: for machines and in words."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pydicom.uid import UID

from inference.assessment import Text
from inference.volume import GeometryVerdict, Volume
from node.assembly import Assembled
from node.instances import text_of


@dataclass(frozen=True)
class SourceReport:
    """The image of a slice: its SOP instance, and its frame (from 1) where that has several."""

    sop_instance_uid: str
    frame: int | None


@dataclass(frozen=True)
class VolumeReport:
    """The voxels of an accepted series: shape and affine are of (slice, row, column), LPS mm."""

    shape: tuple[int, ...]
    affine_lps: list[list[float]]
    units: str
    range: tuple[float, float]
    frame_of_reference_uid: str
    limitations: tuple[Text, ...]
    sources: tuple[SourceReport, ...]


@dataclass(frozen=True)
class SeriesReport:
    """One series: what it is, what was found and done, and the volume if there is one."""

    series_instance_uid: str
    files: int
    modality: str
    transfer_syntaxes: tuple[str, ...]
    verdict: GeometryVerdict
    volume: VolumeReport | None
    seconds: float

    @property
    def summary(self) -> str:
        """Modality, number of files, and extents of the volume."""
        shape = "" if self.volume is None else f", {' x '.join(map(str, self.volume.shape))} voxels"
        return f"{self.modality or 'no modality'}, {self.files} files{shape}"


@dataclass(frozen=True)
class Report:
    """Everything that `overread volume` says; docs/volumes.md explains the fields."""

    overread: str
    series: tuple[SeriesReport, ...]
    chosen: str | None
    nifti: str | None
    picture: str | None
    not_dicom: int
    dicomdir: int
    unreadable: tuple[str, ...]

    def as_json(self) -> bytes:
        """Return it as one JSON document."""
        return orjson.dumps(self, default=_of_text)


def series_report(uid: str, files: int, assembled: Assembled, seconds: float) -> SeriesReport:
    """Gather what is said of one series, whose volume can be let go after that."""
    made = assembled.volume
    modalities = Counter(text_of(header, "Modality") for header in assembled.headers)
    syntaxes = {
        UID(str(header.file_meta.get("TransferSyntaxUID") or "")) for header in assembled.headers
    }
    return SeriesReport(
        series_instance_uid=uid,
        files=files,
        modality=made.modality if made else max(modalities, key=modalities.__getitem__, default=""),
        transfer_syntaxes=tuple(sorted(syntax.name or "none" for syntax in syntaxes)),
        verdict=assembled.verdict,
        volume=None if made is None else _volume_report(made),
        seconds=round(seconds, 3),
    )


def lines_of(series: SeriesReport) -> Iterator[tuple[str, str]]:
    """Yield what is said of a series in words, as pairs of a name and a sentence."""
    verdict, made = series.verdict, series.volume
    yield "series", f"{series.summary}; {', '.join(series.transfer_syntaxes)}"
    yield "found", _found(verdict)
    if verdict.reason is not None:
        yield "refused", verdict.reason.en
    for note in verdict.notes:
        yield "note", note.en
    for images in verdict.set_aside:
        yield "set aside", images
    if made is not None:
        for limitation in made.limitations:
            if limitation not in verdict.notes:
                yield "limitation", limitation.en
        slice_mm, row_mm, column_mm = np.linalg.norm(np.array(made.affine_lps)[:3, :3], axis=0)
        low, high = made.range
        yield "from ideal", f"{verdict.deviation_mm:.3f} mm at the farthest pixel"
        yield (
            "voxels",
            (
                f"{slice_mm:.3f} x {row_mm:.3f} x {column_mm:.3f} mm (slice, row, column), "
                f"{low:g} to {high:g} {made.units}"
            ),
        )
    yield "took", f"{series.seconds:.2f} s"


def _found(verdict: GeometryVerdict) -> str:
    found = [f"{verdict.slices} images"]
    if verdict.steps_mm is not None:
        smallest, median, largest = verdict.steps_mm
        found.append(f"{median:.3f} mm apart ({smallest:.3f} to {largest:.3f})")
    if verdict.tilt_degrees:
        found.append(f"tilted by {verdict.tilt_degrees:.2f} degrees")
    if verdict.missing_slices:
        found.append(f"{verdict.missing_slices} missing")
    return ", ".join(found)


def _volume_report(made: Volume) -> VolumeReport:
    numbers = made.frame_numbers or (None,) * len(made.sources)
    return VolumeReport(
        shape=tuple(made.grid.spatial_shape),
        affine_lps=made.grid.affine.tolist(),
        units=_units(made),
        range=(float(made.grid.array.min()), float(made.grid.array.max())),
        frame_of_reference_uid=str(made.grid.frame_of_reference_uid),
        limitations=made.limitations,
        sources=tuple(
            SourceReport(text_of(source, "SOPInstanceUID"), number)
            for source, number in zip(made.sources, numbers, strict=True)
        ),
    )


def _units(made: Volume) -> str:
    """Rescale Type (PS3.3 C.11.1.1.2) where the images name it; CT is in HU unless they do."""
    named = text_of(made.sources[0], "RescaleType")
    return (
        "unspecified"
        if named == "US"
        else named or ("HU" if made.modality == "CT" else "unspecified")
    )


def _of_text(value: Any) -> Any:
    if isinstance(value, Text):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} is not for a report")
