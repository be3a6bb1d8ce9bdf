"""QIDO-RS: which studies, series and instances are held (PS3.18 Section 10.6)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from node.dicomweb.answers import DICOM_JSON, DICOM_XML, HEADERS
from node.dicomweb.dicom_json import Attributes, json_of
from node.dicomweb.media_types import Body, Form
from node.dicomweb.multipart_body import MultipartBody, Part
from node.dicomweb.native_xml import xml_of
from node.dicomweb.resources import acceptable, uids_of
from node.dicomweb.settings import DicomwebSettings
from node.dicomweb.urls import base_url
from node.holdings import Holdings, Level, unsupported
from node.matching import UnmatchableKeyError

MOST_RESULTS = 5000
FORMS = (
    Form(DICOM_JSON, default=True),
    Form("application/json"),
    Form(DICOM_XML, bodies=(Body.MULTIPART,)),
)
ALL = "all"

_MORE = '299 overread "There are more results: ask for them with offset, or narrow the search."'
_NOT_FUZZY = (
    '299 overread "The fuzzymatching parameter is not supported. '
    'Only literal matching has been performed."'
)
_IGNORED = ("accept", "charset", "emptyvaluematching", "multiplevaluematching")
_RETRIEVE_URL = 0x00081190

# What an answer has unless more is asked for: PS3.18 Tables 10.6.3-3 to 10.6.3-5
_OF_ALL = (
    *("SpecificCharacterSet", "InstanceAvailability", "TimezoneOffsetFromUTC"),
    *("StudyInstanceUID", "SeriesInstanceUID"),  # also where the path has them: it does no harm
)
_OF_STUDIES = (
    *("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID"),
    *("StudyDescription", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
)
_OF_SERIES = (
    *("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber"),
    *("NumberOfSeriesRelatedInstances", "PerformedProcedureStepStartDate"),
    *("PerformedProcedureStepStartTime", "RequestAttributesSequence"),
)
_OF_INSTANCES = (
    *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated"),
    *("NumberOfFrames", "AvailableTransferSyntaxUID"),
)


@dataclass
class Search:
    """What a client asks for: keys to match, and tags to answer besides the usual ones."""

    level: Level
    keys: Dataset
    included: set[int] = field(default_factory=set)
    everything: bool = False
    limit: int = MOST_RESULTS
    offset: int = 0
    warnings: list[str] = field(default_factory=list)


class Query:
    """The endpoints; plain functions run in threads, so the database may block them."""

    def __init__(self, holdings: Holdings, dicomweb: DicomwebSettings) -> None:
        self._holdings = holdings
        self._dicomweb = dicomweb

    def studies(self, request: Request) -> Response:
        """Answer studies."""
        return self._answer(request, Level.STUDY, _OF_STUDIES)

    def series(self, request: Request) -> Response:
        """Answer series, with their studies' attributes where the path names no study."""
        above = () if "study" in request.path_params else _OF_STUDIES
        return self._answer(request, Level.SERIES, (*above, *_OF_SERIES))

    def instances(self, request: Request) -> Response:
        """Answer instances, with attributes of what is above and not named by the path."""
        path = request.path_params
        above = () if "study" in path else _OF_STUDIES
        within = () if "series" in path else _OF_SERIES
        return self._answer(request, Level.IMAGE, (*above, *within, *_OF_INSTANCES))

    def _answer(self, request: Request, level: Level, usual: Iterable[str]) -> Response:
        form = acceptable(request).choose(FORMS, [Body.SINGLE]).form
        search = _search(request, level)
        shown = search.included | {tag_for_keyword(one) or 0 for one in (*_OF_ALL, *usual)}
        try:
            found = self._holdings.find(
                level, search.keys, limit=search.limit + 1, offset=search.offset
            )
            answers = list(found)
        except UnmatchableKeyError as error:
            raise HTTPException(400, f"{error}.") from None
        warnings = list(search.warnings)
        if len(answers) > search.limit and search.limit == MOST_RESULTS:
            warnings.append(_MORE)
        base = base_url(request, self._dicomweb)
        made = [
            _made(answer, base, None if search.everything else shown)
            for answer in answers[: search.limit]
        ]
        headers = {**HEADERS, **({"Warning": ", ".join(warnings)} if warnings else {})}
        return _response(made, form, headers)


def query_routes(query: Query) -> list[BaseRoute]:
    """Return the routes of searches."""
    return [
        Route("/studies", query.studies),
        Route("/series", query.series),
        Route("/instances", query.instances),
        Route("/studies/{study}/series", query.series),
        Route("/studies/{study}/instances", query.instances),
        Route("/studies/{study}/series/{series}/instances", query.instances),
    ]


