"""What the gate asks of measurement groups: a finding that is present, on evidence that is there.

The evidence of a Volumetric ROI group (TID 1411) is a segment of the SEG that is sent along, or for
who takes none its outlines; that of a group without region (TID 1501) are images of the volume.
Each has a partner of the same tracking, a Planar ROI group (TID 1410), whose region has to be where
the evidence is.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from sr_writer.coding import FINDING_CATEGORY
from sr_writer.content_items import is_named, name_of, number_of, value_of, walk
from sr_writer.plane_conformance import Images, images_by_reference
from sr_writer.region_conformance import (
    Matrices,
    box_around,
    check_region,
    enclosed,
    is_around,
    is_box_around,
    is_whole_image,
    lies_on,
    line_of,
    regions_of,
)
from sr_writer.segmentation_reading import ReadSegmentation, ShownSegment
from sr_writer.source_images import Reference, SourceImage, even_step, places, reference_of

VOLUME_FACTOR = 2.0
"""A volume and its segment may differ this much in how edges are counted; a wrong unit is 1000."""
UNEVEN_VOLUME_FACTOR = 30.0
"""The same where images are unevenly spaced: much of what was measured may lie between them."""
ML_PER_UNIT = {"mL": 1.0, "ml": 1.0, "cm3": 1.0, "mm3": 0.001, "L": 1000.0}
VOLUME = codes.SCT.Volume.value
GEOMETRIC_PURPOSE = "130400"
"""DCM code value; pydicom's dictionary lacks the concept, highdicom writes it."""
CERTAINTY = codes.DCM.CertaintyOfFinding.value

PLACE, ON_SEGMENT, ON_SLICES = "1410", "1411", "1501"
Place = tuple[str, int]
"""What a tracking UID follows: a SEG's SOP Instance UID and a segment number in it, or a group."""

ONCE = (
    codes.DCM.TrackingIdentifier,
    codes.DCM.TrackingUniqueIdentifier,
    codes.DCM.Finding,
    codes.DCM.AlgorithmName,
    codes.DCM.AlgorithmVersion,
)


def check_groups(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    segmentations: Mapping[str, ReadSegmentation],
) -> Iterator[str]:
    """Yield what is wrong with the measurement groups of an SR about `images` of `headers`.

    `segmentations` are those that are sent along, by SOP Instance UID.
    """
    groups = [item for item in walk(made) if is_named(item, codes.DCM.MeasurementGroup)]
    named = images_by_reference(images)
    matrices = {
        str(header.SOPInstanceUID): (int(header.get("Rows", 0)), int(header.get("Columns", 0)))
        for header in headers
    }
    whole = []
    for group in groups:
        problems = list(_check_group(group))
        if not problems:
            problems += _check_evidence(group, images, segmentations)
            for region in regions_of(group.ContentSequence):
                problems += check_region(region, named, matrices)
        yield from problems
        if not problems:
            whole.append(group)
    if len(whole) < len(groups):
        return
    for group in groups:
        if _is_outlined(group):
            yield from _check_outlines(group.ContentSequence, images, segmentations)
    yield from _check_places(groups, named, matrices, segmentations)
    yield from _check_tracking(groups, segmentations)


def _check_group(group: Dataset) -> Iterator[str]:
    items = group.get("ContentSequence", [])
    for code in ONCE:
        if sum(is_named(item, code) for item in items) != 1:
            yield f"measurement group has not exactly one {code.meaning}; write it"
            return
    findings = [value_of(item) for item in items if is_named(item, codes.DCM.Finding)]
    answers = [
        value_of(item)
        for item in items
        if item.get("ValueType") == "CODE" and name_of(item) in findings
    ]
    if answers != [codes.SCT.Present.value]:
        yield "measurement group does not say that its finding is present; only such have a group"


def _check_evidence(
    group: Dataset, images: Sequence[SourceImage], segmentations: Mapping[str, ReadSegmentation]
) -> Iterator[str]:
    items, template = group.get("ContentSequence", []), _template(group)
    if _is_outlined(group):
        if not _has_purpose(items, codes.cid219.Outline):
            yield "measurement group does not call its regions an Outline; write what they are"
    elif template == ON_SEGMENT:
        yield from _check_segment(items, images, segmentations)
    elif template == ON_SLICES:
        yield from _check_slices(items, {image.reference for image in images})
    elif template == PLACE:
        if any(item.get("ValueType") == "NUM" for item in items):
            yield "measurement group of TID 1410 measures; only its partner may, leave it out"
        if len(regions_of(items)) != 1 or not _has_purpose(items, codes.cid219.BoundedBy):
            yield "measurement group of TID 1410 has not exactly one Image Region, a box; write it"
    else:
        yield f"measurement group is of template {template}; write TID 1410, 1411 or 1501"


