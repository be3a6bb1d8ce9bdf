"""DICOM Segmentation (PS3.3 A.51) of an assessment's masks, on the source images' own planes."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, CTImageStorage, MRImageStorage

from inference.assessment import Assessment, Mask, ModelIdentity, Segment
from inference.volume import Volume
from sr_writer.coding import concept
from sr_writer.header import UTF_8, constructor_header, series_number, stamp
from sr_writer.identifiers import derive_uid, object_uid, tracking
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, even_step, on_images, places, source_images

SERIES_DESCRIPTION = "Overread AI segmentation (unverified)"
SERIES_OFFSET = 2
POSITION_TOLERANCE = 0.25
"""How far an image may lie from its slice, in voxels; the sources' own positions win."""
HALF_A_VOXEL = 0.5 + 1e-6
"""How far an image of a resampled volume may reach beyond its grid: voxels are points there."""

SINGLE_FRAME = {"CT": CTImageStorage, "MR": MRImageStorage}
"""SOP classes of images that stand for themselves, whatever instance they are part of."""

COLOURS = (  # CIELab (L*, a*, b*), told apart also on the grey of a CT
    CIELabColor(58.0, 65.0, 48.0),
    CIELabColor(72.0, -45.0, 45.0),
    CIELabColor(60.0, 5.0, -55.0),
    CIELabColor(82.0, 5.0, 75.0),
    CIELabColor(62.0, 60.0, -40.0),
    CIELabColor(80.0, -45.0, -12.0),
)


def write_segmentation(
    assessment: Assessment, volume: Volume, provenance: Provenance
) -> hd.seg.Segmentation:
    """Write the masks as one BINARY SEG, empty frames left out.

    A frame has the position of one source image, and orientation, pixel spacing and matrix are
    those of all: a mask of the grid is written as the images show it. Spacing Between Slices is
    left out where it varies.

    Raises
    ------
    ValueError
        Where there is no segment, a mask is empty, on no image or not on the volume's grid, segment
        numbers are not 1, 2, ..., or the sources do not lie where the volume says.
    """
    record = assessment.record
    _check_masks(assessment, volume)
    images = source_images(volume)
    _check_positions(images, volume)
    masks = [mask for _, mask in sorted(on_images(assessment, volume).masks.items())]
    shown = np.flatnonzero(np.any([mask.any(axis=(1, 2)) for mask in masks], axis=0))
    drawn_on = [images[index] for index in shown]  # highdicom takes the square of their number
    first = images[0].header
    measures = _pixel_measures(images)
    made = hd.seg.Segmentation(
        source_images=_stand_ins(drawn_on, first, measures, volume.modality),
        pixel_array=_pixel_array([mask[shown] for mask in masks]),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
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
        plane_positions=[
            hd.PlanePositionSequence(
                hd.CoordinateSystemNames.PATIENT, image.header.ImagePositionPatient
            )
            for image in drawn_on
        ],
    )
    _state_spacing(made, measures)
    _refer_to(made, images, drawn_on)
    _name_dimensions(made, record.model, provenance)
    stamp(made, first, record.model, provenance)
    return made


def _check_masks(assessment: Assessment, volume: Volume) -> None:
    numbers = [segment.number for segment in assessment.record.segments]
    if not numbers:
        raise ValueError("the assessment has no segment: there is nothing to write as SEG")
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"segment numbers are {numbers}; a SEG counts 1, 2, ... (PS3.3 C.8.20.4)")
    for number in numbers:
        mask = assessment.masks[number]
        if mask.shape != volume.grid.spatial_shape:
            raise ValueError(
                f"mask {number} has shape {mask.shape}, the volume {volume.grid.spatial_shape}"
            )
        if not mask.any():
            raise ValueError(f"mask {number} is empty: leave the segment out of the assessment")


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


def _pixel_array(masks: Sequence[Mask]) -> npt.NDArray[np.uint8]:
    """Return a label map [slice, row, column], or [slice, row, column, segment] on overlap."""
    if len(masks) == 1:
        return masks[0].view(np.uint8)
    labels = np.zeros(masks[0].shape, np.uint8)
    for number, mask in enumerate(masks, 1):
        if number > np.iinfo(np.uint8).max or labels[mask].any():
            return np.stack([each.view(np.uint8) for each in masks], axis=-1)
        labels[mask] = number
    return labels


