"""DICOM Parametric Map (PS3.3 A.75) of how probable each pixel is part of a segment.

On the source images' own planes, in 32-bit floating point from 0 to 1: viewers that read maps at
all read that, and need not apply the Real World Value Mapping to show it.
"""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.sr import CodeContentItem, CodedConcept, TextContentItem, UIDRefContentItem
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes

from inference.assessment import Assessment, Laterality, ModelIdentity, ProbabilityMap, Segment
from inference.volume import Volume
from sr_writer.coding import FRAME_LATERALITY, concept
from sr_writer.encoding import UTF_8
from sr_writer.header import series_number, stamp
from sr_writer.identifiers import object_uid, tracking
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, on_images, source_images
from sr_writer.source_planes import (
    check_positions,
    depths_of,
    groups_of,
    pixel_measures,
    plane_position,
    refer_to_images,
    stand_in,
)

SERIES_DESCRIPTION = "Overread AI probability (unverified)"
SERIES_OFFSET = 4
_LEVELS = (np.arange(256) / 255).astype("<f4")
"""What the values of a ProbabilityMap stand for."""

_WHOLE_BODY = CodedConcept.from_code(codes.cid4.EntireBody)
_WHOLE_RANGE = hd.VOILUTTransformation(window_center=0.5, window_width=1.0)


def write_parametric_maps(
    assessment: Assessment, volume: Volume, provenance: Provenance
) -> list[Dataset]:
    """Write a map for each segment that has probabilities, one series of them, by segment number.

    A frame has the position of one source image, and orientation, pixel spacing and matrix are
    those of all; images beyond the last on which anything is probable are left out. The Quantity
    Definition says which segment it is: what was looked for, where, and its tracking identifiers.

    Raises
    ------
    ValueError
        Where the sources do not lie where the volume says.
    """
    images = source_images(volume)
    check_positions(images, volume)
    shown = on_images(assessment, volume).probabilities
    record = assessment.record
    sides = {
        finding.evidence.segment: finding.laterality
        for finding in record.findings
        if finding.evidence is not None
    }
    found = []
    for segment in record.segments:
        if segment.number in shown:
            made = _map(segment, shown[segment.number], images, record.model, provenance)
            anatomy = _anatomy(segment, sides.get(segment.number))
            made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
            found.append(made)
    return found


def _map(
    segment: Segment,
    probabilities: ProbabilityMap,
    images: Sequence[SourceImage],
    model: ModelIdentity,
    provenance: Provenance,
) -> Dataset:
    order = np.argsort(depths_of(images))[::-1]  # dcmqi 1.5.7 turns another order upside down
    probable = np.flatnonzero([probabilities[index].any() for index in order])
    shown = order[probable[0] : probable[-1] + 1]  # no gap: a viewer makes a volume of the frames
    drawn_on = [images[index] for index in shown]
    made = _template(segment, images, drawn_on[0], model, provenance)
    (pattern,) = made.PerFrameFunctionalGroupsSequence
    made.PerFrameFunctionalGroupsSequence = [
        _numbered(groups_of(image, pattern), number) for number, image in enumerate(drawn_on, 1)
    ]
    made.NumberOfFrames = len(shown)
    made.FloatPixelData = _LEVELS[probabilities[shown]].tobytes()
    refer_to_images(made, images)
    uid = object_uid("PM dimension organization", model, provenance)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    made.DimensionIndexSequence[0].DimensionOrganizationUID = uid
    made.ContentCreatorName = None  # Type 2 (PS3.3 Table 10-12), which highdicom leaves out
    stamp(made, images[0].header, model, provenance)
    return made


def _anatomy(segment: Segment, laterality: Laterality | None) -> Dataset:
    """Return the Frame Anatomy (PS3.3 C.7.6.16.2.8): the finding's site and side, as in the report.

    It is optional, but there are readers that do not survive its absence (dcmqi 1.5.7).
    """
    site = _WHOLE_BODY if segment.site is None else concept(segment.site)
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [site]
    anatomy.FrameLaterality = FRAME_LATERALITY[laterality]
    return anatomy


def _template(
    segment: Segment,
    images: Sequence[SourceImage],
    image: SourceImage,
    model: ModelIdentity,
    provenance: Provenance,
) -> hd.pm.ParametricMap:
    """Return a map of one frame, which lies on `image`."""
    first, measures = images[0].header, pixel_measures(images)
    made = hd.pm.ParametricMap(
        source_images=[stand_in(image, first, measures)],
        pixel_array=np.zeros((1, int(first.Rows), int(first.Columns)), np.float32),
        series_instance_uid=object_uid("PM series", model, provenance),
        series_number=series_number(first, SERIES_OFFSET),
        sop_instance_uid=object_uid(f"PM {segment.number}", model, provenance),
        instance_number=segment.number,
        manufacturer=model.manufacturer,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.digest[:64],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(segment, model, provenance)],
        voi_lut_transformations=[_WHOLE_RANGE],
        content_label="AI_UNVERIFIED",
        content_description=f"AI probability of {segment.label}, unverified"[:64],
        series_description=SERIES_DESCRIPTION,
        specific_character_set=UTF_8,
        pixel_measures=measures,
        plane_orientation=hd.PlaneOrientationSequence(
            hd.CoordinateSystemNames.PATIENT, first.ImageOrientationPatient
        ),
        plane_positions=[plane_position(image)],
    )
    # highdicom works the distance out from the frames, of which there is one
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures
    return made


def _numbered(groups: Dataset, number: int) -> Dataset:
    """Return the groups of a frame with its place among the frames."""
    content = Dataset()
    content.DimensionIndexValues = [number]
    groups.FrameContentSequence = [content]
    return groups


def _mapping(
    segment: Segment, model: ModelIdentity, provenance: Provenance
) -> hd.pm.RealWorldValueMapping:
    """Return what the values are (PS3.3 C.7.6.16.2.11): probabilities of this segment."""
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="PROBABILITY",
        lut_explanation=f"Probability, 0 to 1, of {segment.label}"[:64],
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        quantity_definition=codes.DCM.Probability,
    )
    roi = tracking(segment, model, provenance)
    quantity: list[Dataset] = [*mapping.QuantityDefinitionSequence]
    quantity.append(CodeContentItem(codes.DCM.Finding, concept(segment.type)))
    if segment.site is not None:
        quantity.append(CodeContentItem(codes.SCT.FindingSite, concept(segment.site)))
    quantity.append(TextContentItem(codes.DCM.TrackingIdentifier, roi.identifier))
    quantity.append(UIDRefContentItem(codes.DCM.TrackingUniqueIdentifier, roi.uid))
    mapping["QuantityDefinitionSequence"] = DataElement(
        "QuantityDefinitionSequence", "SQ", quantity
    )
    return mapping
