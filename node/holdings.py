"""What the node holds: instances that it received, and objects of its own that passed the gate.

The one place that answers queries, by DIMSE and by DICOMweb; what is kept aside, was returned or is
quarantined is not part of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.tag import Tag
from pydicom.uid import UID
from sqlalchemy import ColumnElement, Select, and_, func, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute

from node.catalogue import Catalogue
from node.descriptions import REQUEST_COLUMNS, SERIES_COLUMNS, STUDY_COLUMNS
from node.instances import read_instance
from node.matching import UNMATCHED, MatchingKey, Range, matching_keys, texts_of
from node.remedies import DAMAGED_HEADER, NOT_ITS_KIND
from node.run_folder import RunFolder
from node.settings import Settings
from node.spool import InstanceKey, Spool
from node.tables import HELD, Instance, Run, Series, Study

log = structlog.get_logger()

_STUDIES_AT_ONCE = 100
_OF_IMAGES = (
    "SOPClassUID",
    "SOPInstanceUID",
    "InstanceNumber",
    "Rows",
    "Columns",
    "BitsAllocated",
    "NumberOfFrames",
)
_OF_STUDIES = ("ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
_OF_ALL = ("SpecificCharacterSet", "QueryRetrieveLevel", "InstanceAvailability", "RetrieveAETitle")
_NOT_RETURNED = tuple(vr for vr in UNMATCHED if vr != "DT")

Texts = dict[str, tuple[str, ...]]
"""Keyword -> values of an attribute."""

_SAME = {
    "StudyInstanceUID": Study.uid,
    "PatientID": Study.patient_id,
    "AccessionNumber": Study.accession_number,
    "StudyID": Study.study_id,
}
_SAME_IN_SERIES = {"SeriesInstanceUID": Series.uid, "Modality": Series.modality}
_SAME_IN_INSTANCES = {"SOPInstanceUID": Instance.uid, "SOPClassUID": Instance.sop_class_uid}


class Level(StrEnum):
    """What a query asks for, as Query/Retrieve Level (0008,0052) has it (PS3.4 C.6.2)."""

    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


@dataclass(frozen=True)
class HeldInstance:
    """One instance, and the Part 10 file that has it."""

    key: InstanceKey
    sop_class_uid: str
    transfer_syntax: UID
    path: Path


class Holdings:
    """Answers what is held; `catalogue` is an index of it."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._spool = Spool(settings.spool_dir)

    def find(
        self, level: Level, query: Dataset, *, limit: int | None = None, offset: int = 0
    ) -> Iterator[Dataset]:
        """Return what matches the keys of `query` (PS3.4 C.2.2.2), the latest studies first.

        An answer has all that is kept of its level and the levels above, empty where the source
        says nothing; that of an image has what `query` asks for besides, where its header does.
        Values are Unicode, and Specific Character Set is ISO_IR 192. Keys of lower levels and
        those of `unsupported` are not looked at. UnmatchableKeyError is raised at once.
        """
        answers = self._answers(level, matching_keys(query), _keywords(query))
        return islice(answers, offset, None if limit is None else offset + limit)

    def instances(
        self, study: str, series: str | None = None, instance: str | None = None
    ) -> list[HeldInstance]:
        """Return the instances of a study, a series or the one, series by series as they came."""
        query = select(Instance).where(Instance.study_uid == study, _held(Instance))
        if series is not None:
            query = query.where(Instance.series_uid == series)
        if instance is not None:
            query = query.where(Instance.uid == instance)
        return self._located(query)

    def _located(self, query: Select[Any]) -> list[HeldInstance]:
        ordered = query.order_by(Instance.series_uid, Instance.received_at, Instance.uid)
        with self._catalogue.session() as session:
            rows = list(session.scalars(ordered))
        made: dict[str, Path] = {}
        for run_id in {row.run_id for row in rows} - {""}:
            made |= self._made_by(run_id)
        located = []
        for row in rows:
            key = InstanceKey(row.study_uid, row.series_uid, row.uid)
            path = made.get(row.uid) if row.run_id else self._spool.path(key)
            if path is not None:
                syntax = UID(row.transfer_syntax)
                located.append(HeldInstance(key, row.sop_class_uid, syntax, path))
        return located

    def _made_by(self, run_id: str) -> dict[str, Path]:
        folder = RunFolder(self._settings.runs_dir / run_id)
        return {one.instance_uid: folder.path / one.name for one in folder.results()}

    def _answers(
        self, level: Level, keys: Mapping[str, MatchingKey], asked: Sequence[str]
    ) -> Iterator[Dataset]:
        uids = self._candidates(level, keys)
        for start in range(0, len(uids), _STUDIES_AT_ONCE):
            for study, series in self._described(uids[start : start + _STUDIES_AT_ONCE]):
                of_study = _study_texts(study, series)
                if not _fits(keys, of_study):
                    continue
                if level is Level.STUDY:
                    yield _dataset(of_study)
                else:
                    yield from self._below(level, of_study, series, keys, asked)

    def _below(
        self,
        level: Level,
        of_study: Texts,
        series: Sequence[tuple[Series, int]],
        keys: Mapping[str, MatchingKey],
        asked: Sequence[str],
    ) -> Iterator[Dataset]:
        for one, instances in series:
            of_series = _series_texts(one, instances)
            if _fits(keys, of_series | _request_texts(one)):
                answer = _dataset(of_study | of_series)
                answer.RequestAttributesSequence = _requests(one)
                if level is Level.SERIES:
                    yield answer
                else:
                    yield from self._images(answer, one, keys, asked)

    def _images(
        self, above: Dataset, series: Series, keys: Mapping[str, MatchingKey], asked: Sequence[str]
    ) -> Iterator[Dataset]:
        query = select(Instance).where(
            Instance.study_uid == series.study_uid, Instance.series_uid == series.uid
        )
        for keyword, column in _SAME_IN_INSTANCES.items():
            if keyword in keys:
                query = query.where(column.in_(keys[keyword].values))
        wanted = [*dict.fromkeys((*_OF_IMAGES, *asked))]
        wanted = [one for one in wanted if one not in above and one not in _OF_ALL]
        for held in self._located(query):
            try:
                image = _of_header(held, wanted)
            except Exception:  # perhaps retention takes it just now; the others are there
                log.exception(
                    "header.unreadable",
                    study=held.key.study,
                    instance=held.key.instance,
                    remedy=DAMAGED_HEADER,
                )
                continue
            if _fits(keys, {one: texts_of(image[one]) for one in wanted}):
                image.update(above)
                yield image

    def _candidates(self, level: Level, keys: Mapping[str, MatchingKey]) -> list[str]:
        """Study Instance UIDs among which all matches are: by SQL, then by the study's columns."""
        asked = [one for one in STUDY_COLUMNS if one in keys]
        query = select(Study.uid, *(getattr(Study, STUDY_COLUMNS[one]) for one in asked))
        for condition in _conditions(level, keys):
            query = query.where(condition)
        latest_first = (Study.study_date.desc(), Study.study_time.desc(), Study.uid)
        with self._catalogue.session() as session:
            return [
                uid
                for uid, *texts in session.execute(query.order_by(*latest_first))
                if all(keys[one].matches([text]) for one, text in zip(asked, texts, strict=True))
            ]

    def _described(self, uids: Sequence[str]) -> list[tuple[Study, list[tuple[Series, int]]]]:
        """Studies, in the order given, with their series and how many instances each has."""
        place = (Series.study_uid, Series.uid)
        counted = (
            select(Series, func.count(Instance.uid))
            .join(Instance, (Instance.study_uid == place[0]) & (Instance.series_uid == place[1]))
            .where(Series.study_uid.in_(uids), _held(Series))
            .group_by(*place)
            .order_by(*place)
        )
        series: dict[str, list[tuple[Series, int]]] = {uid: [] for uid in uids}
        with self._catalogue.session() as session:
            studies = {
                one.uid: one for one in session.scalars(select(Study).where(Study.uid.in_(uids)))
            }
            for one, instances in session.execute(counted):
                series[one.study_uid].append((one, instances))
        return [(studies[uid], series[uid]) for uid in uids if uid in studies]


