"""DICOM Segmentation (PS3.3 A.51) of an assessment's masks, on the source images' own planes."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.spatial import get_volume_positions
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sr.codedict import codes

from inference.assessment import Assessment, ModelIdentity, Segment
from inference.volume import Volume
from sr_writer.coding import concept
from sr_writer.encoding import UTF_8
from sr_writer.header import series_number, stamp
from sr_writer.identifiers import object_uid, tracking
from sr_writer.kinds import SegmentationForm
from sr_writer.provenance import Provenance
from sr_writer.segmentation_frames import Frames, encoded_groups, frames_of
from sr_writer.segmentation_pixels import shapes_of
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

SERIES_DESCRIPTION = "Overread AI segmentation (unverified)"
SERIES_OFFSET = 2

COLOURS = (  # CIELab (L*, a*, b*), told apart also on the grey of a CT
    CIELabColor(58.0, 65.0, 48.0),
    CIELabColor(72.0, -45.0, 45.0),
    CIELabColor(60.0, 5.0, -55.0),
    CIELabColor(82.0, 5.0, 75.0),
    CIELabColor(62.0, 60.0, -40.0),
    CIELabColor(80.0, -45.0, -12.0),
)


def write_segmentation(
    assessment: Assessment,
    volume: Volume,
    provenance: Provenance,
    *,
    form: SegmentationForm = SegmentationForm.BINARY,
) -> Dataset:
    """Write the masks as one SEG, empty frames left out.

    A frame has the position of one source image, and orientation, pixel spacing and matrix are
    those of all: a mask of the grid is written as the images show it. Spacing Between Slices is
    left out where it varies.

    Masks that overlap are no label map, and masks without probabilities are not fractional: these
    are written as BINARY, and Segmentation Type says so.

    Raises
    ------
    ValueError
        Where there is no segment, a mask is empty, on no image or not on the volume's grid, segment
        numbers are not 1, 2, ..., the sources do not lie where the volume says, a mask has a voxel
        of no probability, or the frames take more than 4 GB.
    """
    _check_masks(assessment, volume)
    images = source_images(volume)
    check_positions(images, volume)
    frames = frames_of(on_images(assessment, volume), form, depths_of(images))
    measures = pixel_measures(images)
    template = _template(assessment, images, frames, measures, provenance)
    made = Dataset()
    made.update(template)
    made.file_meta = template.file_meta
    _describe_stack(made, frames, images, measures)
    refer_to_images(made, images)
    _name_dimensions(made, assessment.record.model, provenance)
    made.ContentCreatorName = None  # Type 2 (PS3.3 Table 10-12), which highdicom leaves out
    made.SegmentsOverlap = frames.overlap.value
    made.NumberOfFrames = len(frames.each)
    made.PixelData = frames.pixels
    stamp(made, images[0].header, assessment.record.model, provenance)
    correct_ambiguous_vr(made, is_little_endian=True)
    groups = _functional_groups(template, frames, images)
    made[groups.tag] = groups
    # so that pydicom writes the groups as they are wherever encoding and character set are the same
    made.set_original_encoding(False, True, convert_encodings(UTF_8))
    return made


def _check_masks(assessment: Assessment, volume: Volume) -> None:
    numbers = [segment.number for segment in assessment.record.segments]
    if not numbers:
        raise ValueError("the assessment has no segment: there is nothing to write as SEG")
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"segment numbers are {numbers}; a SEG counts 1, 2, ... (PS3.3 C.8.20.4)")
    for shape in shapes_of(assessment.masks) - {volume.grid.spatial_shape}:
        raise ValueError(f"a mask has shape {shape}, the volume {volume.grid.spatial_shape}")


def _template(
    assessment: Assessment,
    images: Sequence[SourceImage],
    frames: Frames,
    measures: hd.PixelMeasuresSequence,
    provenance: Provenance,
) -> hd.seg.Segmentation:
    """Return a SEG of one frame: all that highdicom says of each object and of each frame."""
    record, first = assessment.record, images[0].header
    image = images[frames.images[0]]
    return hd.seg.Segmentation(
        source_images=[stand_in(image, first, measures)],
        pixel_array=np.ones((1, int(first.Rows), int(first.Columns)), np.uint8),
        segmentation_type=frames.form.upper(),
        segment_descriptions=[
            _description(segment, record.model, provenance) for segment in record.segments
        ],
        series_instance_uid=object_uid("SEG series", record.model, provenance),
        series_number=series_number(first, SERIES_OFFSET),
        sop_instance_uid=object_uid("SEG", record.model, provenance),
        instance_number=1,
        manufacturer=record.model.manufacturer,
        manufacturer_model_name=record.model.name,
        software_versions=record.model.version,
        device_serial_number=record.model.digest[:64],
        content_label="AI_UNVERIFIED",
        content_description=SERIES_DESCRIPTION,
        series_description=SERIES_DESCRIPTION,
        specific_character_set=UTF_8,
        pixel_measures=measures,
        plane_orientation=hd.PlaneOrientationSequence(
            hd.CoordinateSystemNames.PATIENT, first.ImageOrientationPatient
        ),
        plane_positions=[plane_position(image)],
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=255,
    )


def _functional_groups(
    template: Dataset, frames: Frames, images: Sequence[SourceImage]
) -> RawDataElement:
    """Return the groups of all frames, made like those of the template's frame."""
    (pattern,) = template.PerFrameFunctionalGroupsSequence
    of_image = {index: groups_of(images[index], pattern) for index in frames.images}
    of_segment: dict[int | None, Dataset] = {}
    if "SegmentIdentificationSequence" in pattern:
        of_segment = {frame.segment: _identified(frame.segment) for frame in frames.each}
    return encoded_groups(frames.each, of_image, of_segment)


def _identified(number: int | None) -> Dataset:
    """Return the groups of a frame that shows a segment."""
    item, groups = Dataset(), Dataset()
    item.ReferencedSegmentNumber = number
    groups.SegmentIdentificationSequence = [item]
    return groups


def _describe_stack(
    made: Dataset, frames: Frames, images: Sequence[SourceImage], measures: hd.PixelMeasuresSequence
) -> None:
    """State the distance of the images where it is one, and whether the frames are a 3D stack.

    highdicom would work the distance out from the frames that are left, which may be even where
    the images are not.
    """
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures
    segments = {frame.segment for frame in frames.each}
    if len(segments) > 1 or len(frames.each) == 1 or "SpacingBetweenSlices" not in measures[0]:
        return
    spacing, _ = get_volume_positions(
        [images[index].header.ImagePositionPatient for index in frames.images],
        images[0].header.ImageOrientationPatient,
        sort=False,
    )
    if spacing is not None:
        made.DimensionOrganizationType = "3D"


def _description(
    segment: Segment, model: ModelIdentity, provenance: Provenance
) -> hd.seg.SegmentDescription:
    roi = tracking(segment, model, provenance)
    return hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label[:64],
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model.name,
            family=codes.cid7162.ArtificialIntelligence,
            version=model.version,
            source=model.manufacturer,
        ),
        tracking_uid=roi.uid,
        tracking_id=roi.identifier,
        anatomic_regions=None if segment.site is None else [concept(segment.site)],
        display_color=COLOURS[(segment.number - 1) % len(COLOURS)],
    )


def _name_dimensions(made: Dataset, model: ModelIdentity, provenance: Provenance) -> None:
    """Give the dimension organization, which highdicom names at random, a UID of ours."""
    uid = object_uid("dimension organization", model, provenance)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for index in made.DimensionIndexSequence:
        index.DimensionOrganizationUID = uid
