"""Results on disk as the gate and outside validators see them, against the source lying beside.

What belongs together is found as a receiver finds it: a result refers to instances of its source,
or to another result that does.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from node.assembly import assemble
from node.outside_validators import VALIDATORS, Opinion, Validator
from sr_writer.conformance import MODALITIES, check_objects, check_without_source

SOURCE_MODALITIES = frozenset({"CT", "MR"})


@dataclass(frozen=True)
class Found:
    """What is on disk: results, images by Series Instance UID, and files that are neither."""

    results: dict[Path, Dataset] = field(default_factory=dict)
    series: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    instances: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID of an image -> its Series Instance UID."""
    others: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Judgement:
    """What the gate says of results of one source series.

    `source` is its Series Instance UID, empty where none was given: then `checked` says what was
    not looked at.
    """

    results: tuple[str, ...]
    source: str
    checked: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class OutsideOpinion:
    """What one outside validator says of one file, or of all files together."""

    file: str
    opinion: Opinion


@dataclass(frozen=True)
class Validation:
    """Everything that `overread validate` says."""

    judgements: tuple[Judgement, ...]
    outside: tuple[OutsideOpinion, ...]
    missing: tuple[str, ...]
    """Outside validators that are not installed, and how to install them."""
    failed: tuple[str, ...]
    """Outside validators that did not run to their end."""
    others: int
    """Files that are neither results nor CT or MR images."""

    @property
    def has_problems(self) -> bool:
        """Whether anyone found anything that is not known to be false."""
        return (
            bool(self.failed)
            or any(judgement.problems for judgement in self.judgements)
            or any(each.opinion.problems for each in self.outside)
        )

    def as_json(self) -> bytes:
        """The same for machines."""
        shown: dict[str, Any] = {**asdict(self), "has_problems": self.has_problems}
        return orjson.dumps(shown, option=orjson.OPT_INDENT_2)


def find(paths: Sequence[Path]) -> Found:
    """Sort files into results that the gate has rules for, images, and others."""
    found = Found()
    for path in paths:
        try:
            header = dcmread(path, stop_before_pixels=True)
            sop_class = header.get("SOPClassUID")
            if sop_class in MODALITIES and header.get("Modality") not in SOURCE_MODALITIES:
                found.results[path] = dcmread(path)
            elif header.get("Modality") in SOURCE_MODALITIES and "SOPInstanceUID" in header:
                found.series[str(header.get("SeriesInstanceUID", ""))].append(path)
                found.instances[header.SOPInstanceUID] = str(header.get("SeriesInstanceUID", ""))
            else:
                found.others.append(path)
        except (InvalidDicomError, AttributeError, KeyError, TypeError, ValueError, EOFError):
            found.others.append(path)
    return found


def validate(found: Found) -> Validation:
    """Have the gate and every installed validator judge what was found."""
    missing, failed = [], []
    outside: list[OutsideOpinion] = []
    for validator in VALIDATORS:
        if (remedy := validator.missing()) is not None:
            missing.append(remedy)
            continue
        try:
            outside += _ask(validator, found)
        except OSError as error:
            failed.append(f"{validator.name}: {error}")
    return Validation(
        tuple(_judge(found)), tuple(outside), tuple(missing), tuple(failed), len(found.others)
    )


def _judge(found: Found) -> Iterator[Judgement]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # what is odd is what is looked for
        for source, paths in sorted(_by_source(found).items()):
            names = tuple(map(str, paths))
            objects = [found.results[path] for path in paths]
            if not source:
                problems = check_without_source(objects)
                checked = (
                    "by themselves only, for none of the images that they refer to was given: "
                    "patient, study, references and geometry were not compared with the source"
                )
            else:
                assembled = assemble(found.series[source])
                problems = check_objects(objects, assembled.headers, assembled.volume)
                images = "its images, which became a volume"
                if assembled.volume is None:
                    images = f"its images, which became no volume ({assembled.verdict.geometry})"
                checked = f"against {images}"
            yield Judgement(names, source, checked, tuple(problems))


def _by_source(found: Found) -> dict[str, list[Path]]:
    """Return results by the series that they are of, directly or by way of another result."""
    references = {path: _referenced(made) for path, made in found.results.items()}
    series = {
        path: next((found.instances[uid] for uid in sorted(uids) if uid in found.instances), "")
        for path, uids in references.items()
    }
    by_uid = {str(made.get("SOPInstanceUID")): path for path, made in found.results.items()}
    for path, uids in references.items():
        if not series[path]:
            via = [series[by_uid[uid]] for uid in sorted(uids) if uid in by_uid]
            series[path] = next((each for each in via if each), "")
    grouped: dict[str, list[Path]] = defaultdict(list)
    for path in found.results:
        grouped[series[path]].append(path)
    return grouped


def _referenced(made: Dataset) -> set[str]:
    """Return the SOP Instance UIDs that an object refers to, wherever it does."""
    found = set()
    for element in made.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            found.add(str(element.value))
    return found


def _ask(validator: Validator, found: Found) -> Iterator[OutsideOpinion]:
    if validator.together:
        images = [path for paths in found.series.values() for path in paths]
        together = [*images, *found.results]
        if len(together) > 1:
            yield OutsideOpinion("all files together", validator.opinion(together))
        return
    for path, made in found.results.items():
        if validator.takes(made):
            yield OutsideOpinion(str(path), validator.opinion([path]))