def unsupported(level: Level, query: Dataset) -> set[str]:
    """Return the keywords among the keys of a query that are not looked at and not answered."""
    known = {*STUDY_COLUMNS, *_OF_STUDIES, *_OF_ALL, "StudyInstanceUID"}
    if level is not Level.STUDY:
        known |= {*SERIES_COLUMNS, "SeriesInstanceUID", "NumberOfSeriesRelatedInstances"}
        known |= {"RequestAttributesSequence"}
    if level is Level.IMAGE:
        known |= {one for one in _keywords(query) if dictionary_VR(one) not in UNMATCHED}
    return {keyword_for_tag(tag) for tag in query.keys()} - known  # noqa: SIM118


def _keywords(query: Dataset) -> list[str]:
    """Keywords of the keys that an image's header may answer: not private, nor in groups 50xx."""
    standard = (tag for tag in query.keys() if dictionary_has_tag(tag))  # noqa: SIM118
    return [keyword_for_tag(tag) for tag in standard if dictionary_VR(tag) not in _NOT_RETURNED]


def _held(table: type[Series] | type[Instance]) -> ColumnElement[bool]:
    passed = select(Run.id).where(Run.study_uid == table.study_uid, Run.state.in_(HELD))
    return or_(table.run_id == "", table.run_id.in_(passed))


