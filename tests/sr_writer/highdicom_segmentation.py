"""A SEG by highdicom's own constructor, and where one of ours differs from it, and may."""

import highdicom as hd
from pydicom.sr.codedict import codes

from sr_writer.coding import concept
from sr_writer.encoding import UTF_8
from sr_writer.identifiers import object_uid, tracking
from sr_writer.segmentation import COLOURS
from tests.sr_writer.series import PROVENANCE

ON_PURPOSE = {
    # of the assessment and the model, not of the moment and the library
    "InstanceCreationDate",
    "InstanceCreationTime",
    "SeriesDate",
    "SeriesTime",
    "ContentDate",
    "ContentTime",
    "ContentQualification",
    "ContributingEquipmentSequence",
    "DeviceUID",
    "SoftwareVersions",
    "StationName",
    # Type 2, which highdicom leaves out
    "ContentCreatorName",
    # derived, where highdicom takes one at random
    "DimensionIndexSequence/DimensionOrganizationUID",
    "DimensionOrganizationSequence/DimensionOrganizationUID",
}


def by_highdicom(assessment, volume, form, pixels, headers):
    """The SEG by highdicom's constructor alone, from plain headers of the whole series."""
    model = assessment.record.model
    measures = hd.PixelMeasuresSequence(
        pixel_spacing=volume.sources[0].PixelSpacing,
        slice_thickness=volume.sources[0].SliceThickness,
        spacing_between_slices=volume.grid.spacing[0],
    )
    return hd.seg.Segmentation(
        source_images=headers,
        pixel_array=pixels,
        segmentation_type=form.upper(),
        segment_descriptions=[described(each, model) for each in assessment.record.segments],
        series_instance_uid=object_uid("SEG series", model, PROVENANCE),
        series_number=382,
        sop_instance_uid=object_uid("SEG", model, PROVENANCE),
        instance_number=1,
        manufacturer=model.manufacturer,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.digest[:64],
        content_label="AI_UNVERIFIED",
        content_description="Overread AI segmentation (unverified)",
        series_description="Overread AI segmentation (unverified)",
        specific_character_set=UTF_8,
        pixel_measures=measures,
    )


def described(segment, model):
    roi = tracking(segment, model, PROVENANCE)
    return hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model.name,
            family=codes.cid7162.ArtificialIntelligence,
            version=model.version,
            source=model.manufacturer,
        ),
        tracking_uid=roi.uid,
        tracking_id=roi.identifier,
        anatomic_regions=[concept(segment.site)],
        display_color=COLOURS[(segment.number - 1) % len(COLOURS)],
    )


def differences(ours, theirs, where=""):
    """Paths of attributes that are missing on a side or have another value or representation."""
    for tag in sorted({*ours.keys(), *theirs.keys()}):
        keyword = (ours if tag in ours else theirs)[tag].keyword
        if tag not in ours or tag not in theirs or ours[tag].VR != theirs[tag].VR:
            yield f"{where}{keyword}"
        elif is_walked(ours[tag], theirs[tag]):
            for our_item, their_item in zip(ours[tag].value, theirs[tag].value, strict=True):
                yield from differences(our_item, their_item, f"{where}{keyword}/")
        elif value_of(ours, keyword) != value_of(theirs, keyword):
            yield f"{where}{keyword}"


def is_walked(our_element, their_element):
    """Whether items are compared one by one; that equipment is another is difference enough."""
    return (
        our_element.VR == "SQ"
        and our_element.keyword != "ContributingEquipmentSequence"
        and len(our_element.value) == len(their_element.value)
    )


def value_of(made, keyword):
    """A value; pixels without what makes their bytes even, where highdicom has the digit 0."""
    if keyword != "PixelData":
        return made[keyword].value
    bits = made.Rows * made.Columns * made.NumberOfFrames * made.BitsAllocated
    return made.PixelData[: -(-bits // 8)]
