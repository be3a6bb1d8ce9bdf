"""A finding from an answer and its evidence: sides, sizes and slices are measured, never told."""

from inference.assessment import (
    Evidence,
    Finding,
    Mask,
    Measurement,
    Presence,
    Segment,
    Text,
)
from inference.coding import measurement
from inference.families.reading import Found
from inference.manifest import FindingSpec
from inference.segmenter import long_axis_mm
from inference.volume import Volume


def finding_of(
    volume: Volume,
    spec: FindingSpec,
    found: Found | None,
    *,
    probability: float,
    presence: Presence,
    reason: Text | None,
    number: int,
) -> Finding:
    """The finding; only one that is present keeps its evidence, as segment `number` if outlined."""
    evidence, laterality = None, None
    measurements: tuple[Measurement, ...] = ()
    if presence is Presence.PRESENT and found is not None:
        segment = number if found.mask is not None else None
        evidence = Evidence(segment=segment, slices=found.slices, best_slice=found.best_slice)
        laterality = found.laterality
        if found.mask is not None:
            measurements = _measurements(volume, found.mask, number)
    return Finding(
        name=spec.name,
        label=spec.label,
        code=spec.code,
        presence=presence,
        probability=probability,
        threshold=spec.threshold,
        site=spec.site,
        laterality=laterality,
        evidence=evidence,
        measurements=measurements,
        reason=reason,
    )


def segment_of(spec: FindingSpec, number: int) -> Segment:
    """What the outline of a finding is called in the SEG."""
    if spec.segment is None:
        raise ValueError(f"finding {spec.name} has an outline, but the manifest names no segment")
    return Segment(
        number=number,
        label=spec.label.en,
        category=spec.segment.category,
        type=spec.segment.type,
        site=spec.site,
    )


def _measurements(volume: Volume, mask: Mask, number: int) -> tuple[Measurement, ...]:
    volume_ml = round(int(mask.sum()) * volume.voxel_volume_ml, 2)
    axis_mm = round(long_axis_mm(mask, volume.grid.affine), 1)
    return (
        measurement("volume", volume_ml, "mL", number),
        measurement("long_axis", axis_mm, "mm", number),
    )
