"""DICOM Segmentation (PS3.3 A.51) of an assessment's masks, on the source images' own planes."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from highdicom.spatial import get_normal_vector, get_volume_positions
from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage

from inference.assessment import Assessment, ModelIdentity, Segment
from inference.volume import Volume
from sr_writer.coding import concept
from sr_writer.header import UTF_8, constructor_header, series_number, stamp
from sr_writer.identifiers import object_uid, tracking
from sr_writer.provenance import Provenance
from sr_writer.segmentation_frames import Frames, SegmentationForm, encoded_groups, frames_of
from sr_writer.segmentation_pixels import shapes_of
from sr_writer.source_images import SourceImage, even_step, on_images, places, source_images

SERIES_DESCRIPTION = "Overread AI segmentation (unverified)"
SERIES_OFFSET = 2
POSITION_TOLERANCE = 0.25
"""How far an image may lie from its slice, in voxels; the sources' own positions win."""
HALF_A_VOXEL = 0.5 + 1e-6
"""How far an image of a resampled volume may reach beyond its grid: voxels are points there."""

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
    _check_positions(images, volume)
    frames = frames_of(on_images(assessment, volume), form, _depths(images))
    measures = _pixel_measures(images)
    template = _template(assessment, images, frames, measures, provenance)
    made = Dataset()
    made.update(template)
    made.file_meta = template.file_meta
    _describe_stack(made, frames, images, measures)
    _refer_to(made, images)
    _name_dimensions(made, assessment.record.model, provenance)
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


def _check_positions(images: Sequence[SourceImage], volume: Volume) -> None:
    """Raise ValueError unless each image is its slice, or lies within a resampled grid in order."""
    for image in images:
        if not image.header.get("FrameOfReferenceUID"):
            raise ValueError(f"source {image.reference} has no frame of reference")
    found = volume.first_pixels()
    if volume.verdict.resampled:
        matrix = (1, int(images[0].header.Rows), int(images[0].header.Columns))
        room = np.array(volume.grid.spatial_shape) - matrix
        lies = np.all((found >= -HALF_A_VOXEL) & (found <= room + HALF_A_VOXEL), axis=1)
        lies[1:] &= np.diff(found[:, 0]) > 0
    else:
        slices = np.arange(len(images))[:, None] * [1, 0, 0]
        lies = np.all(np.abs(found - slices) <= POSITION_TOLERANCE, axis=1)
    if not lies.all():
        index = int(lies.argmin())
        raise ValueError(
            f"source {images[index].reference} lies at index {found[index].round(2)} of the grid, "
            f"as image {index} of the volume: the sources are not in slice order"
        )


def _depths(images: Sequence[SourceImage]) -> npt.NDArray[np.float64]:
    """Return where images lie along their normal, in mm; frames are in this order."""
    normal = get_normal_vector(images[0].header.ImageOrientationPatient, index_convention="DR")
    positions = np.array([image.header.ImagePositionPatient for image in images], dtype=float)
    found: npt.NDArray[np.float64] = positions @ normal
    return found


def _pixel_measures(images: Sequence[SourceImage]) -> hd.PixelMeasuresSequence:
    headers = [image.header for image in images]
    thickness = float(np.median([float(header.get("SliceThickness") or 0) for header in headers]))
    return hd.PixelMeasuresSequence(
        pixel_spacing=headers[0].PixelSpacing,
        slice_thickness=thickness or round(float(np.median(np.diff(places(headers)))), 6),
        spacing_between_slices=even_step(headers),
    )


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
        source_images=[_stand_in(image, first, measures)],
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
        plane_positions=[_position(image)],
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=255,
    )


def _stand_in(image: SourceImage, first: Dataset, measures: hd.PixelMeasuresSequence) -> Dataset:
    """Return a header for an image as if it were an instance of its own.

    highdicom takes either single-frame instances or all frames of one multi-frame instance; frames
    of several, some frames of one and tiles of a mosaic are neither. It also wants a Slice
    Thickness even where it is not used. What is of the whole series stands in the header of the
    `first`.
    """
    own = Dataset()  # new elements: a copied header shares its own with the original
    own.SOPClassUID = CTImageStorage  # one of single-frame instances, whatever the image is of
    own.ImageOrientationPatient = first.ImageOrientationPatient
    own.PixelSpacing = measures[0].PixelSpacing
    own.SliceThickness = measures[0].SliceThickness
    header = constructor_header(first)
    header.update(constructor_header(image.header))
    header.update(own)
    return header


def _position(image: SourceImage) -> hd.PlanePositionSequence:
    return hd.PlanePositionSequence(
        hd.CoordinateSystemNames.PATIENT, image.header.ImagePositionPatient
    )


def _refer_to(made: Dataset, images: Sequence[SourceImage]) -> None:
    """Name every image of the volume where the template names the one that it is drawn on."""
    of_instance: dict[str, list[SourceImage]] = {}
    for image in images:
        of_instance.setdefault(image.header.SOPInstanceUID, []).append(image)
    made.SourceImageSequence = [
        _reference(each[0].header, [image.frame for image in each if image.frame is not None])
        for each in of_instance.values()
    ]
    series = made.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence = [
        _reference(each[0].header) for each in of_instance.values()
    ]


def _functional_groups(
    template: Dataset, frames: Frames, images: Sequence[SourceImage]
) -> RawDataElement:
    """Return the groups of all frames, made like those of the template's frame."""
    (pattern,) = template.PerFrameFunctionalGroupsSequence
    of_image = {index: _groups_of(images[index], pattern) for index in frames.images}
    of_segment: dict[int | None, Dataset] = {}
    if "SegmentIdentificationSequence" in pattern:
        of_segment = {frame.segment: _identified(frame.segment) for frame in frames.each}
    return encoded_groups(frames.each, of_image, of_segment)


def _groups_of(image: SourceImage, pattern: Dataset) -> Dataset:
    """Return the groups of a frame that lies on an image."""
    (derivation,) = pattern.DerivationImageSequence
    (source,) = derivation.SourceImageSequence
    on_image = Dataset()
    on_image.update(source)
    on_image.update(_reference(image.header, [] if image.frame is None else [image.frame]))
    if image.is_tile:
        on_image["SpatialLocationsPreserved"] = DataElement("SpatialLocationsPreserved", "CS", "NO")
    derived = Dataset()
    derived.update(derivation)
    derived["SourceImageSequence"] = DataElement("SourceImageSequence", "SQ", [on_image])
    groups = Dataset()
    groups.DerivationImageSequence = [derived]
    groups.PlanePositionSequence = _position(image)
    return groups


def _identified(number: int | None) -> Dataset:
    """Return the groups of a frame that shows a segment."""
    item, groups = Dataset(), Dataset()
    item.ReferencedSegmentNumber = number
    groups.SegmentIdentificationSequence = [item]
    return groups


def _reference(header: Dataset, frames: Sequence[int] = ()) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frames:
        item.ReferencedFrameNumber = sorted(frames)
    return item


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