def _check_places(
    groups: Sequence[Dataset],
    named: Images,
    matrices: Matrices,
    segmentations: Mapping[str, ReadSegmentation],
) -> Iterator[str]:
    """Yield where a finding has no region for viewers without SEG, or one that is not its own."""
    places = [group for group in groups if _template(group) == PLACE]
    findings = [group for group in groups if _template(group) != PLACE]
    if sorted(map(_identity, places)) != sorted(map(_identity, findings)):
        yield "findings and groups of TID 1410 have not the same tracking; write one for each"
        return
    for place in places:
        (region,) = regions_of(place.ContentSequence)
        partner = next(each for each in findings if _identity(each) == _identity(place))
        yield from _check_place(region, partner, named, matrices, segmentations)


def _check_place(
    region: Dataset,
    partner: Dataset,
    named: Images,
    matrices: Matrices,
    segmentations: Mapping[str, ReadSegmentation],
) -> Iterator[str]:
    reference = lies_on(region)
    items = partner.ContentSequence
    shown = {
        reference_of(item.ReferencedSOPSequence[0])
        for item in items
        if is_named(item, codes.DCM.SourceImageForSegmentation)
        or is_named(item, codes.DCM.SourceOfMeasurement)
    } | set(map(lies_on, regions_of(items)))
    if reference not in shown:
        yield "Image Region lies on an image that does not show its finding; correct the reference"
    elif _template(partner) == ON_SLICES or len(named[reference]) > 1:
        if not is_whole_image(region, matrices):
            yield "Image Region is not the whole image, but nothing outlines its finding there"
    elif _is_outlined(partner):
        if not is_box_around(region, regions_of(items)):
            yield "Image Region is not the box around the outlines on its image; draw it again"
    else:
        segment = next(item for item in items if is_named(item, codes.DCM.ReferencedSegment))
        uid, number = _place(segment)
        if not is_around(line_of(region), segmentations[uid], (number, reference)):
            yield "Image Region is not the box around the segment on its image; draw it again"


def _check_outlines(
    items: Sequence[Dataset],
    images: Sequence[SourceImage],
    segmentations: Mapping[str, ReadSegmentation],
) -> Iterator[str]:
    """Yield where outlines are not those of the segment of their tracking UID, if it is there.

    They enclose holes too, so that without the SEG a volume can only be compared roughly.
    """
    drawn: dict[Reference, list[Dataset]] = {}
    for region in regions_of(items):
        drawn.setdefault(lies_on(region), []).append(region)
    for segmentation in segmentations.values():
        for number, segment in segmentation.segments.items():
            if segment.description.get("TrackingUID") == _tracking_uid(items):
                yield from _check_region_lines(drawn, segmentation, number)
                yield from _check_volume(items, segment, images, is_exact=segmentation.is_exact)
                return
    along = places([image.header for image in images])
    reach = dict(zip((image.reference for image in images), np.gradient(along), strict=True))
    pixel = float(np.prod([float(each) for each in images[0].header.PixelSpacing]))
    most = sum(
        pixel * float(reach[reference]) * sum(map(enclosed, regions)) / 1000.0
        for reference, regions in drawn.items()
    )
    for stated in _stated_volumes(items):
        if not most / UNEVEN_VOLUME_FACTOR <= stated <= most * VOLUME_FACTOR:
            yield "Volume is far from what the outlines enclose; check value and unit"


def _check_region_lines(
    drawn: Mapping[Reference, Sequence[Dataset]], segmentation: ReadSegmentation, number: int
) -> Iterator[str]:
    shown = segmentation.segments[number].frames.keys()
    if drawn.keys() != shown if segmentation.is_exact else not drawn.keys() <= shown:
        yield "Image Regions lie on other images than the segment's frames; match them"
    for reference, regions in drawn.items():
        if not is_around(box_around(regions), segmentation, (number, reference)):
            yield "Image Regions are not the outlines of the segment; draw them again"
            return


def _is_outlined(group: Dataset) -> bool:
    """Return whether a group has outlines in the place of a segment."""
    items = group.get("ContentSequence", [])
    referenced = any(is_named(item, codes.DCM.ReferencedSegment) for item in items)
    return _template(group) == ON_SEGMENT and not referenced and bool(regions_of(items))


def _has_purpose(items: Sequence[Dataset], purpose: Code) -> bool:
    said = [value_of(item) for item in items if name_of(item) == GEOMETRIC_PURPOSE]
    return said == [purpose.value]


def _identity(group: Dataset) -> tuple[str, ...]:
    """Return what the two groups of a finding have in common."""
    codings = {code.value: "" for code in ONCE}
    for item in group.ContentSequence:
        if name_of(item) in codings:
            said = item.get("UID") or item.get("TextValue") or value_of(item)
            codings[name_of(item)] = str(said)
    return tuple(codings.values())


def _check_segment(
    items: Sequence[Dataset],
    images: Sequence[SourceImage],
    segmentations: Mapping[str, ReadSegmentation],
) -> Iterator[str]:
    regions = [item for item in items if is_named(item, codes.DCM.ReferencedSegment)]
    if len(regions) != 1:
        yield "measurement group of TID 1411 has not exactly one Referenced Segment; write it"
        return
    uid, number = _place(regions[0])
    segmentation = segmentations.get(uid)
    if segmentation is None or number not in segmentation.segments:
        yield "Referenced Segment is in no SEG that is sent along; correct the reference"
        return
    segment = segmentation.segments[number]
    yield from _check_region(items, segment, is_exact=segmentation.is_exact)
    yield from _check_volume(items, segment, images, is_exact=segmentation.is_exact)


