"""Measurement groups of TID 1500: each finding that is present, on the evidence that shows it.

One that is outlined is a Volumetric ROI group (TID 1411) on its segment, or for receivers of no
SEG on its outlines, image by image. One that slices alone show is a group (TID 1501) on these as
Source of Measurement, and has no measurement but its certainty.

Viewers that know no segments find the way by another group of the same tracking UID, a Planar ROI
group (TID 1410) on the best slice. It goes first, since they take the first region of a tracking
UID, and measures nothing: the numbers are those of the other group.
"""

from collections.abc import Sequence
from typing import Any

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.assessment import (
    Code,
    Evidence,
    Finding,
    Measurement,
    ModelIdentity,
    Presence,
    Segment,
)
from sr_writer.coding import LATERALITY, PRESENCE, concept
from sr_writer.content_items import texts
from sr_writer.identifiers import Tracking, finding_tracking, tracking
from sr_writer.image_regions import Subject, best_region, outline_regions
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, each_once
from sr_writer.wording import place_label

MEASUREMENT_DIGITS = 4
"""Significant digits: more than any segmentation is good for, and never rounded to nothing."""
PERCENT_DECIMALS = 1

Group = (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)


def measurement_groups(
    finding: Finding, subject: Subject, segmentation: Dataset | None, provenance: Provenance
) -> list[Group]:
    """Return the groups of a finding that is present, for its place and for what was found there.

    Without a `segmentation` outlines are drawn. They cannot be in a mosaic, where the place of a
    tile is not known here: there the finding is on the mosaic, and what was measured is left out.

    Raises
    ------
    ValueError
        Where a finding has no evidence, a segment that is not on its best slice, a measurement of
        nothing that is outlined, or a side of no site.
    """
    evidence = finding.evidence
    if evidence is None:
        raise ValueError(f"finding {finding.name} is present without evidence")
    if evidence.segment is None:
        return _on_slices(finding, evidence, subject, provenance)
    if segmentation is None and subject.images[evidence.best_slice].is_tile:
        unmeasured = finding.model_copy(update={"measurements": ()})
        return _on_slices(unmeasured, evidence, subject, provenance)
    record = subject.record
    segment = next(each for each in record.segments if each.number == evidence.segment)
    roi = tracking(segment, record.model, provenance)
    place = _place(finding, evidence, roi, segment, subject)
    described = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        **_description(finding, roi, segment, record.model),
        **_outline(segment, evidence, subject, segmentation),
        measurements=[*map(_measurement, finding.measurements), *certainty_of_finding(finding)],
    )
    return [place, described]


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
    finding: Finding, evidence: Evidence, subject: Subject, provenance: Provenance
) -> list[Group]:
    if finding.measurements:
        raise ValueError(f"finding {finding.name} is measured, but no segment of it was made")
    model = subject.record.model
    slices = each_once(subject.images[index] for index in best_first(evidence))
    roi = finding_tracking(finding, model, provenance)
    place = _place(finding, evidence, roi, None, subject)
    described = sr.MeasurementsAndQualitativeEvaluations(
        **_description(finding, roi, None, model),
        measurements=certainty_of_finding(finding),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                image.header.SOPClassUID, image.header.SOPInstanceUID, _frames(image)
            )
            for image in slices
        ],
    )
    return [place, described]


def _place(
    finding: Finding, evidence: Evidence, roi: Tracking, segment: Segment | None, subject: Subject
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        **_description(finding, roi, segment, subject.record.model),
        referenced_region=best_region(evidence, subject),
        geometric_purpose=codes.cid219.BoundedBy,
    )
    is_outlined = segment is not None and not subject.images[evidence.best_slice].is_tile
    said = place_label(finding, is_outlined=is_outlined)
    group[0].ContentSequence.extend(texts(codes.DCM.Comment, said))
    return group


def _description(
    finding: Finding, roi: Tracking, segment: Segment | None, model: ModelIdentity
) -> dict[str, Any]:
    """Return what both groups of a finding say of it, in items of their own."""
    site = finding.site or (None if segment is None else segment.site)
    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=roi.uid, identifier=roi.identifier),
        "finding_type": concept(finding.code),
        "finding_category": None if segment is None else concept(segment.category),
        "finding_sites": _finding_sites(finding, site),
        "algorithm_id": algorithm(model, finding),
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(name=concept(finding.code), value=PRESENCE[Presence.PRESENT])
        ],
    }


def _outline(
    segment: Segment, evidence: Evidence, subject: Subject, segmentation: Dataset | None
) -> dict[str, Any]:
    """Return what outlines a finding: the segment, or the outlines of it."""
    if segmentation is not None:
        slices = each_once(subject.images[index] for index in evidence.slices)
        return {"referenced_segment": _referenced_segment(segment, segmentation, slices)}
    regions = [
        region
        for index in evidence.slices
        for region in outline_regions(segment.number, index, subject)
    ]
    return {"referenced_regions": regions, "geometric_purpose": codes.cid219.Outline}


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
