"""What the gate asks of the source: one series of one study, lying where the volume has it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydicom import Dataset

from sr_writer.header import plain_headers
from sr_writer.plane_conformance import POSITION_TOLERANCE_MM, is_close
from sr_writer.source_images import SourceImage

SHARED_BY_SOURCES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber")


@dataclass(frozen=True)
class Sources:
    """The instances of a series as they were received, and what the writers copy of them."""

    instances: Sequence[Dataset]

    @cached_property
    def headers(self) -> list[Dataset]:
        """Plain headers in their order; only the first has patient and study."""
        return plain_headers(self.instances)

    @cached_property
    def others(self) -> list[Dataset]:
        """Plain headers of all but the first, each with patient and study."""
        return [plain_headers([instance])[0] for instance in self.instances[1:]]


def check_sources(headers: Sequence[Dataset]) -> Iterator[str]:
    """Yield where instances are of more than one series, study or patient."""
    for keyword in SHARED_BY_SOURCES:
        if len({str(header.get(keyword) or "") for header in headers}) > 1:
            yield f"source: {keyword} differs between instances; send one series of one study"


def check_images(
    images: Sequence[SourceImage], headers: Sequence[Dataset], sources: Sequence[Dataset]
) -> Iterator[str]:
    """Yield where an image is not what its instance holds, read anew (PS3.3 C.7.6.16.2.3)."""
    stored = {
        str(header.SOPInstanceUID): source for header, source in zip(headers, sources, strict=True)
    }
    for image in images:
        uid, frame = image.reference
        if uid not in stored:
            yield "source: the volume has an image of another series; make the volume again"
            continue
        if frame is not None and not 1 <= frame <= int(stored[uid].get("NumberOfFrames") or 1):
            yield f"source: {uid} has no frame {frame}; make the volume again"
            continue
        expected = None if image.is_tile else _stored_position(stored[uid], frame)
        position = image.header.get("ImagePositionPatient")
        if expected and not is_close(position, expected, POSITION_TOLERANCE_MM):
            yield f"source: {uid} does not lie where the volume has it; make the volume again"


def _stored_position(source: Dataset, frame: int | None) -> Sequence[float] | None:
    """Return the position that an instance gives for itself or its frame, None without any."""
    holders = [source]
    if frame is not None:
        groups = [
            *source.get("PerFrameFunctionalGroupsSequence", [])[frame - 1 : frame],
            *source.get("SharedFunctionalGroupsSequence", []),
        ]
        holders = [each for group in groups for each in group.get("PlanePositionSequence", [])]
    positions: list[Sequence[float] | None] = [
        holder.get("ImagePositionPatient") for holder in holders
    ]
    return positions[0] if positions else None
