"""What the gate asks of pictures and PDFs: of whom they are, and that they say who made them."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import Dataset

from sr_writer.key_images import AMBER, FOOTER_HEIGHT, sides
from sr_writer.secondary_capture import LOSS
from sr_writer.source_images import SourceImage, reference_of
from sr_writer.wording import PDF_TITLE, UNVERIFIED

VALUES = {
    "BurnedInAnnotation": "YES",
    "ConversionType": "WSD",
    "PhotometricInterpretation": "RGB",
    "SamplesPerPixel": 3,
    "PlanarConfiguration": 0,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}
DOCUMENT = {
    "BurnedInAnnotation": "YES",
    "MIMETypeOfEncapsulatedDocument": "application/pdf",
    "VerificationFlag": "UNVERIFIED",
}
NO_PLACE = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "NominalScannedPixelSpacing",
)


def check_capture(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    _siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a picture of one of `images`."""
    for keyword, value in VALUES.items():
        if made.get(keyword) != value:
            yield f"{keyword} is {made.get(keyword)}; {value} is what we write"
    if list(made.get("ImageType", [])) != ["DERIVED", "SECONDARY"]:
        yield "ImageType is not DERIVED\\SECONDARY; nobody acquired a picture with an overlay"
    for keyword in NO_PLACE:
        if keyword in made:
            yield f"{keyword} stands there, but an enlarged picture has none; leave it out"
    for keyword in LOSS:
        if made.get(keyword) != headers[0].get(keyword):
            yield f"{keyword} is not the source's; copy it"
    yield from check_unverified(made, "ImageComments")
    yield from check_series_description(made)
    yield from _check_source(made, images)
    yield from _check_pixels(made)


def check_pdf(
    made: Dataset,
    headers: Sequence[Dataset],
    _images: Sequence[SourceImage],
    _siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a PDF report of the series whose plain headers are given."""
    for keyword, value in DOCUMENT.items():
        if made.get(keyword) != value:
            yield f"{keyword} is {made.get(keyword)}; {value} is what we write"
    yield from check_series_description(made)
    if made.get("DocumentTitle") not in (PDF_TITLE.en, PDF_TITLE.zh):
        yield "DocumentTitle does not say that nobody verified it; write it"
    document = bytes(made.get("EncapsulatedDocument") or b"")
    length = made.get("EncapsulatedDocumentLength")
    if not document.startswith(b"%PDF-") or not document.rstrip(b"\0\n").endswith(b"%%EOF"):
        yield "EncapsulatedDocument is no whole PDF; write it again"
    if length is None or len(document) != length + length % 2:
        yield "EncapsulatedDocumentLength is not that of EncapsulatedDocument; correct it"
    if f"/Subject ({headers[0].StudyInstanceUID})".encode() not in document:
        yield "EncapsulatedDocument is of another study; write it again"
    classes = {str(header.SOPInstanceUID): header.SOPClassUID for header in headers}
    for item in made.get("SourceInstanceSequence", []):
        if classes.get(str(item.get("ReferencedSOPInstanceUID"))) != item.get(
            "ReferencedSOPClassUID", "none"
        ):
            yield "SourceInstanceSequence refers to no source instance; list those of the series"


def check_unverified(made: Dataset, keyword: str) -> Iterator[str]:
    """Yield where an object hides that nobody verified it."""
    said = str(made.get(keyword) or "")
    if UNVERIFIED.en not in said or UNVERIFIED.zh not in said:
        yield f"{keyword} does not say that nobody verified it; write it in both languages"


def check_series_description(made: Dataset) -> Iterator[str]:
    """Yield where a list of series would not tell that nobody verified this one."""
    if "unverified" not in str(made.get("SeriesDescription")):
        yield "SeriesDescription does not say unverified; write it"


def _check_source(made: Dataset, images: Sequence[SourceImage]) -> Iterator[str]:
    sources = made.get("SourceImageSequence", [])
    if len(sources) != 1:
        yield f"SourceImageSequence has {len(sources)} items; name the one image drawn on"
        return
    image = next((each for each in images if each.reference == reference_of(sources[0])), None)
    if image is None:
        yield "SourceImageSequence refers to no image of the volume; correct instance and frame"
        return
    if image.header.SOPClassUID != sources[0].get("ReferencedSOPClassUID"):
        yield "SourceImageSequence has the wrong ReferencedSOPClassUID; copy it from the image"
    row, column = np.array(image.header.ImageOrientationPatient, dtype=float).reshape(2, 3)
    if list(made.get("PatientOrientation") or []) != [sides(row), sides(column)]:
        yield "PatientOrientation is not that of the image; letters would be on wrong sides"


def _check_pixels(made: Dataset) -> Iterator[str]:
    shape = int(made.get("Rows", 0)), int(made.get("Columns", 0)), 3
    pixels = made.get("PixelData", b"")
    length = int(np.prod(shape))
    if len(pixels) != length + length % 2 or not length:
        yield f"PixelData has {len(pixels)} bytes for {shape[0]} rows and {shape[1]} columns"
        return
    footer = np.frombuffer(pixels, np.uint8, length).reshape(shape)[-FOOTER_HEIGHT:]
    if not (footer == AMBER).all(axis=-1).any():
        yield "PixelData has no warning below the picture; draw it again"
