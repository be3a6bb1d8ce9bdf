"""The content tree of TID 1500 Measurement Report, by IHE AI Results conventions.

A finding that is present is a Volumetric ROI group (TID 1411) on its segment. One that is absent
or undetermined has no region and stands in the Qualitative Evaluations container (TID 1500 row 12)
as question and answer, so that no group is without coordinates. Everything that is said in words
stands there too, in English and in Chinese, the latter marked by TID 1204.
"""

from collections.abc import Iterable, Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as StandardCode

from inference.assessment import AssessmentRecord, Finding, Measurement, Presence, Segment, Text
from sr_writer.coding import (
    CHINESE,
    ENGLISH,
    IMAGING_PROCEDURE,
    LATERALITY,
    PRESENCE,
    PROCEDURE_BY_MODALITY,
    QUALITATIVE_EVALUATIONS,
    concept,
)
from sr_writer.identifiers import device_uid, tracking
from sr_writer.image_library import image_library
from sr_writer.provenance import Provenance
from sr_writer.wording import intended_use, probability, statements

MEASUREMENT_DIGITS = 4
"""Significant digits: more than any segmentation is good for, and never rounded to nothing."""
PERCENT_DECIMALS = 1


def measurement_report(
    record: AssessmentRecord,
    headers: Sequence[Dataset],
    segmentation: Dataset | None,
    provenance: Provenance,
) -> sr.ContainerContentItem:
    """Return the root of the content tree.

    `headers` are those of the volume's slices, in slice order, or of whatever instances there are
    where nothing was assessed; slice indices of the record's evidence count in them.
    """
    root = sr.ContainerContentItem(name=codes.DCM.ImagingMeasurementReport, template_id="1500")
    content = sr.ContentSequence(is_root=False)
    content.extend(sr.LanguageOfContentItemAndDescendants(ENGLISH))
    content.extend(_observation_context(record, provenance))
    content.extend(_procedures_reported(headers[0]))
    referenced = _referenced_slices(record)
    if referenced:
        content.append(image_library([headers[index] for index in referenced]))
    groups = [
        _volumetric_group(finding, record, headers, segmentation, provenance)
        for finding in record.findings
        if finding.presence is Presence.PRESENT
    ]
    if groups:
        content.append(_imaging_measurements(groups))
    content.append(_qualitative_evaluations(record))
    root.ContentSequence = content
    return root


def _observation_context(record: AssessmentRecord, provenance: Provenance) -> sr.ObservationContext:
    model = record.model
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=device_uid(model),
                name=f"{model.name} {model.version}",
                manufacturer_name=model.manufacturer,
                model_name=model.name,
                serial_number=model.digest[:64],
                physical_location=provenance.station_name,
            ),
        )
    )


def _procedures_reported(header: Dataset) -> list[sr.CodeContentItem]:
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
            slices.update(finding.evidence.slices)
    return sorted(slices)


def _imaging_measurements(
    groups: Iterable[sr.VolumetricROIMeasurementsAndQualitativeEvaluations],
) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(
        name=codes.DCM.ImagingMeasurements, relationship_type=Relation.CONTAINS
    )
    container.ContentSequence = sr.ContentSequence([item for group in groups for item in group])
    return container


def _volumetric_group(
    finding: Finding,
    record: AssessmentRecord,
    headers: Sequence[Dataset],
    segmentation: Dataset | None,
    provenance: Provenance,
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    if finding.evidence is None or segmentation is None:
        raise ValueError(f"finding {finding.name} is present, but no segmentation shows it")
    segment = _segment(record, finding.evidence.segment)
    roi = tracking(segment, record.model, provenance)
    slices = [headers[index] for index in finding.evidence.slices]
    measurements = [_measurement(measurement) for measurement in finding.measurements]
    certainty = _certainty(finding)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=roi.uid, identifier=roi.identifier),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=segment.number,
            source_images=[
                sr.SourceImageForSegmentation(header.SOPClassUID, header.SOPInstanceUID)
                for header in slices
            ],
        ),
        finding_type=concept(finding.code),
        finding_category=concept(segment.category),
        finding_sites=_finding_sites(finding, segment),
        algorithm_id=_algorithm(record, finding),
        measurements=[*measurements, *([] if certainty is None else [certainty])],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(name=concept(finding.code), value=PRESENCE[Presence.PRESENT])
        ],
    )


def _segment(record: AssessmentRecord, number: int) -> Segment:
    return next(segment for segment in record.segments if segment.number == number)


def _finding_sites(finding: Finding, segment: Segment) -> list[sr.FindingSite]:
    site = finding.site or segment.site
    if site is None:
        if finding.laterality is not None:
            raise ValueError(f"finding {finding.name} has a side but no site that it is a side of")
        return []
    laterality = None if finding.laterality is None else LATERALITY[finding.laterality]
    return [sr.FindingSite(concept(site), laterality=laterality)]


def _measurement(measurement: Measurement) -> sr.Measurement:
    return sr.Measurement(
        name=concept(measurement.code),
        value=float(f"{measurement.value:.{MEASUREMENT_DIGITS}g}"),
        unit=concept(measurement.unit),
    )


def _certainty(finding: Finding) -> sr.Measurement | None:
    """Return the probability that the finding is present as Certainty of Finding, 0 to 100 %."""
    if finding.probability is None:
        return None
    return sr.Measurement(
        name=codes.DCM.CertaintyOfFinding,
        value=round(100 * finding.probability, PERCENT_DECIMALS),
        unit=codes.UCUM.Percent,
    )


def _algorithm(record: AssessmentRecord, finding: Finding | None) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name=record.model.name,
        version=record.model.version,
        manufacturer=record.model.manufacturer,
        parameters=None if finding is None else [f"decision threshold {finding.threshold:.4f}"],
    )


def _qualitative_evaluations(record: AssessmentRecord) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(
        name=QUALITATIVE_EVALUATIONS, relationship_type=Relation.CONTAINS
    )
    content = sr.ContentSequence()
    content.extend(_algorithm(record, None))
    for finding in record.findings:
        if finding.presence is not Presence.PRESENT:
            content.append(_answer(finding))
    for said in statements(record):
        content.extend(_texts(codes.DCM.Comment, said))
    if record.narrative is not None:
        content.extend(_texts(codes.DCM.Summary, record.narrative))
    for limitation in record.limitations:
        content.extend(_texts(codes.DCM.Comment, limitation))
    content.extend(_texts(codes.DCM.Comment, intended_use(record.model)))
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
    certainty = _certainty(finding)
    if certainty is not None:
        certainty[0].RelationshipType = Relation.HAS_PROPERTIES.value
        properties.extend(certainty)
    for said in (probability(finding), finding.reason):
        if said is not None:
            properties.extend(_texts(codes.DCM.Comment, said, Relation.HAS_PROPERTIES))
    if len(properties) > 0:
        answer.ContentSequence = properties
    return answer


def _texts(
    name: StandardCode, said: Text, relation: Relation = Relation.CONTAINS
) -> list[sr.TextContentItem]:
    """Return `said` as two items; the document's language is English, so only Chinese is marked."""
    english = sr.TextContentItem(name=name, value=said.en, relationship_type=relation)
    chinese = sr.TextContentItem(name=name, value=said.zh, relationship_type=relation)
    chinese.ContentSequence = sr.LanguageOfContentItemAndDescendants(CHINESE)
    return [english, chinese]
