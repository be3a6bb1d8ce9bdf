"""What a sender hands us, checked before it may become a file: identity, wholeness, pixel data.

The data set is kept as its bytes and never decoded here; its elements are walked only as far as
needed to know that they are all there and whose they are.
"""

from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from node.encoded_image import Attributes, BrokenImageError, EncodedBytes, attributes_of_image
from node.spool import InstanceKey, InvalidUIDError, check_uid
from sr_writer.provenance import PRODUCT

# Image storage that a CT or MR study consists of. Secondary captures (dose screens, reformats) are
# taken because a PACS routes whole studies; assembly sets them aside, and our own are told apart.
# Structured reports and segmentations are not: routed back to us, they are declined at negotiation.
STORAGE_CLASSES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
    EnhancedMRColorImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)

# C-STORE response status codes: PS3.4 Table B.2-1 and PS3.7 Section 9.1.1.1.9
SUCCESS = 0x0000
DUPLICATE_INSTANCE = 0x0111
COERCION = 0xB000  # a warning: what is held under the UID is not what came
INVALID_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122  # PS3.18 Annex I.2; by DIMSE no context is accepted
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


class IntakeError(Exception):
    """The instance is not taken; `status` goes into the response, the text into log and comment.

    The text holds no value from the data set: it may be a patient's name, or hostile. `remedy` is
    one that the status alone does not say.
    """

    def __init__(self, status: int, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.remedy = remedy


@dataclass(frozen=True)
class Intake:
    """An instance that may be stored."""

    key: InstanceKey
    sop_class_uid: str
    is_own_result: bool = False
    """Whether this node's software made it: a result that a PACS routed back."""


def inspect(encoded: EncodedBytes, transfer_syntax: UID, sop_class: str, instance: str) -> Intake:
    """Check an encoded data set against the C-STORE request that brought it (PS3.4 Section B.2).

    `sop_class` and `instance` are the Affected SOP Class and Instance UIDs of the request. Raises
    IntakeError for a data set that is cut short, is no image, or is not what the request says.
    """
    try:
        check_uid(instance, "Affected SOP Instance UID")
    except InvalidUIDError as error:
        raise IntakeError(INVALID_INSTANCE, str(error)) from None
    says = _attributes(encoded, transfer_syntax)
    if says["SOPClassUID"] not in ("", sop_class):
        raise IntakeError(MISMATCH, "SOP Class UID of data set and request differ")
    if says["SOPInstanceUID"] != instance:
        raise IntakeError(MISMATCH, "SOP Instance UID of data set and request differ")
    try:
        key = InstanceKey(says["StudyInstanceUID"], says["SeriesInstanceUID"], instance)
    except InvalidUIDError as error:
        raise IntakeError(CANNOT_UNDERSTAND, str(error)) from None
    return Intake(key, sop_class, is_own_result=PRODUCT in says["SoftwareVersions"])


def _attributes(encoded: EncodedBytes, transfer_syntax: UID) -> Attributes:
    try:
        return attributes_of_image(encoded, transfer_syntax)
    except BrokenImageError as error:
        raise IntakeError(CANNOT_UNDERSTAND, str(error)) from None
    except Exception as error:  # a parser of hostile bytes raises what it will
        raise IntakeError(
            CANNOT_UNDERSTAND, f"data set cannot be parsed ({type(error).__name__})"
        ) from error
