"""Patient, study and equipment: what every object of ours takes from its source and says of itself.

Sources come from any modality and any decade: attributes are missing or empty, the character set
is whatever the hospital uses, text in sequences may still be undecoded bytes. `plain_headers` makes
one clean, decoded copy of what the writers need; everything else works on that.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache

from highdicom import ContributingEquipment
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import PersonName

from inference.assessment import PRIVATE_SCHEME, ModelIdentity
from sr_writer.identifiers import IMPLEMENTATION_UID, device_uid
from sr_writer.provenance import PRODUCT, Provenance

GB2312_ESCAPE = "\x1b$)A"
"""Announces ISO 2022 IR 58 (PS3.5 Annex K); pydicom 3.0 decodes the text but leaves this in it."""

_FRAMES = tag_for_keyword("PerFrameFunctionalGroupsSequence")

CONTENT_QUALIFICATION = "RESEARCH"
"""What no authority has approved for clinical use is no PRODUCT (PS3.3 C.12.1, C.8.13.2.1.1)."""

MIN_SERIES_NUMBER, MAX_SERIES_NUMBER = 1, 10_000_000
SERIES_NUMBER_WITHOUT_SOURCE = 90
MAX_UTC_OFFSET = timedelta(hours=14)
"""PS3.3 C.12.1.1.8: from -1200 to +1400."""

# PS3.3 Patient, General Study, Patient Study and Clinical Trial modules: Type 2, then optional.
ALWAYS_PRESENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
COPIED_IF_PRESENT = (
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "TimezoneOffsetFromUTC",
)
EVERY_SLICE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "AccessionNumber",
    "Modality",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "ImageOrientationPatient",
    "ImagePositionPatient",
)
FIRST_SLICE = (
    "SeriesNumber",
    "PositionReferenceIndicator",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "RequestAttributesSequence",
    "ReferencedRequestSequence",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
)


def plain_headers(sources: Sequence[Dataset]) -> list[Dataset]:
    """Return decoded copies of the attributes of `sources` that the writers use, in their order.

    The first carries the patient, the study and the order, with Type 2 attributes that the source
    lacks there but empty; all carry what tells slices apart. Text is Unicode, so that a copy can
    be written in any character set that encodes it.

    Raises
    ------
    ValueError
        Where a source does not say which object it is.
    """
    keywords = (*EVERY_SLICE, *ALWAYS_PRESENT, *COPIED_IF_PRESENT, *FIRST_SLICE)
    headers = [_identified(sources[0], keywords)]
    headers += [_identified(source, EVERY_SLICE) for source in sources[1:]]
    for keyword in ALWAYS_PRESENT:
        if keyword not in headers[0]:
            _set(headers[0], keyword, None)
    return headers


def _identified(source: Dataset, keywords: Iterable[str]) -> Dataset:
    """Return the copy of one source, its identity completed from the file meta where need be."""
    header = _copy(source, keywords)
    meta = getattr(source, "file_meta", Dataset())
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        value = header.get(keyword) or meta.get(f"MediaStorage{keyword}")
        if not value:
            raise ValueError(
                f"a source instance has no {keyword}, nor its file meta: have it resent"
            )
        setattr(header, keyword, UID(value))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not header.get(keyword):
            raise ValueError(f"source {header.SOPInstanceUID} has no {keyword}: have it resent")
    return header


def constructor_header(header: Dataset) -> Dataset:
    """Return `header` without values that highdicom's constructors reject.

    A hospital's birth date of `1950` or sex of `X` is its to correct, not ours to refuse a report
    for, and a name it finds odd it would quote in a warning, which ends in logs: `stamp` writes
    what the source said.
    """
    accepted = Dataset()
    accepted.update(header)
    for keyword in ALWAYS_PRESENT:
        _set(accepted, keyword, None)
    return accepted


def stamp(made: Dataset, header: Dataset, model: ModelIdentity, provenance: Provenance) -> None:
    """Give an object the identity of its source, the one right equipment item, and its time.

    highdicom adds an item for itself and for the scanner to Contributing Equipment, has no
    parameter for the Device UID, and takes the time from the clock: all three are set here.
    """
    for keyword in (*ALWAYS_PRESENT, *COPIED_IF_PRESENT):
        if keyword in header:
            made[keyword] = header[keyword]
    moment = _local(provenance.written_at, header)
    for name in ("InstanceCreation", "Series", "Content"):
        setattr(made, f"{name}Date", moment.strftime("%Y%m%d"))
        setattr(made, f"{name}Time", moment.strftime("%H%M%S"))
    _set(made, "SoftwareVersions", _software_versions(model, provenance))
    made.DeviceUID = device_uid(model)
    made.ContentQualification = CONTENT_QUALIFICATION
    made.StationName = provenance.station_name
    made.ContributingEquipmentSequence = [_equipment(model, provenance)]
    if _has_private_codes(made):
        made.CodingSchemeIdentificationSequence = [_private_scheme()]
    made.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    made.file_meta.ImplementationVersionName = f"OVERREAD {provenance.software_version}"[:16]
    del made.file_meta.FileMetaInformationGroupLength


def _private_scheme() -> CodingSchemeIdentificationItem:
    """Return the item that says whose the private codes are (PS3.3 C.12.1)."""
    return CodingSchemeIdentificationItem(
        PRIVATE_SCHEME,
        name="Overread concepts that no terminology has",
        responsible_organization="Overread project",
    )


def _has_private_codes(made: Dataset) -> bool:
    """Tell whether a code has no other scheme than ours; frames have codes of DCM alone."""
    parts = (made[tag] for tag in made.keys() if tag != _FRAMES)  # noqa: SIM118 - decodes them all
    return any(
        element.keyword == "CodingSchemeDesignator" and element.value == PRIVATE_SCHEME
        for part in parts
        if part.VR == "SQ"
        for item in part.value
        for element in item.iterall()
    )


def series_number(header: Dataset, offset: int) -> int:
    """Return a number that sorts our series right after its source: series 3 makes 381, 382, ..."""
    number = header.get("SeriesNumber")
    if number is None or not MIN_SERIES_NUMBER <= int(number) <= MAX_SERIES_NUMBER:
        number = SERIES_NUMBER_WITHOUT_SOURCE
    return int(number) * 100 + 80 + offset


def referenced_request(header: Dataset) -> list[Dataset]:
    """Return items of the Referenced Request Sequence (PS3.3 C.17.2) that the report answers.

    One for each order that the source names in its Request Attributes or its own Referenced
    Request Sequence; one of the accession number alone where it has neither; none without any.
    """
    orders = [
        *header.get("ReferencedRequestSequence", []),
        *header.get("RequestAttributesSequence", []),
    ]
    if not orders and (header.AccessionNumber or header.get("RequestedProcedureID")):
        orders = [header]
    return [_request(order, header) for order in orders]


def _request(order: Dataset, header: Dataset) -> Dataset:
    item = _copy(
        order,
        (
            "RequestedProcedureID",
            "RequestedProcedureDescription",
            "RequestedProcedureCodeSequence",
            "PlacerOrderNumberImagingServiceRequest",
            "FillerOrderNumberImagingServiceRequest",
            "ReasonForTheRequestedProcedure",
        ),
    )
    item.StudyInstanceUID = header.StudyInstanceUID
    item.AccessionNumber = order.get("AccessionNumber") or header.AccessionNumber
    for keyword in (
        "ReferencedStudySequence",
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
        "RequestedProcedureCodeSequence",
    ):
        if keyword not in item:
            _set(item, keyword, None)
    return item


def _software_versions(model: ModelIdentity, provenance: Provenance) -> list[str]:
    return [model.version, PRODUCT + provenance.software_version]


def _equipment(model: ModelIdentity, provenance: Provenance) -> ContributingEquipment:
    item = ContributingEquipment(
        manufacturer=model.manufacturer,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=model.name,
        software_versions=_software_versions(model, provenance),
        device_serial_number=model.digest[:64],
        station_name=provenance.station_name,
        contribution_datetime=provenance.written_at.strftime("%Y%m%d%H%M%S%z"),
        contribution_description="AI second opinion, unverified",
    )
    item.DeviceUID = device_uid(model)
    return item


def _local(moment: datetime, header: Dataset) -> datetime:
    """Return `moment` in the time zone that the source declares for its dates, else as given."""
    declared = str(header.get("TimezoneOffsetFromUTC") or "")
    if len(declared) != 5 or declared[0] not in "+-" or not declared[1:].isdigit():
        return moment
    offset = timedelta(hours=int(declared[1:3]), minutes=int(declared[3:]))
    if offset > MAX_UTC_OFFSET:
        return moment
    return moment.astimezone(timezone(-offset if declared[0] == "-" else offset))


def _copy(source: Dataset, keywords: Iterable[str]) -> Dataset:
    copied = Dataset()
    for keyword in keywords:
        tag, _ = _tag_and_vr(keyword)
        if tag in source:
            try:
                _set(copied, keyword, _decoded(source[tag]))
            except ValueError:  # a number that is none says no more than a missing one
                continue
    return copied


def _decoded(element: DataElement) -> object:
    """Return an element's value free of the source's character set."""
    if element.VR == "SQ":
        return [_decoded_item(item) for item in element.value]
    if element.VR == "PN" and element.value:
        return PersonName(str(element.value).replace(GB2312_ESCAPE, ""))
    if isinstance(element.value, str):
        return element.value.replace(GB2312_ESCAPE, "")
    return element.value


def _decoded_item(item: Dataset) -> Dataset:
    copied = Dataset()
    for element in item:
        if not element.tag.is_private:
            copied.add(DataElement(element.tag, element.VR, _decoded(element)))
    return copied


def _set(dataset: Dataset, keyword: str, value: object) -> None:
    """Set an attribute as it is, valid or not: what the source says is copied, never corrected."""
    tag, vr = _tag_and_vr(keyword)
    if vr == "SQ" and value is None:
        value = []
    dataset.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))


@cache
def _tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is not in the data dictionary")
    return BaseTag(tag), dictionary_VR(tag)