def _pixel_measures(images: Sequence[SourceImage]) -> hd.PixelMeasuresSequence:
    headers = [image.header for image in images]
    thickness = float(np.median([float(header.get("SliceThickness") or 0) for header in headers]))
    return hd.PixelMeasuresSequence(
        pixel_spacing=headers[0].PixelSpacing,
        slice_thickness=thickness or round(float(np.median(np.diff(places(headers)))), 6),
        spacing_between_slices=even_step(headers),
    )


def _stand_ins(
    images: Sequence[SourceImage],
    first: Dataset,
    measures: hd.PixelMeasuresSequence,
    modality: str,
) -> list[Dataset]:
    """Return a header for each image as if it were an instance of its own.

    highdicom takes either single-frame instances or all frames of one multi-frame instance; frames
    of several, some frames of one and tiles of a mosaic are neither. It also wants orientation and
    spacing to be one to the last digit, and a Slice Thickness even where it is not used. What is of
    the whole series stands in the header of the `first`.
    """
    headers = []
    for number, image in enumerate(images):
        own = Dataset()  # new elements: a copied header shares its own with the original
        own.SOPClassUID = SINGLE_FRAME[modality]
        own.SOPInstanceUID = _stand_in_uid(number)
        own.ImageOrientationPatient = first.ImageOrientationPatient
        own.PixelSpacing = measures[0].PixelSpacing
        own.SliceThickness = measures[0].SliceThickness
        header = constructor_header(first)
        header.update(constructor_header(image.header))
        header.update(own)
        headers.append(header)
    return headers


def _stand_in_uid(number: int) -> UID:
    return derive_uid("stand-in", str(number))


def _refer_to(
    made: Dataset, images: Sequence[SourceImage], drawn_on: Sequence[SourceImage]
) -> None:
    """Name the images themselves where highdicom has named the stand-ins of those drawn on."""
    by_stand_in = {_stand_in_uid(number): image for number, image in enumerate(drawn_on)}
    for frame in made.PerFrameFunctionalGroupsSequence:
        derivation = frame.DerivationImageSequence[0]
        derivation.SourceImageSequence = [
            _drawn_on(by_stand_in[item.ReferencedSOPInstanceUID], item)
            for item in derivation.SourceImageSequence
        ]
    of_instance: dict[str, list[SourceImage]] = {}
    for image in images:
        of_instance.setdefault(image.header.SOPInstanceUID, []).append(image)
    made.SourceImageSequence = [
        _reference(each[0].header, [image.frame for image in each if image.frame is not None])
        for each in of_instance.values()
    ]
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [
        _reference(each[0].header) for each in of_instance.values()
    ]


def _drawn_on(image: SourceImage, stand_in: Dataset) -> Dataset:
    """Return the item for the image that a frame lies on; frames share that of the stand-in."""
    item = Dataset()
    item.update(stand_in)
    item.update(_reference(image.header, [] if image.frame is None else [image.frame]))
    if image.is_tile:
        item["SpatialLocationsPreserved"] = DataElement("SpatialLocationsPreserved", "CS", "NO")
    return item


def _reference(header: Dataset, frames: Sequence[int] = ()) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frames:
        item.ReferencedFrameNumber = sorted(frames)
    return item


def _state_spacing(made: Dataset, measures: hd.PixelMeasuresSequence) -> None:
    """State the distance of the images only where it is one, whatever that of the frames is.

    highdicom works it out from the frames that are left, which may be even where the images are
    not; it would then also call them a regular volume.
    """
    stated = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if "SpacingBetweenSlices" in measures[0]:
        stated.SpacingBetweenSlices = measures[0].SpacingBetweenSlices
        return
    for dataset, keyword in (
        (stated, "SpacingBetweenSlices"),
        (made, "DimensionOrganizationType"),
    ):
        if keyword in dataset:
            delattr(dataset, keyword)


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
