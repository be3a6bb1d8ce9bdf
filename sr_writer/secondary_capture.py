"""Key images as Secondary Capture (PS3.3 A.8.1), which every viewer shows.

The picture is what the status page shows: patient sides, position, and that an AI drew it and
nobody verified it are part of its pixels. It has no place in space of its own and no pixel spacing:
distances are measured on the source image, which it names.
"""

from collections.abc import Sequence

from highdicom.sc import ConversionTypeValues, SCImage
from highdicom.sr import CodedConcept
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes

from inference.assessment import ModelIdentity
from inference.volume import Volume
from sr_writer.encoding import UTF_8
from sr_writer.header import series_number, stamp
from sr_writer.identifiers import object_uid
from sr_writer.key_images import KeyImage, patient_orientation
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage
from sr_writer.wording import notice

SERIES_DESCRIPTION = "Overread AI key images (unverified)"
SERIES_OFFSET = 5
UNPAIRED = frozenset(
    {"ABDOMEN", "BRAIN", "CHEST", "CSPINE", "HEAD", "HEART", "LIVER", "LSPINE", "NECK", "PELVIS"}
    | {"SKULL", "SPINE", "SPLEEN", "SSPINE", "TSPINE"}
)
"""Body parts that have no left and right one (PS3.16 Annex L), of those that are scanned most."""

LOSS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def write_secondary_captures(
    pictures: Sequence[KeyImage],
    images: Sequence[SourceImage],
    volume: Volume,
    model: ModelIdentity,
    provenance: Provenance,
) -> list[SCImage]:
    """Write the pictures that show something, as one series; none where nothing was found.

    `images` are those of the volume, that the pictures count.
    A picture of an image with nothing on it would pass for a normal finding.
    """
    shown = [picture for picture in pictures if picture.shows]
    made = []
    for number, picture in enumerate(shown, 1):
        capture = _capture(picture, images[0].header, model, provenance)
        capture.InstanceNumber = number
        capture.PatientOrientation = list(patient_orientation(volume))
        capture.DerivationDescription = (
            f"AI result, unverified: {', '.join(picture.shows)}, drawn on image "
            f"{picture.index + 1} of {len(images)}, enlarged"
        )
        capture.SourceImageSequence = [_source(images[picture.index])]
        source = volume.sources[picture.index]
        copy_body_part(capture, source)
        _copy(capture, source, LOSS)
        made.append(capture)
    return made


def _capture(
    picture: KeyImage, header: Dataset, model: ModelIdentity, provenance: Provenance
) -> SCImage:
    made = SCImage(
        pixel_array=picture.pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # set by the caller: highdicom knows no oblique ones
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=object_uid("SC series", model, provenance),
        series_number=series_number(header, SERIES_OFFSET),
        sop_instance_uid=object_uid(f"SC {picture.index}", model, provenance),
        instance_number=1,
        manufacturer=model.manufacturer,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.digest[:64],
        series_description=SERIES_DESCRIPTION,
        specific_character_set=UTF_8,
    )
    made.ConversionType = ConversionTypeValues.WSD.value
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BurnedInAnnotation = "YES"
    made.ImageComments = notice(model)
    stamp(made, header, model, provenance)
    made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = made.ContentDate, made.ContentTime
    return made


def copy_body_part(made: Dataset, source: Dataset) -> None:
    """Say which body part is shown, as the source does.

    Laterality is Type 2C: empty where the source leaves open whether it is of a paired part.
    """
    _copy(made, source, ("BodyPartExamined", "Laterality"))
    if source.get("BodyPartExamined") not in UNPAIRED and "Laterality" not in source:
        made.Laterality = None


def _copy(made: Dataset, source: Dataset, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        if keyword in source:
            made[keyword] = source[keyword]


def _source(image: SourceImage) -> Dataset:
    """Return the item that names the image that was drawn on (PS3.3 C.7.6.1.1.4)."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.header.SOPClassUID
    item.ReferencedSOPInstanceUID = image.header.SOPInstanceUID
    if image.frame is not None:
        item.ReferencedFrameNumber = image.frame
    item.PurposeOfReferenceCodeSequence = [
        CodedConcept(*codes.DCM.SourceImageForImageProcessingOperation)
    ]
    item["SpatialLocationsPreserved"] = DataElement("SpatialLocationsPreserved", "CS", "NO")
    return item