def _conditions(level: Level, keys: Mapping[str, MatchingKey]) -> Iterator[ColumnElement[bool]]:
    """What SQL can tell of a study: never more than the keys ask for."""
    same = {one: key for one, key in keys.items() if not key.has_wildcards}
    for keyword in same.keys() & _SAME.keys():
        yield _SAME[keyword].in_(same[keyword].values)
    if "ModalitiesInStudy" in same:
        yield _some_series(Series.modality.in_(same["ModalitiesInStudy"].values))
    if "StudyDate" in same:
        yield or_(*(_within(Study.study_date, one) for one in same["StudyDate"].ranges))
    if level is not Level.STUDY:
        for keyword in same.keys() & _SAME_IN_SERIES.keys():
            yield _some_series(_SAME_IN_SERIES[keyword].in_(same[keyword].values))
    if level is Level.IMAGE:
        for keyword in same.keys() & _SAME_IN_INSTANCES.keys():
            found = _SAME_IN_INSTANCES[keyword].in_(same[keyword].values)
            yield Study.uid.in_(select(Instance.study_uid).where(found))


def _some_series(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return Study.uid.in_(select(Series.study_uid).where(condition))


def _within(column: InstrumentedAttribute[str], asked: Range) -> ColumnElement[bool]:
    after = true() if asked.first is None else column >= asked.first
    before = true() if asked.last is None else column <= asked.last
    return and_(after, before)


def _fits(keys: Mapping[str, MatchingKey], texts: Texts) -> bool:
    return all(keys[one].matches(texts[one]) for one in keys.keys() & texts.keys())


def _study_texts(study: Study, series: Sequence[tuple[Series, int]]) -> Texts:
    modalities = sorted({one.modality for one, _ in series} - {""})
    return {
        "SpecificCharacterSet": ("ISO_IR 192",),
        "InstanceAvailability": ("ONLINE",),
        "StudyInstanceUID": (study.uid,),
        "ModalitiesInStudy": tuple(modalities),
        "NumberOfStudyRelatedSeries": (str(len(series)),),
        "NumberOfStudyRelatedInstances": (str(sum(instances for _, instances in series)),),
        **_columns(study, STUDY_COLUMNS),
    }


def _series_texts(series: Series, instances: int) -> Texts:
    return {
        "SeriesInstanceUID": (series.uid,),
        "NumberOfSeriesRelatedInstances": (str(instances),),
        **_columns(series, SERIES_COLUMNS),
    }


def _request_texts(series: Series) -> Texts:
    return _columns(series, REQUEST_COLUMNS)


def _requests(series: Series) -> list[Dataset]:
    texts = _request_texts(series)
    return [_dataset(texts)] if any(map(any, texts.values())) else []


def _columns(row: Study | Series, columns: Mapping[str, str]) -> Texts:
    return {keyword: (getattr(row, column),) for keyword, column in columns.items()}


def _dataset(texts: Texts) -> Dataset:
    dataset = Dataset()
    for keyword, values in texts.items():
        value = values[0] if len(values) == 1 else list(values) or None
        tag = Tag(keyword)
        dataset[tag] = DataElement(
            tag, dictionary_VR(tag), value, validation_mode=config.IGNORE
        )  # as the source has it
    return dataset


def _of_header(held: HeldInstance, keywords: Sequence[str]) -> Dataset:
    """What the header of an image says, in Unicode; empty where it does not."""
    header = read_instance(held.path).header
    image = _dataset(dict.fromkeys(keywords, ()))
    for tag in image.keys() & header.keys():
        try:
            image[tag] = header[tag]
        except Exception:  # pydicom raises what it will over a value that is none of its kind
            attribute = keyword_for_tag(tag)
            log.exception("attribute.unreadable", attribute=attribute, remedy=NOT_ITS_KIND)
    image.SOPClassUID, image.SOPInstanceUID = held.sop_class_uid, held.key.instance
    image.AvailableTransferSyntaxUID = held.transfer_syntax
    return image
