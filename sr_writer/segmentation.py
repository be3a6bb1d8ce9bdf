"""DICOM Segmentation (PS3.3 A.51) of an assessment's masks, on the source series' own geometry."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.assessment import Assessment, Mask, ModelIdentity, Segment
from inference.volume import Volume
from sr_writer.coding import concept
from sr_writer.header import (
    UTF_8,
    constructor_header,
    plain_headers,
    series_number,
    stamp,
)
from sr_writer.identifiers import object_uid, tracking
from sr_writer.provenance import Provenance

SERIES_DESCRIPTION = "Overread AI segmentation (unverified)"
SERIES_OFFSET = 2
POSITION_TOLERANCE_MM = 0.05
"""How far a slice may lie from where the volume's affine has it; the sources' own positions win."""

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

    Frame positions, orientation and pixel spacing are the source instances' own values: mask
    [k, row, column] belongs to `volume.sources[k]`, whatever direction the stack runs in.

    Raises
    ------
    ValueError
        Where there is no segment, a mask is empty or not on the volume's grid, segment numbers are
        not 1, 2, ..., or the sources do not lie where the volume says.
    """
    record = assessment.record
    masks = _masks_in_order(assessment, volume)
    headers = plain_headers(volume.sources)
    _check_positions(headers, volume)
    first = headers[0]
    measures = _pixel_measures(first, volume)
    made = hd.seg.Segmentation(
        source_images=[_with_thickness(header, measures) for header in headers],
        pixel_array=_pixel_array(masks),
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
            hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, header.ImagePositionPatient)
            for header in headers
        ],
    )
    _name_dimensions(made, record.model, provenance)
    stamp(made, first, record.model, provenance)
    return made


def _masks_in_order(assessment: Assessment, volume: Volume) -> list[Mask]:
    segments = assessment.record.segments
    numbers = [segment.number for segment in segments]
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
    return [assessment.masks[number] for number in numbers]


def _check_positions(headers: Sequence[Dataset], volume: Volume) -> None:
    affine = volume.grid.affine
    for index, header in enumerate(headers):
        if not header.get("FrameOfReferenceUID"):
            raise ValueError(f"source {header.SOPInstanceUID} has no frame of reference")
        expected = affine[:3, 3] + index * affine[:3, 0]
        found = np.array(header.ImagePositionPatient, dtype=float)
        if np.linalg.norm(found - expected) > POSITION_TOLERANCE_MM:
            raise ValueError(
                f"source {header.SOPInstanceUID} lies at {found.round(3)} mm, slice {index} of the "
                f"volume at {expected.round(3)} mm: the sources are not in slice order"
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


def _pixel_measures(header: Dataset, volume: Volume) -> hd.PixelMeasuresSequence:
    between_slices = volume.grid.spacing[0]
    return hd.PixelMeasuresSequence(
        pixel_spacing=header.PixelSpacing,
        slice_thickness=float(header.get("SliceThickness") or between_slices),
        spacing_between_slices=between_slices,
    )


def _with_thickness(header: Dataset, measures: hd.PixelMeasuresSequence) -> Dataset:
    """Return the header with a Slice Thickness, which highdicom reads even where it is not used."""
    accepted = constructor_header(header)
    accepted.SliceThickness = measures[0].SliceThickness
    return accepted


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