def _check_region(
    items: Sequence[Dataset], segment: ShownSegment, *, is_exact: bool
) -> Iterator[str]:
    for code, keyword in (
        (codes.DCM.TrackingIdentifier, "TrackingID"),
        (codes.DCM.TrackingUniqueIdentifier, "TrackingUID"),
    ):
        item = next(item for item in items if is_named(item, code))
        if (item.get("UID") or item.get("TextValue")) != segment.description.get(keyword):
            yield f"{code.meaning} is not the segment's {keyword}; use one for both"
    categories = [value_of(item) for item in items if name_of(item) == FINDING_CATEGORY]
    described = segment.description.get("SegmentedPropertyCategoryCodeSequence") or [Dataset()]
    if categories != [described[0].get("CodeValue")]:
        yield "Finding category is not the segment's property category; take it from the segment"
    slices = {
        reference_of(item.ReferencedSOPSequence[0])
        for item in items
        if is_named(item, codes.DCM.SourceImageForSegmentation)
    }
    if slices != segment.frames.keys() if is_exact else not slices <= segment.frames.keys():
        yield "Source Image for Segmentation names other slices than the segment's frames; match"


def _check_volume(
    items: Sequence[Dataset],
    segment: ShownSegment,
    images: Sequence[SourceImage],
    *,
    is_exact: bool,
) -> Iterator[str]:
    is_even = even_step([image.header for image in images]) is not None
    factor = VOLUME_FACTOR if is_even else UNEVEN_VOLUME_FACTOR
    most = segment.volume_ml * factor
    least = segment.volume_ml / factor if is_exact else 0.0
    if not all(least < stated <= most for stated in _stated_volumes(items)):
        yield "Volume is far from that of the segment's voxels; check value and unit"


def _stated_volumes(items: Sequence[Dataset]) -> Iterator[float]:
    """Yield the volumes that a group states, in millilitres."""
    for item in items:
        if name_of(item) == VOLUME and item.get("MeasuredValueSequence"):
            unit = item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].get("CodeValue")
            yield (number_of(item) or 0.0) * ML_PER_UNIT.get(unit, 0.0)


def _check_slices(items: Sequence[Dataset], slices: set[Reference]) -> Iterator[str]:
    images = [item for item in items if item.get("ValueType") == "IMAGE"]
    shown = [reference_of(image.ReferencedSOPSequence[0]) for image in images]
    if not images:
        yield "measurement group of TID 1501 refers to no slice; name what shows its finding"
    if not all(is_named(image, codes.DCM.SourceOfMeasurement) for image in images):
        yield "measurement group of TID 1501 may refer to Source of Measurement only; correct it"
    if not set(shown) <= slices:
        yield "Source of Measurement is no slice of the source series; correct the reference"
    if len(set(shown)) < len(shown):
        yield "Source of Measurement names a slice twice; name each once"
    if any(item.get("ValueType") == "NUM" and name_of(item) != CERTAINTY for item in items):
        yield "measurement group of TID 1501 measures what nothing outlines; leave the number out"


def _check_tracking(
    groups: Sequence[Dataset], segmentations: Mapping[str, ReadSegmentation]
) -> Iterator[str]:
    """Yield where a tracking UID follows two things; findings on one segment share its UID."""
    places: dict[str, Place] = {
        str(segment.description.get("TrackingUID")): (uid, number)
        for uid, segmentation in segmentations.items()
        for number, segment in segmentation.segments.items()
    }
    for index, group in enumerate(groups):
        if _template(group) == PLACE:
            continue
        items = group.get("ContentSequence", [])
        segments = [item for item in items if is_named(item, codes.DCM.ReferencedSegment)]
        place = _place(segments[0]) if segments else ("group", index)
        if _is_outlined(group):
            place = places.get(_tracking_uid(items), place)
        for item in items:
            if is_named(item, codes.DCM.TrackingUniqueIdentifier) and (
                places.setdefault(str(item.get("UID")), place) != place
            ):
                yield "Tracking Unique Identifier is the same for two regions; derive one for each"


def _place(region: Dataset) -> Place:
    reference = region.ReferencedSOPSequence[0]
    return (
        str(reference.get("ReferencedSOPInstanceUID")),
        int(reference.get("ReferencedSegmentNumber", 0)),
    )


def _template(group: Dataset) -> str:
    templates = group.get("ContentTemplateSequence") or [Dataset()]
    return str(templates[0].get("TemplateIdentifier"))


def _tracking_uid(items: Sequence[Dataset]) -> str:
    return next(
        str(item.UID) for item in items if is_named(item, codes.DCM.TrackingUniqueIdentifier)
    )
