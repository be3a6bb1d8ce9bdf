"""Image Library (TID 1600) of the images that a report refers to, and of no others.

What all images of the series share stands once, at the group; an image adds its position. A library
of every image with every descriptor costs 6 times the time and 20 times the size. A mosaic has
neither the matrix of its tiles nor a position of its own: both are left out.
"""

from collections.abc import Sequence

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    UIDRefContentItem,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from sr_writer.coding import DIRECTION_COSINE, MODALITY, PIXELS, SOURCE
from sr_writer.source_images import SourceImage

_CONTEXT = RelationshipTypeValues.HAS_ACQ_CONTEXT

_ORIENTATION = (  # TID 1604, in the order of Image Orientation (Patient)
    codes.DCM.ImageOrientationPatientRowX,
    codes.DCM.ImageOrientationPatientRowY,
    codes.DCM.ImageOrientationPatientRowZ,
    codes.DCM.ImageOrientationPatientColumnX,
    codes.DCM.ImageOrientationPatientColumnY,
    codes.DCM.ImageOrientationPatientColumnZ,
)
_POSITION = (
    codes.DCM.ImagePositionPatientX,
    codes.DCM.ImagePositionPatientY,
    codes.DCM.ImagePositionPatientZ,
)


def image_library(images: Sequence[SourceImage]) -> ContainerContentItem:
    """Return the library of `images` of one series, not empty."""
    group = ContainerContentItem(
        name=codes.DCM.ImageLibraryGroup, relationship_type=RelationshipTypeValues.CONTAINS
    )
    group.ContentSequence = ContentSequence([*_shared_descriptors(images), *map(_entry, images)])
    library = ContainerContentItem(
        name=codes.DCM.ImageLibrary, relationship_type=RelationshipTypeValues.CONTAINS
    )
    library.ContentSequence = ContentSequence([group])
    return library


def _shared_descriptors(images: Sequence[SourceImage]) -> list[ContentItem]:
    header = images[0].header
    items: list[ContentItem] = []
    modality = MODALITY.get(header.get("Modality", ""))
    if modality is not None:
        items.append(
            CodeContentItem(name=codes.DCM.Modality, value=modality, relationship_type=_CONTEXT)
        )
    items.append(
        UIDRefContentItem(
            name=codes.DCM.FrameOfReferenceUID,
            value=header.FrameOfReferenceUID,
            relationship_type=_CONTEXT,
        )
    )
    if not images[0].is_tile:
        items.append(_number(codes.DCM.PixelDataRows, int(header.Rows), PIXELS))
        items.append(_number(codes.DCM.PixelDataColumns, int(header.Columns), PIXELS))
    vertical, horizontal = map(float, header.PixelSpacing)
    items.append(_number(codes.DCM.HorizontalPixelSpacing, horizontal, codes.UCUM.Millimeter))
    items.append(_number(codes.DCM.VerticalPixelSpacing, vertical, codes.UCUM.Millimeter))
    if header.get("SliceThickness") and all(
        image.header.get("SliceThickness") == header.SliceThickness for image in images
    ):
        thickness = float(header.SliceThickness)
        items.append(_number(codes.DCM.SliceThickness, thickness, codes.UCUM.Millimeter))
    for name, cosine in zip(_ORIENTATION, header.ImageOrientationPatient, strict=True):
        items.append(_number(name, float(cosine), DIRECTION_COSINE))
    return items


def _entry(image: SourceImage) -> ImageContentItem:
    item = ImageContentItem(
        name=SOURCE,
        referenced_sop_class_uid=image.header.SOPClassUID,
        referenced_sop_instance_uid=image.header.SOPInstanceUID,
        referenced_frame_numbers=image.frame,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    if not image.is_tile:
        item.ContentSequence = ContentSequence(
            [
                _number(name, float(coordinate), codes.UCUM.Millimeter)
                for name, coordinate in zip(
                    _POSITION, image.header.ImagePositionPatient, strict=True
                )
            ]
        )
    return item


def _number(name: Code, value: float, unit: Code | CodedConcept) -> NumContentItem:
    return NumContentItem(name=name, value=value, unit=unit, relationship_type=_CONTEXT)
