"""Measurement groups of TID 1500: each finding that is present, on the evidence that shows it.

One that is outlined is a Volumetric ROI group (TID 1411) on its segment. One that slices alone show
is a group (TID 1501) on these as Source of Measurement, and has no measurement but its certainty.
"""

from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.assessment import (
    AssessmentRecord,
    Code,
    Evidence,
    Finding,
    Measurement,
    ModelIdentity,
    Presence,
    Segment,
)
from sr_writer.coding import LATERALITY, PRESENCE, concept
from sr_writer.identifiers import Tracking, finding_tracking, tracking
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, each_once

MEASUREMENT_DIGITS = 4
"""Significant digits: more than any segmentation is good for, and never rounded to nothing."""
PERCENT_DECIMALS = 1

Group = (
    sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations
)


def measurement_group(
    finding: Finding,
    record: AssessmentRecord,
    images: Sequence[SourceImage],
    segmentation: Dataset | None,
    provenance: Provenance,
) -> Group:
    """Return the group of a finding that is present, its evidence indices of `images`.

    Raises
    ------
    ValueError
        Where a finding has no evidence, an outline that no segmentation shows, a measurement of
        nothing that is outlined, or a side of no site.
    """
    evidence = finding.evidence
    if evidence is None:
        raise ValueError(f"finding {finding.name} is present without evidence")
    if evidence.segment is None:
        return _on_slices(finding, evidence, record.model, images, provenance)
    if segmentation is None:
        raise ValueError(f"finding {finding.name} is present, but no segmentation shows it")
    segment = next(each for each in record.segments if each.number == evidence.segment)
    slices = each_once(images[index] for index in evidence.slices)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_identifier(tracking(segment, record.model, provenance)),
        referenced_segment=_referenced_segment(segment, segmentation, slices),
        finding_type=concept(finding.code),
        finding_category=concept(segment.category),
        finding_sites=_finding_sites(finding, finding.site or segment.site),
        algorithm_id=algorithm(record.model, finding),
        measurements=[*map(_measurement, finding.measurements), *certainty_of_finding(finding)],
        qualitative_evaluations=_present(finding),
    )


def best_first(evidence: Evidence) -> list[int]:
    """Return the slices that show a finding, the one that shows it best before the others."""
    others = (index for index in evidence.slices if index != evidence.best_slice)
    return [evidence.best_slice, *others]


def certainty_of_finding(finding: Finding) -> list[sr.Measurement]:
    """Return the probability that the finding is present, 0 to 100 %, where there is one."""
    if finding.probability is None:
        return []
    return [
        sr.Measurement(
            name=codes.DCM.CertaintyOfFinding,
            value=round(100 * finding.probability, PERCENT_DECIMALS),
            unit=codes.UCUM.Percent,
        )
    ]


def algorithm(model: ModelIdentity, finding: Finding | None = None) -> sr.AlgorithmIdentification:
    """Return who says it, and by which threshold where it is a finding (TID 4019)."""
    return sr.AlgorithmIdentification(
        name=model.name,
        version=model.version,
        manufacturer=model.manufacturer,
        parameters=None if finding is None else [f"decision threshold {finding.threshold:.4f}"],
    )


def _on_slices(
    finding: Finding,
    evidence: Evidence,
    model: ModelIdentity,
    images: Sequence[SourceImage],
    provenance: Provenance,
) -> sr.MeasurementsAndQualitativeEvaluations:
    if finding.measurements:
        raise ValueError(f"finding {finding.name} is measured, but no segment of it was made")
    slices = each_once(images[index] for index in best_first(evidence))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_identifier(finding_tracking(finding, model, provenance)),
        finding_type=concept(finding.code),
        finding_sites=_finding_sites(finding, finding.site),
        algorithm_id=algorithm(model, finding),
        measurements=certainty_of_finding(finding),
        qualitative_evaluations=_present(finding),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                image.header.SOPClassUID, image.header.SOPInstanceUID, _frames(image)
            )
            for image in slices
        ],
    )


def _identifier(roi: Tracking) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=roi.uid, identifier=roi.identifier)


def _referenced_segment(
    segment: Segment, segmentation: Dataset, slices: Sequence[SourceImage]
) -> sr.ReferencedSegment:
    return sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=segment.number,
        source_images=[
            sr.SourceImageForSegmentation(
                image.header.SOPClassUID, image.header.SOPInstanceUID, _frames(image)
            )
            for image in slices
        ],
    )


def _frames(image: SourceImage) -> list[int] | None:
    return None if image.frame is None else [image.frame]


def _finding_sites(finding: Finding, site: Code | None) -> list[sr.FindingSite]:
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


def _present(finding: Finding) -> list[sr.QualitativeEvaluation]:
    return [sr.QualitativeEvaluation(name=concept(finding.code), value=PRESENCE[Presence.PRESENT])]
