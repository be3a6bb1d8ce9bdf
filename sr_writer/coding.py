"""Coded concepts that the writers add by themselves; findings and anatomy come with the assessment.

Code meanings are those of PS3.16; for RFC 5646 language tags they are the English names.
"""

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from inference.assessment import Code, Laterality, Presence

QUALITATIVE_EVALUATIONS = CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
FINDING_CATEGORY = "276214006"
"""SCT code value; pydicom's dictionary lacks the concept, highdicom writes it."""

ENGLISH = CodedConcept("en", "RFC5646", "English")
CHINESE = CodedConcept("zh", "RFC5646", "Chinese")

PRESENCE = {  # CID 240 Present-Absent
    Presence.PRESENT: codes.SCT.Present,
    Presence.ABSENT: codes.SCT.Absent,
    Presence.UNDETERMINED: codes.SCT.Undetermined,
}

LATERALITY = {  # CID 244 Laterality
    Laterality.LEFT: codes.SCT.Left,
    Laterality.RIGHT: codes.SCT.Right,
    Laterality.BILATERAL: codes.cid244.Bilateral,
}

FRAME_LATERALITY = {  # PS3.3 C.7.6.16.2.8; it has no value for what is not known
    Laterality.LEFT: "L",
    Laterality.RIGHT: "R",
    Laterality.BILATERAL: "B",
    None: "U",
}

MODALITY = {  # CID 29 Acquisition Modality
    "CT": codes.cid29.ComputedTomography,
    "MR": codes.cid29.MagneticResonance,
}

PROCEDURE_BY_MODALITY = {  # CID 100 Quantitative Diagnostic Imaging Procedures
    "CT": codes.cid100.CTUnspecifiedBodyRegion,
    "MR": codes.cid100.MRIUnspecifiedBodyRegion,
}
IMAGING_PROCEDURE = codes.cid100.ImagingProcedure

SOURCE = CodedConcept("260753009", "SCT", "Source")
PIXELS = CodedConcept("{pixels}", "UCUM", "Pixels")
DIRECTION_COSINE = CodedConcept("{-1:1}", "UCUM", "{-1:1}")


def concept(code: Code) -> CodedConcept:
    """Return an assessment's code as highdicom's."""
    return CodedConcept(code.value, code.scheme, code.meaning)