def _response(made: list[Attributes], form: Form, headers: dict[str, str]) -> Response:
    if form.media_type != DICOM_XML:
        return Response(orjson.dumps(made), headers=headers, media_type=form.media_type)
    if not made:
        return Response(status_code=204, headers=headers)  # a body of no parts is none (RFC 2046)
    body = MultipartBody(DICOM_XML, [Part(DICOM_XML, "", [xml_of(one)]) for one in made])
    return Response(b"".join(body), headers=headers, media_type=body.content_type)


def _made(answer: Dataset, base: str, shown: set[int] | None) -> Attributes:
    """Return an answer with its RetrieveURL; of its attributes those `shown`, or all."""
    url = f"{base}/studies/{answer.StudyInstanceUID}"
    if "SeriesInstanceUID" in answer:
        url += f"/series/{answer.SeriesInstanceUID}"
    if "SOPInstanceUID" in answer:
        url += f"/instances/{answer.SOPInstanceUID}"
    kept = Dataset({tag: answer[tag] for tag in answer.keys() if shown is None or tag in shown})  # noqa: SIM118
    kept[_RETRIEVE_URL] = DataElement(_RETRIEVE_URL, "UR", url)
    return json_of(kept)


def _search(request: Request, level: Level) -> Search:
    """Read path and query parameters; raises HTTPException 400 that says which cannot be read."""
    search = Search(level, Dataset())
    for name, value in request.query_params.multi_items():
        _read_parameter(search, name, value)
    for tag in search.included - search.keys.keys():
        _set(search.keys, [BaseTag(tag)], "")
    keywords = ("StudyInstanceUID", "SeriesInstanceUID")
    for keyword, uid in zip(keywords, uids_of(request).values(), strict=False):
        setattr(search.keys, keyword, uid)
    return search


def _read_parameter(search: Search, name: str, value: str) -> None:
    match name.lower():
        case "limit":
            search.limit = min(_count(name, value), MOST_RESULTS)
        case "offset":
            search.offset = _count(name, value)
        case "includefield":
            for one in filter(None, value.split(",")):
                if one.lower() == ALL:
                    search.everything = True
                else:
                    search.included.add(_tags(one)[0])
        case "fuzzymatching":
            if value.lower() not in ("true", "false"):
                raise HTTPException(400, "fuzzymatching is true or false.")
            if value.lower() == "true":
                search.warnings.append(_NOT_FUZZY)
        case known if known in _IGNORED:
            pass
        case _:
            _match(search, name, value)


def _match(search: Search, name: str, value: str) -> None:
    tags = _tags(name)
    search.included.add(tags[0])
    _set(search.keys, tags, value)
    if value and unsupported(search.level, search.keys):
        raise HTTPException(
            400, f"{_shown(name)} cannot be matched here. It may be an attribute of a lower level."
        )


def _set(keys: Dataset, tags: list[BaseTag], value: str) -> None:
    """Set a key, in items of sequences where more than one tag leads to it."""
    for tag in tags[:-1]:
        if tag not in keys:
            keys[tag] = DataElement(tag, "SQ", [Dataset()])
        keys = keys[tag].value[0]
    tag = tags[-1]
    vr = dictionary_VR(tag)
    if vr == "SQ":
        keys[tag] = DataElement(tag, vr, [])
        return
    # A comma separates UIDs (PS3.18 Section 8.3.4.1), and is a character of all else.
    values = value.replace("\\", ",").split(",") if vr == "UI" else value
    try:
        keys[tag] = DataElement(tag, vr, values, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError):
        raise HTTPException(400, f"{_shown(f'{tag:08X}')} has a value that is none.") from None


def _tags(name: str) -> list[BaseTag]:
    """Return the tags that a name stands for: keywords or tags, with dots between them."""
    tags = []
    for step in name.split("."):
        number = tag_for_keyword(step)
        if number is None and len(step) == 8:
            try:
                number = int(step, 16)
                dictionary_VR(number)
            except (ValueError, KeyError):
                number = None
        if number is None:
            raise HTTPException(400, f"{_shown(name)} is no attribute: use its keyword or tag.")
        tags.append(BaseTag(number))
    if any(dictionary_VR(tag) != "SQ" for tag in tags[:-1]):
        raise HTTPException(400, f"{_shown(name)} leads through what is no sequence.")
    return tags


def _count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise HTTPException(400, f"{name} is a whole number from 0.")
    return int(value)


def _shown(name: str) -> str:
    """Return a parameter's name as it can be repeated: what it is not may be anything."""
    return name if name.isascii() and name.replace(".", "").isalnum() and len(name) <= 64 else "One"
