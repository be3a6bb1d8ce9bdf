"""What a run has made, as files: assessment, objects, pictures; one folder a run.

Each file is put in place whole and durable, so that a step that finds its file need not repeat
its work, and one that repeats it puts the same bytes there.
"""

import io
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydicom import Dataset, dcmread

from inference.assessment import Assessment, AssessmentRecord
from node.durable import fsync_folder, replace_durably
from sr_writer.kinds import Kind
from sr_writer.results import Result, refers_to

_INSTANCES = "instances.json"
_RESULTS = "results.json"
_ASSESSMENT = "assessment.json"
_ON_IMAGES = "on_images.json"
_MASKS = "masks.npz"
_QUARANTINE = "quarantine"
_REASONS = "reasons.txt"


class ResultFile(BaseModel):
    """A result as it lies in a run's folder, in the order to send them."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    rank: int
    language: str
    sop_class: str
    instance_uid: str
    refers_to: tuple[str, ...]
    """SOP Instance UIDs of the results without which this one must not be sent."""


_RESULT_FILES = TypeAdapter(tuple[ResultFile, ...])


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def save_instances(self, instances: dict[str, tuple[str, ...]]) -> None:
        """Keep the content that the run is about: Series Instance UID -> SOP Instance UIDs.

        What the study receives later belongs to a later revision, and to a run of its own.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        fsync_folder(self.path.parent)
        replace_durably(self.path / _INSTANCES, orjson.dumps(instances))

    def instances(self) -> dict[str, tuple[str, ...]]:
        """The content that the run is about."""
        content = orjson.loads((self.path / _INSTANCES).read_bytes())
        return {series: tuple(uids) for series, uids in content.items()}

    def save_assessment(self, assessment: Assessment) -> None:
        """Keep the assessment; the record goes last, so where it is, the masks are too."""
        packed: dict[str, npt.NDArray[np.generic]] = {}
        for number, mask in assessment.masks.items():
            packed[f"bits_{number}"] = np.packbits(mask)
            packed[f"shape_{number}"] = np.array(mask.shape)
        for number, probability in assessment.probabilities.items():
            packed[f"probability_{number}"] = probability
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **packed)  # type: ignore[arg-type]  # stub takes bool only
        self.path.mkdir(parents=True, exist_ok=True)
        replace_durably(self.path / _MASKS, buffer.getvalue())
        record = assessment.record.model_dump_json(indent=1)
        replace_durably(self.path / _ASSESSMENT, record.encode())

    def assessment(self) -> Assessment:
        """The assessment with its voxels; FileNotFoundError where there is none yet."""
        record = self.record()
        masks, probabilities = {}, {}
        with np.load(self.path / _MASKS, allow_pickle=False) as packed:
            for segment in record.segments:
                shape = tuple(int(extent) for extent in packed[f"shape_{segment.number}"])
                bits = np.unpackbits(packed[f"bits_{segment.number}"], count=int(np.prod(shape)))
                masks[segment.number] = bits.astype(bool).reshape(shape)
                if f"probability_{segment.number}" in packed:
                    probabilities[segment.number] = packed[f"probability_{segment.number}"]
        return Assessment(record, masks, probabilities)

    def record(self) -> AssessmentRecord:
        """The assessment without masks, which is all that a status page needs."""
        return AssessmentRecord.model_validate_json((self.path / _ASSESSMENT).read_bytes())

    def save_record_on_images(self, record: AssessmentRecord) -> None:
        """Keep the assessment in terms of the source images, as people look at it."""
        replace_durably(self.path / _ON_IMAGES, record.model_dump_json(indent=1).encode())

    def record_on_images(self) -> AssessmentRecord:
        """The assessment with slices counted among the source images.

        Until the objects are written, it is the record of the volume's own slices.
        """
        path = self.path / _ON_IMAGES
        if not path.exists():
            return self.record()
        return AssessmentRecord.model_validate_json(path.read_bytes())

    def has_assessment(self) -> bool:
        """Whether the volume was assessed, or was found not to be assessable."""
        return (self.path / _ASSESSMENT).exists()

    def save_results(self, results: Sequence[Result]) -> None:
        """Keep objects as DICOM Part 10 files; the list of them goes last, when all are there."""
        uids = [str(result.dataset.SOPInstanceUID) for result in results]
        times: Counter[Kind] = Counter()
        files = []
        for result in results:
            times[result.kind] += 1
            number = times[result.kind]
            name = f"{result.kind}.dcm" if number == 1 else f"{result.kind}-{number}.dcm"
            self._save_object(name, result.dataset)
            own = str(result.dataset.SOPInstanceUID)
            files.append(
                ResultFile(
                    name=name,
                    kind=result.kind,
                    rank=result.rank,
                    language=result.language,
                    sop_class=str(result.dataset.SOPClassUID),
                    instance_uid=own,
                    refers_to=tuple(refers_to(result.dataset, uids)),
                )
            )
        replace_durably(self.path / _RESULTS, _RESULT_FILES.dump_json(tuple(files), indent=1))

    def _save_object(self, name: str, dataset: Dataset) -> None:
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        replace_durably(self.path / name, buffer.getvalue())

    def results(self) -> tuple[ResultFile, ...]:
        """What was written, in the order to send it; empty before that."""
        path = self.path / _RESULTS
        return _RESULT_FILES.validate_json(path.read_bytes()) if path.exists() else ()

    def object_paths(self) -> list[Path]:
        """The objects in the order to send them: what is referenced before what refers to it."""
        return [self.path / result.name for result in self.results()]

    def richest(self) -> set[str]:
        """SOP Instance UIDs of the results, of each in several forms the one that says most."""
        best: dict[tuple[Kind, str], int] = {}
        for one in self.results():
            form = one.kind, one.language
            best[form] = min(one.rank, best.get(form, one.rank))
        return {
            one.instance_uid for one in self.results() if one.rank == best[one.kind, one.language]
        }

    def objects(self) -> list[Dataset]:
        """The objects themselves."""
        return [dcmread(path) for path in self.object_paths()]

    def reports(self) -> dict[int, Dataset]:
        """The reports by rank, none where none was written."""
        return {
            result.rank: dcmread(self.path / result.name)
            for result in self.results()
            if result.kind is Kind.REPORT
        }

    def quarantine(self, reasons: Sequence[str]) -> None:
        """Put all objects aside, with the reasons; none of them is listed, or sent, any more.

        May be repeated where a crash cut it off: the reasons are there first, and the list of the
        objects goes before they do.
        """
        aside = self.path / _QUARANTINE
        aside.mkdir(exist_ok=True)
        replace_durably(aside / _REASONS, "".join(f"{reason}\n" for reason in reasons).encode())
        if (self.path / _RESULTS).exists():
            (self.path / _RESULTS).rename(aside / _RESULTS)
            fsync_folder(self.path)
        for result in RunFolder(aside).results():
            if (self.path / result.name).exists():
                (self.path / result.name).rename(aside / result.name)
        fsync_folder(aside)
        fsync_folder(self.path)

    def quarantine_reasons(self) -> tuple[str, ...]:
        """Why the run's objects are kept aside; empty where they are not."""
        try:
            return tuple((self.path / _QUARANTINE / _REASONS).read_text("utf-8").splitlines())
        except FileNotFoundError:
            return ()

    def save_pictures(self, pictures: Sequence[tuple[int, bytes]]) -> None:
        """Keep PNG pictures of key slices, named by slice index."""
        for index, png in pictures:
            replace_durably(self.path / f"slice_{index:04d}.png", png)

    def pictures(self) -> list[Path]:
        """The pictures in slice order."""
        return sorted(self.path.glob("slice_*.png"))

    def clear(self) -> None:
        """Drop what the run has made, so that it is made anew; what it is about stays."""
        for path in self.path.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _INSTANCES:
                path.unlink()

    def remove(self) -> None:
        """Take the folder away (retention)."""
        shutil.rmtree(self.path, ignore_errors=True)
