"""The content tree of TID 1500 Measurement Report, by IHE AI Results conventions.

A finding that is present has measurement groups on its evidence. One that is absent or undetermined
has none and stands in the Qualitative Evaluations container (TID 1500 row 12), a question and its
answer. All that is said in words stands there too, in English and in Chinese where there is both,
the latter marked by TID 1204.
"""

from collections.abc import Iterable

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as StandardCode

from inference.assessment import AssessmentRecord, Finding, Presence
from sr_writer.coding import (
    ENGLISH,
    IMAGING_PROCEDURE,
    PRESENCE,
    PROCEDURE_BY_MODALITY,
    QUALITATIVE_EVALUATIONS,
    concept,
)
from sr_writer.content_items import texts
from sr_writer.image_library import image_library
from sr_writer.image_regions import Subject
from sr_writer.measurement_groups import (
    Group,
    algorithm,
    best_first,
    certainty_of_finding,
    measurement_groups,
)
from sr_writer.observer import device_observer
from sr_writer.provenance import Provenance
from sr_writer.source_images import each_once
from sr_writer.wording import intended_use, narrative, probability, statements


def measurement_report(
    subject: Subject, segmentation: Dataset | None, provenance: Provenance
) -> sr.ContainerContentItem:
    """Return the root of the content tree."""
    record, images = subject.record, subject.images
    root = sr.ContainerContentItem(name=codes.DCM.ImagingMeasurementReport, template_id="1500")
    content = sr.ContentSequence(is_root=False)
    content.extend(sr.LanguageOfContentItemAndDescendants(ENGLISH))
    content.extend(observation_context(record, provenance))
    content.extend(procedures_reported(images[0].header))
    referenced = _referenced_slices(record)
    if referenced:
        content.append(image_library(each_once(images[index] for index in referenced)))
    groups = [
        group
        for finding in record.findings
        if finding.presence is Presence.PRESENT
        for group in measurement_groups(finding, subject, segmentation, provenance)
    ]
    if groups:
        content.append(_imaging_measurements(groups))
    content.append(_qualitative_evaluations(record))
    root.ContentSequence = content
    return root


def observation_context(record: AssessmentRecord, provenance: Provenance) -> sr.ObservationContext:
    """Return who observed: the model, a device (TID 1001, TID 1004)."""
    return sr.ObservationContext(observer_device_context=device_observer(record.model, provenance))


def procedures_reported(header: Dataset) -> list[sr.CodeContentItem]:
    """Return the procedures that a source's header names, or its modality's unspecific one."""
    performed: list[sr.CodedConcept | StandardCode] = [
        sr.CodedConcept.from_dataset(item)
        for item in header.get("ProcedureCodeSequence", [])
        if _is_whole(item)
    ]
    by_modality = PROCEDURE_BY_MODALITY.get(header.get("Modality", ""), IMAGING_PROCEDURE)
    return [
        sr.CodeContentItem(
            name=codes.DCM.ProcedureReported,
            value=procedure,
            relationship_type=Relation.HAS_CONCEPT_MOD,
        )
        for procedure in performed or [by_modality]
    ]


def _is_whole(code: Dataset) -> bool:
    """Return whether a source's code has all its parts, none too long (PS3.5 Table 6.2-1)."""
    limits = (("CodeValue", 16), ("CodingSchemeDesignator", 16), ("CodeMeaning", 64))
    return all(0 < len(str(code.get(keyword) or "")) <= limit for keyword, limit in limits)


def _referenced_slices(record: AssessmentRecord) -> list[int]:
    slices = set(record.key_slices)
    for finding in record.findings:
        if finding.presence is Presence.PRESENT and finding.evidence is not None:
            slices.update(best_first(finding.evidence))
    return sorted(slices)


def _imaging_measurements(groups: Iterable[Group]) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(
        name=codes.DCM.ImagingMeasurements, relationship_type=Relation.CONTAINS
    )
    container.ContentSequence = sr.ContentSequence([item for group in groups for item in group])
    return container


def _qualitative_evaluations(record: AssessmentRecord) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(
        name=QUALITATIVE_EVALUATIONS, relationship_type=Relation.CONTAINS
    )
    content = sr.ContentSequence()
    content.extend(algorithm(record.model))
    for finding in record.findings:
        if finding.presence is not Presence.PRESENT:
            content.append(_answer(finding))
    for said in statements(record):
        content.extend(texts(codes.DCM.Comment, said))
    written = narrative(record)
    if written is not None:
        content.extend(texts(codes.DCM.Summary, written))
    for limitation in record.limitations:
        content.extend(texts(codes.DCM.Comment, limitation))
    content.extend(texts(codes.DCM.Comment, intended_use(record.model)))
    container.ContentSequence = content
    return container


def _answer(finding: Finding) -> sr.CodeContentItem:
    """Return a finding without region: the question, the answer, and what the answer rests on."""
    answer = sr.CodeContentItem(
        name=concept(finding.code),
        value=PRESENCE[finding.presence],
        relationship_type=Relation.CONTAINS,
    )
    properties = sr.ContentSequence()
    for certainty in certainty_of_finding(finding):
        certainty[0].RelationshipType = Relation.HAS_PROPERTIES.value
        properties.extend(certainty)
    for said in (probability(finding), finding.reason):
        if said is not None:
            properties.extend(texts(codes.DCM.Comment, said, Relation.HAS_PROPERTIES))
    if len(properties) > 0:
        answer.ContentSequence = properties
    return answer
