"""Single faults, each put into good results of one study: what must never leave.

The gate has to stop every one of them (`test_faults.py`); `python -m tests.bench.faults` asks the
outside validators about the same, for the table in docs/conformance-gate.md.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, MRImageStorage

from inference.assessment import Assessment, Laterality
from sr_writer.content_items import is_named, walk
from sr_writer.kinds import LANGUAGES, Kind
from sr_writer.results import Result
from sr_writer.writing import write_results
from tests.sr_writer.series import (
    LESION_AT,
    PROVENANCE,
    as_received,
    lesion,
    make_volume,
    mixed,
    present_finding,
    segment,
    spooled,
)

STRANGER = UID("2.25.1234567890")
VOLUME = spooled(make_volume())

CERTAINTY, FINDING_SITE = codes.DCM.CertaintyOfFinding, codes.SCT.FindingSite
TRACKING, TRACKING_UID = codes.DCM.TrackingIdentifier, codes.DCM.TrackingUniqueIdentifier


def everything(volume) -> Assessment:
    """Two lesions with outlines, left and right; findings on slices, absent and undetermined."""
    shown = mixed(volume)
    other = lesion(
        volume.grid.affine, volume.grid.spatial_shape, LESION_AT * [-1, 1, 1] + [0, 30, -9], 11.0
    )
    found = present_finding(other, 2, "second")
    volume_ml = float(other.sum() * np.prod(volume.grid.spacing)) / 1000
    amount = found.measurements[0].model_copy(update={"value": volume_ml})
    second = found.model_copy(
        update={
            "laterality": Laterality.RIGHT,
            "probability": 0.88,
            "measurements": (amount, found.measurements[1]),
        }
    )
    record = shown.record.model_copy(
        update={
            "findings": (*shown.record.findings, second),
            "segments": (segment(1), segment(2, "Second")),
        }
    )
    masks = {1: shown.masks[1], 2: other}
    probabilities = {1: np.where(masks[1], np.uint8(220), np.uint8(8))}
    return Assessment(record, masks, probabilities)


@cache
def good_results() -> tuple[Result, ...]:
    """Every kind of object in every form, as the receiver reads it."""
    results = write_results(
        everything(VOLUME),
        VOLUME.sources,
        VOLUME,
        PROVENANCE,
        predecessors={},
        kinds=frozenset(Kind),
        languages=LANGUAGES,
    )
    return tuple(
        Result(each.kind, as_received(each.dataset), each.rank, each.language) for each in results
    )


@dataclass
class Made:
    """The results of one study, to put a fault into."""

    results: Sequence[Result]

    def first(self, kind: Kind) -> Dataset:
        """The best form of a kind."""
        return next(each.dataset for each in self.results if each.kind is kind)

    @property
    def sr(self) -> Dataset:
        """The Comprehensive 3D SR."""
        return self.first(Kind.REPORT)

    @property
    def seg(self) -> Dataset:
        """The SEG."""
        return self.first(Kind.SEGMENTATION)

    @property
    def datasets(self) -> list[Dataset]:
        """All objects."""
        return [each.dataset for each in self.results]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, in the object of a kind, and what the gate says of it."""

    name: str
    kind: Kind
    spoil: Callable[[Made], None]
    said: str


def judged(kind: Kind) -> tuple[Result, ...]:
    """The good results that an object of a kind is judged with: the SEG, and the best of it."""
    segmentation, report = (
        next(each for each in good_results() if each.kind is wanted)
        for wanted in (Kind.SEGMENTATION, Kind.REPORT)
    )
    if kind in {Kind.SEGMENTATION, Kind.REPORT}:
        return segmentation, report
    return segmentation, next(each for each in good_results() if each.kind is kind)


def spoiled(fault: Fault) -> Made:
    """The good results that matter, with one fault."""
    made = Made(
        [Result(e.kind, deepcopy(e.dataset), e.rank, e.language) for e in judged(fault.kind)]
    )
    fault.spoil(made)
    return made


def item(report: Dataset, code, index: int = 0) -> Dataset:
    """The content item of this name, in document order."""
    return [each for each in walk(report) if is_named(each, code)][index]


def parent_of(report: Dataset, code) -> Dataset:
    """The item that has the first item of this name."""
    return next(
        each
        for each in (report, *walk(report))
        if any(is_named(child, code) for child in each.get("ContentSequence", []))
    )


def outlined(report: Dataset, index: int = 0) -> Dataset:
    """A measurement group that refers to a segment."""
    return [
        each
        for each in walk(report)
        if is_named(each, codes.DCM.MeasurementGroup)
        and any(is_named(child, codes.DCM.ReferencedSegment) for child in each.ContentSequence)
    ][index]


def put(kind: Kind, *way: str | int | Callable[[Dataset], Dataset], value) -> Callable:
    """Set what lies this way below the object: keywords, positions in sequences, steps."""

    def spoil(made: Made) -> None:
        target = made.first(kind)
        for step in way[:-1]:
            if callable(step):
                target = step(target)
            elif isinstance(step, int):
                target = target[step]
            else:
                target = target[step].value
        setattr(target, way[-1], value)

    return spoil


def cut(kind: Kind, *way: str | int | Callable[[Dataset], Dataset]) -> Callable:
    """Delete an attribute."""

    def spoil(made: Made) -> None:
        target = made.first(kind)
        for step in way[:-1]:
            target = step(target) if callable(step) else target[step]
            target = getattr(target, "value", target) if not isinstance(target, Dataset) else target
        delattr(target, way[-1])

    return spoil


def drop(code, index: int = 0) -> Callable:
    """Take an item out of the first group on a segment."""

    def spoil(made: Made) -> None:
        items = outlined(made.sr).ContentSequence
        items.remove([each for each in items if is_named(each, code)][index])

    return spoil


def at(code, index: int = 0) -> Callable[[Dataset], Dataset]:
    """The way to a content item."""
    return lambda report: item(report, code, index)


def in_group(code, group: int = 0) -> Callable[[Dataset], Dataset]:
    """The way to an item of a group on a segment."""
    return lambda report: next(
        each for each in walk(outlined(report, group)) if is_named(each, code)
    )


def measured(code) -> tuple:
    """The way to the measured value of the first group on a segment."""
    return in_group(code), "MeasuredValueSequence", 0


def unit(code) -> tuple:
    """The way to its unit."""
    return *measured(code), "MeasurementUnitsCodeSequence", 0


def frame(index: int = 0) -> tuple:
    """The way to a frame of the SEG."""
    return "PerFrameFunctionalGroupsSequence", index


SHARED = ("SharedFunctionalGroupsSequence", 0)
EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", 0, "ReferencedSeriesSequence")
REFERENCED = ("ReferencedSOPSequence", 0)
VOLUME_VALUE = measured(codes.SCT.Volume)
FIRST_SEGMENT = ("SegmentSequence", 0)
SEG, SR = Kind.SEGMENTATION, Kind.REPORT
MAP, SC, PR = Kind.PARAMETRIC_MAP, Kind.SECONDARY_CAPTURE, Kind.PRESENTATION_STATE
KO, PDF = Kind.KEY_OBJECTS, Kind.PDF


def pixels(change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """Change the frames [frame, row, column] of a SEG and nothing else."""

    def spoil(made: Made) -> None:
        seg = made.seg
        shape = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
        stored = np.frombuffer(seg.PixelData, np.uint8)
        bits = np.unpackbits(stored, count=int(np.prod(shape)), bitorder="little").reshape(shape)
        packed = np.packbits(np.ascontiguousarray(change(bits)), axis=None, bitorder="little")
        seg.PixelData = packed.tobytes() + b"\0" * (packed.size % 2)

    return spoil


def shift_bits(bits: np.ndarray) -> np.ndarray:
    return np.roll(bits.reshape(-1), 3).reshape(bits.shape)


def shift_positions(made: Made) -> None:
    """Each frame says to lie one slice further on, its source image stays."""
    step = np.array([0, 0, float(VOLUME.sources[0].SliceThickness)])
    for group in made.seg.PerFrameFunctionalGroupsSequence:
        plane = group.PlanePositionSequence[0]
        plane.ImagePositionPatient = list(np.array(plane.ImagePositionPatient, float) + step)


def reverse_slices(made: Made) -> None:
    """Frames of the first segment take each other's place in reverse; what they show stays."""
    of_first = [
        group
        for group in made.seg.PerFrameFunctionalGroupsSequence
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1
    ]
    for keyword in ("PlanePositionSequence", "DerivationImageSequence"):
        values = [group[keyword].value for group in of_first]
        for group, value in zip(of_first, values[::-1], strict=True):
            setattr(group, keyword, value)


def swap_groups(made: Made) -> None:
    """Frames of the two segments swap what they say of themselves, so pixels are of the other."""
    groups = made.seg.PerFrameFunctionalGroupsSequence
    for group in groups:
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 3 - number


def swap_segments(*keywords: str) -> Callable:
    def spoil(made: Made) -> None:
        first, second = made.seg.SegmentSequence
        for keyword in keywords:
            one, other = first[keyword].value, second[keyword].value
            setattr(first, keyword, other)
            setattr(second, keyword, one)

    return spoil


def move_all_frames(made: Made) -> None:
    """Frames with all that is said of them change places, their pixels do not."""
    groups = list(made.seg.PerFrameFunctionalGroupsSequence)
    made.seg.PerFrameFunctionalGroupsSequence = groups[::-1]


def swap_sides(made: Made) -> None:
    """What is left is called right, and the other way round."""
    for each in walk(made.sr):
        if is_named(each, codes.SCT.Laterality):
            code = each.ConceptCodeSequence[0]
            is_left = code.CodeValue == codes.SCT.Left.value
            new = codes.SCT.Right if is_left else codes.SCT.Left
            code.CodeValue, code.CodeMeaning = new.value, new.meaning


def same_tracking(made: Made) -> None:
    uid = made.seg.SegmentSequence[0].TrackingUID
    made.seg.SegmentSequence[1].TrackingUID = uid
    for each in walk(made.sr):
        if is_named(each, TRACKING_UID):
            each.UID = uid


def say_verified(made: Made) -> None:
    for each in walk(made.sr):
        if "TextValue" in each:
            each.TextValue = each.TextValue.replace("Unverified", "Verified")


def say_no_demonstration(made: Made) -> None:
    for each in walk(made.sr):
        if str(each.get("TextValue", "")).startswith("Demonstration"):
            each.TextValue = "A model."


def answer(value) -> Callable:
    """The absent finding is said to be something else."""

    def spoil(made: Made) -> None:
        absent = next(
            each
            for each in walk(made.sr)
            if each.get("ValueType") == "CODE"
            and each.ConceptCodeSequence[0].CodeValue == codes.SCT.Absent.value
        )
        absent.ConceptCodeSequence[0].CodeValue = value.value
        absent.ConceptCodeSequence[0].CodeMeaning = value.meaning

    return spoil


def gb_bytes(made: Made) -> None:
    """Text of GB18030 under a header of UTF-8, as a receiver reads it."""
    title = "人工智能第二意见".encode("gb18030").decode("utf-8", errors="replace")
    made.sr.SeriesDescription = title


def private_code(made: Made) -> None:
    code = outlined(made.sr).ContentSequence[2].ConceptCodeSequence[0]
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "BLEED", "99SITE", "Bleeding"


def one_uid(made: Made) -> None:
    made.seg.SOPInstanceUID = made.sr.SOPInstanceUID
    made.seg.file_meta.MediaStorageSOPInstanceUID = made.sr.SOPInstanceUID


def source_uid(made: Made) -> None:
    uid = VOLUME.sources[0].SOPInstanceUID
    made.sr.SOPInstanceUID = made.sr.file_meta.MediaStorageSOPInstanceUID = uid


def second_equipment(made: Made) -> None:
    sequence = made.sr.ContributingEquipmentSequence
    sequence.append(deepcopy(sequence[0]))


def twice(made: Made) -> None:
    container = item(made.sr, codes.DCM.ImagingMeasurements)
    container.ContentSequence.append(deepcopy(outlined(made.sr)))


def no_measurements(made: Made) -> None:
    made.sr.ContentSequence.remove(item(made.sr, codes.DCM.ImagingMeasurements))


def model_of_other_weights(made: Made) -> None:
    """All of the SR consistently names another device."""
    for holder in (made.sr, made.sr.ContributingEquipmentSequence[0]):
        holder.DeviceUID = STRANGER
    item(made.sr, codes.DCM.DeviceObserverUID).UID = STRANGER


def double(keyword_path: tuple) -> Callable:
    """The value of a measurement is a thousand times what it is."""

    def spoil(made: Made) -> None:
        target = made.sr
        for step in keyword_path:
            target = step(target) if callable(step) else target[step]
            target = target if isinstance(target, Dataset) else target.value
        target.NumericValue = float(target.NumericValue) * 1000

    return spoil


def no_warning(made: Made) -> None:
    """The picture is black all over."""
    made.first(SC).PixelData = bytes(len(made.first(SC).PixelData))


def line_outside(made: Made) -> None:
    for annotation in made.first(PR).GraphicAnnotationSequence:
        for line in annotation.get("GraphicObjectSequence", []):
            line.GraphicData = [each + 500 for each in line.GraphicData]


def other_title(made: Made) -> None:
    code = made.first(KO).ConceptNameCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "113013", "Best In Set"


def scale_map(factor: float) -> Callable:
    def spoil(made: Made) -> None:
        values = np.frombuffer(made.first(MAP).FloatPixelData, "<f4")
        made.first(MAP).FloatPixelData = (values * np.float32(factor)).tobytes()

    return spoil


def flip_map(made: Made) -> None:
    dataset = made.first(MAP)
    shape = (int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))
    values = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(shape)
    dataset.FloatPixelData = np.ascontiguousarray(values[:, :, ::-1]).tobytes()


FAULTS = (
    # whose it is
    Fault("SR of another patient ID", SR, put(SR, "PatientID", value="P-0043"), "PatientID"),
    Fault("SEG of another patient ID", SEG, put(SEG, "PatientID", value="P-0043"), "PatientID"),
    Fault("another patient name", SEG, put(SEG, "PatientName", value="Li^Si"), "PatientName"),
    Fault(
        "another birth date",
        SR,
        put(SR, "PatientBirthDate", value="19580212"),
        "PatientBirthDate",
    ),
    Fault("another sex", SEG, put(SEG, "PatientSex", value="F"), "PatientSex"),
    Fault("no patient name", SR, cut(SR, "PatientName"), "lacks PatientName"),
    Fault(
        "another study", SR, put(SR, "StudyInstanceUID", value=STRANGER), "StudyInstanceUID is not"
    ),
    Fault("another study date", SEG, put(SEG, "StudyDate", value="20261120"), "StudyDate"),
    Fault(
        "another accession number",
        SR,
        put(SR, "AccessionNumber", value="A-2026-2"),
        "AccessionNumber",
    ),
    Fault(
        "another accession number in the order",
        SR,
        put(SR, "ReferencedRequestSequence", 0, "AccessionNumber", value="A-2026-2"),
        "ReferencedRequestSequence",
    ),
    Fault(
        "the source's series",
        SR,
        put(SR, "SeriesInstanceUID", value=VOLUME.sources[0].SeriesInstanceUID),
        "SeriesInstanceUID is the source's",
    ),
    Fault("SR and SEG of one SOP Instance UID", SEG, one_uid, "SOPInstanceUID is not unique"),
    Fault("SOP Instance UID of a source", SR, source_uid, "SOPInstanceUID is not unique"),
    Fault(
        "SR and SEG in one series",
        SEG,
        lambda made: setattr(made.seg, "SeriesInstanceUID", made.sr.SeriesInstanceUID),
        "one for two modalities",
    ),
    Fault(
        "file meta of another instance",
        SR,
        lambda made: setattr(made.sr.file_meta, "MediaStorageSOPInstanceUID", STRANGER),
        "MediaStorageSOPInstanceUID",
    ),
    Fault("SR of modality CT", SR, put(SR, "Modality", value="CT"), "Modality is CT"),
    # who says it
    Fault(
        "no Device UID in Contributing Equipment",
        SR,
        cut(SR, "ContributingEquipmentSequence", 0, "DeviceUID"),
        "lacks DeviceUID",
    ),
    Fault("no Device UID", SEG, cut(SEG, "DeviceUID"), "lacks DeviceUID"),
    Fault("Device UID of another model", SR, model_of_other_weights, "DeviceUID is not that"),
    Fault(
        "another Device UID in the observer",
        SR,
        put(SR, at(codes.DCM.DeviceObserverUID), "UID", value=STRANGER),
        "Device Observer UID",
    ),
    Fault("no Contributing Equipment", SEG, cut(SEG, "ContributingEquipmentSequence"), "0 items"),
    Fault("two items of equipment", SR, second_equipment, "2 items"),
    Fault(
        "another model name",
        SEG,
        put(SEG, "ManufacturerModelName", value="Other"),
        "ManufacturerModelName",
    ),
    Fault("no software version", SR, put(SR, "SoftwareVersions", value=None), "SoftwareVersions"),
    Fault("no algorithm in a group", SR, drop(codes.DCM.AlgorithmName), "Algorithm Name"),
    Fault(
        "segment drawn by hand",
        SEG,
        put(SEG, "SegmentSequence", 0, "SegmentAlgorithmType", value="MANUAL"),
        "other than AUTOMATIC",
    ),
    # how far it can be trusted
    Fault("verified", SR, put(SR, "VerificationFlag", value="VERIFIED"), "VerificationFlag"),
    Fault("final", SR, put(SR, "PreliminaryFlag", value="FINAL"), "PreliminaryFlag"),
    Fault(
        "complete, though a finding is undetermined",
        SR,
        put(SR, "CompletionFlag", value="COMPLETE"),
        "undetermined finding",
    ),
    Fault("completion flag of no meaning", SR, put(SR, "CompletionFlag", value="DONE"), "DONE"),
    Fault("no word that it is unverified", SR, say_verified, "unverified AI opinion"),
    Fault("no word that it is a demonstration", SR, say_no_demonstration, "demonstration"),
    Fault("absent finding said to be present", SR, answer(codes.SCT.Present), "assessment"),
    Fault("absent finding said to be undetermined", SR, answer(codes.SCT.Undetermined), "assess"),
    Fault(
        "certainty of 973 %",
        SR,
        put(SR, *measured(CERTAINTY), "NumericValue", value=973),
        "not within 0 to 100 %",
    ),
    Fault(
        "certainty of another finding",
        SR,
        put(SR, *measured(CERTAINTY), "NumericValue", value=12.5),
        "assessment",
    ),
    # what it refers to
    Fault("no evidence", SR, cut(SR, "CurrentRequestedProcedureEvidenceSequence"), "Evidence"),
    Fault(
        "evidence of a stranger",
        SR,
        put(
            SR, *EVIDENCE, 0, "ReferencedSOPSequence", 0, "ReferencedSOPInstanceUID", value=STRANGER
        ),
        "neither source nor sent along",
    ),
    Fault(
        "a source left out of the evidence",
        SR,
        lambda made: (
            made.sr.CurrentRequestedProcedureEvidenceSequence[0]
            .ReferencedSeriesSequence[0]
            .ReferencedSOPSequence.pop()
        ),
        "lacks 1 instances",
    ),
    Fault(
        "evidence in the wrong series",
        SR,
        put(SR, *EVIDENCE, 0, "SeriesInstanceUID", value=STRANGER),
        "wrong study or series",
    ),
    Fault(
        "evidence in the wrong study",
        SR,
        put(SR, *EVIDENCE[:2], "StudyInstanceUID", value=STRANGER),
        "wrong study or series",
    ),
    Fault(
        "segment of another SEG",
        SR,
        put(
            SR,
            in_group(codes.DCM.ReferencedSegment),
            "ReferencedSOPSequence",
            0,
            "ReferencedSOPInstanceUID",
            value=STRANGER,
        ),
        "no SEG that is sent along",
    ),
    Fault(
        "segment that the SEG lacks",
        SR,
        put(
            SR,
            in_group(codes.DCM.ReferencedSegment),
            "ReferencedSOPSequence",
            0,
            "ReferencedSegmentNumber",
            value=7,
        ),
        "no SEG that is sent along",
    ),
    Fault(
        "the other finding's segment",
        SR,
        put(
            SR,
            in_group(codes.DCM.ReferencedSegment),
            "ReferencedSOPSequence",
            0,
            "ReferencedSegmentNumber",
            value=2,
        ),
        "not the segment's TrackingUID",
    ),
    Fault(
        "wrong SOP class of a slice",
        SR,
        put(
            SR,
            in_group(codes.DCM.SourceImageForSegmentation),
            "ReferencedSOPSequence",
            0,
            "ReferencedSOPClassUID",
            value=MRImageStorage,
        ),
        "wrong ReferencedSOPClassUID",
    ),
    Fault(
        "frame number of a single-frame image",
        SR,
        put(
            SR,
            in_group(codes.DCM.SourceImageForSegmentation),
            "ReferencedSOPSequence",
            0,
            "ReferencedFrameNumber",
            value=3,
        ),
        "frame number",
    ),
    Fault(
        "slice of the segment left out",
        SR,
        drop(codes.DCM.SourceImageForSegmentation),
        "other slices than the segment's frames",
    ),
    Fault("no segment in a group", SR, drop(codes.DCM.ReferencedSegment), "Referenced Segment"),
    Fault(
        "frame of a stranger",
        SEG,
        put(
            SEG,
            *frame(),
            "DerivationImageSequence",
            0,
            "SourceImageSequence",
            0,
            "ReferencedSOPInstanceUID",
            value=STRANGER,
        ),
        "neither source nor sent along",
    ),
    Fault(
        "frame without source image",
        SEG,
        cut(SEG, *frame(), "DerivationImageSequence"),
        "no source image",
    ),
    Fault(
        "frame on the next slice's image",
        SEG,
        lambda made: setattr(
            made.seg.PerFrameFunctionalGroupsSequence[0],
            "DerivationImageSequence",
            deepcopy(made.seg.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence),
        ),
        "does not lie on its source image",
    ),
    Fault(
        "SEG of another series",
        SEG,
        put(SEG, "ReferencedSeriesSequence", 0, "SeriesInstanceUID", value=STRANGER),
        "names another series",
    ),
    Fault("SEG that refers to no series", SEG, cut(SEG, "ReferencedSeriesSequence"), "is missing"),
    # what it says
    Fault("no tracking UID", SR, drop(TRACKING_UID), "Tracking Unique Identifier"),
    Fault("no tracking identifier", SR, drop(TRACKING), "Tracking Identifier"),
    Fault("one tracking UID for two lesions", SR, same_tracking, "racking"),
    Fault(
        "another tracking UID in the SEG",
        SEG,
        put(SEG, "SegmentSequence", 0, "TrackingUID", value=STRANGER),
        "not the segment's TrackingUID",
    ),
    Fault(
        "segment without tracking UID", SEG, cut(SEG, "SegmentSequence", 0, "TrackingUID"), "Trac"
    ),
    Fault("no finding in a group", SR, drop(codes.DCM.Finding), "exactly one Finding"),
    Fault("a group twice", SR, twice, "tracking"),
    Fault("sides swapped", SR, swap_sides, "assessment"),
    Fault("no measurements at all", SR, no_measurements, "assessment"),
    Fault(
        "volume in mm",
        SR,
        put(SR, *unit(codes.SCT.Volume), "CodeValue", value="mm"),
        "unit that fits",
    ),
    Fault(
        "volume in mm3 with the number of mL",
        SR,
        put(SR, *unit(codes.SCT.Volume), "CodeValue", value="mm3"),
        "check value and unit",
    ),
    Fault("volume a thousand times too large", SR, double(measured(codes.SCT.Volume)), "far from"),
    Fault(
        "volume of nothing",
        SR,
        put(SR, *measured(codes.SCT.Volume), "NumericValue", value=0),
        "cannot be 0",
    ),
    Fault(
        "length in mL",
        SR,
        put(SR, *unit(codes.SCT.LongAxis), "CodeValue", value="mL"),
        "unit that fits",
    ),
    Fault("length ten times too long", SR, double(measured(codes.SCT.LongAxis)), "measurements"),
    Fault(
        "number that is none",
        SR,
        lambda made: measured_value(made, codes.SCT.Volume, b"NaN"),
        "no DS value",
    ),
    Fault(
        "number without value",
        SR,
        cut(SR, *measured(codes.SCT.Volume), "NumericValue"),
        "no number",
    ),
    Fault(
        "measurement as a property",
        SR,
        put(SR, in_group(codes.SCT.Volume), "RelationshipType", value="HAS PROPERTIES"),
        "RelationshipType",
    ),
    Fault(
        "finding as context",
        SR,
        put(SR, in_group(codes.DCM.Finding), "RelationshipType", value="HAS OBS CONTEXT"),
        "RelationshipType",
    ),
    Fault(
        "relationship of no meaning",
        SR,
        put(SR, in_group(codes.DCM.Finding), "RelationshipType", value="CONTAINING"),
        "RelationshipType",
    ),
    Fault("empty text", SR, put(SR, at(codes.DCM.Comment), "TextValue", value=""), "is empty"),
    Fault("no template", SR, cut(SR, "ContentTemplateSequence"), "TID 1500"),
    Fault(
        "another title",
        SR,
        put(SR, "ConceptNameCodeSequence", 0, "CodeValue", value="126001"),
        "title it so",
    ),
    Fault(
        "position in the image library off",
        SR,
        put(
            SR,
            at(codes.DCM.ImagePositionPatientZ),
            "MeasuredValueSequence",
            0,
            "NumericValue",
            value=999,
        ),
        "Image Position",
    ),
    Fault(
        "another frame of reference in the image library",
        SR,
        put(SR, at(codes.DCM.FrameOfReferenceUID), "UID", value=STRANGER),
        "Frame of Reference UID in the image library",
    ),
    # how it is written
    Fault("no content date", SR, cut(SR, "ContentDate"), "lacks ContentDate"),
    Fault("content date of month 13", SR, put(SR, "ContentDate", value="20261341"), "no DA value"),
    Fault("content time of hour 25", SEG, put(SEG, "ContentTime", value="256000"), "no TM value"),
    Fault("no manufacturer", SEG, put(SEG, "Manufacturer", value=""), "lacks Manufacturer"),
    Fault("no series number", SR, cut(SR, "SeriesNumber"), "lacks SeriesNumber"),
    Fault("no instance number", SEG, cut(SEG, "InstanceNumber"), "lacks InstanceNumber"),
    Fault(
        "invalid UID",
        SEG,
        put(SEG, "SegmentSequence", 0, "TrackingUID", value="1.02.3"),
        "valid UID",
    ),
    Fault(
        "character set that lacks Chinese",
        SR,
        put(SR, "SpecificCharacterSet", value="ISO_IR 100"),
        "SpecificCharacterSet",
    ),
    Fault("GB18030 under UTF-8", SR, gb_bytes, "is not encoded"),
    Fault(
        "label of 70 characters",
        SEG,
        put(SEG, "SegmentSequence", 0, "SegmentLabel", value="x" * 70),
        "no LO value",
    ),
    Fault(
        "code without meaning",
        SR,
        put(SR, in_group(codes.DCM.Finding), "ConceptCodeSequence", 0, "CodeMeaning", value=""),
        "no CodeMeaning",
    ),
    Fault("private code of an unknown scheme", SR, private_code, "99SITE"),
    Fault(
        "content without value type", SR, cut(SR, in_group(codes.DCM.Finding), "ValueType"), "Value"
    ),
    Fault("no series module", SEG, cut(SEG, "SeriesInstanceUID"), "lacks SeriesInstanceUID"),
    # where it lies
    Fault(
        "another frame of reference",
        SEG,
        put(SEG, "FrameOfReferenceUID", value=STRANGER),
        "FrameOfReferenceUID",
    ),
    Fault("no frame of reference", SEG, cut(SEG, "FrameOfReferenceUID"), "FrameOfReferenceUID"),
    Fault(
        "columns reversed in the header",
        SEG,
        put(
            SEG,
            *SHARED,
            "PlaneOrientationSequence",
            0,
            "ImageOrientationPatient",
            value=[-1, 0, 0, 0, 1, 0],
        ),
        "ImageOrientationPatient",
    ),
    Fault("positions one slice on", SEG, shift_positions, "does not lie on its source image"),
    Fault(
        "frame moved by half a millimetre",
        SEG,
        lambda made: setattr(
            made.seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0],
            "ImagePositionPatient",
            [-78.5, -98.7, 12],
        ),
        "does not lie on its source image",
    ),
    Fault("slices reversed", SEG, reverse_slices, "mask"),
    Fault("frames in another order than their pixels", SEG, move_all_frames, "mask"),
    Fault("rows reversed in the pixels", SEG, pixels(lambda bits: bits[:, ::-1]), "mask"),
    Fault("columns reversed in the pixels", SEG, pixels(lambda bits: bits[:, :, ::-1]), "mask"),
    Fault("bits shifted by three pixels", SEG, pixels(shift_bits), "mask"),
    Fault("empty pixels", SEG, pixels(np.zeros_like), "mask"),
    Fault("segments' pixels swapped", SEG, swap_groups, "mask"),
    Fault("segments' numbers swapped", SEG, swap_segments("SegmentNumber"), "SegmentSequence"),
    Fault(
        "segments' labels and tracking swapped",
        SEG,
        swap_segments("SegmentLabel", "TrackingUID", "TrackingID"),
        "TrackingUID",
    ),
    Fault(
        "another property category",
        SEG,
        put(
            SEG,
            "SegmentSequence",
            0,
            "SegmentedPropertyCategoryCodeSequence",
            0,
            "CodeValue",
            value="91723000",
        ),
        "ategory",
    ),
    Fault(
        "another property type",
        SEG,
        put(
            SEG,
            "SegmentSequence",
            0,
            "SegmentedPropertyTypeCodeSequence",
            0,
            "CodeValue",
            value="108369006",
        ),
        "Type",
    ),
    Fault(
        "pixel spacing swapped",
        SEG,
        put(SEG, *SHARED, "PixelMeasuresSequence", 0, "PixelSpacing", value=[4.0, 4.2]),
        "PixelSpacing",
    ),
    Fault(
        "another slice distance",
        SEG,
        put(SEG, *SHARED, "PixelMeasuresSequence", 0, "SpacingBetweenSlices", value=4.0),
        "SpacingBetweenSlices",
    ),
    Fault("no pixel measures", SEG, cut(SEG, *SHARED, "PixelMeasuresSequence"), "PixelSpacing"),
    Fault("a row too few", SEG, put(SEG, "Rows", value=47), "Rows"),
    Fault(
        "half the pixels",
        SEG,
        lambda made: setattr(
            made.seg, "PixelData", made.seg.PixelData[: len(made.seg.PixelData) // 2]
        ),
        "PixelData",
    ),
    Fault(
        "a frame too few",
        SEG,
        lambda made: made.seg.PerFrameFunctionalGroupsSequence.pop(),
        "NumberOfFrames",
    ),
    Fault("no pixel data", SEG, cut(SEG, "PixelData"), "PixelData"),
    Fault("SEG of 8 bits", SEG, put(SEG, "BitsAllocated", value=8), "BitsAllocated"),
    Fault("no segment sequence", SEG, cut(SEG, "SegmentSequence"), "SegmentSequence"),
    # what stands in for, or goes beside, SR and SEG
    Fault("capture of another patient", SC, put(SC, "PatientID", value="P-0043"), "PatientID"),
    Fault("capture of no conversion", SC, cut(SC, "ConversionType"), "lacks ConversionType"),
    Fault(
        "capture without burned in words",
        SC,
        put(SC, "BurnedInAnnotation", value="NO"),
        "BurnedInAnnotation",
    ),
    Fault("capture without warning", SC, no_warning, "no warning"),
    Fault("capture of other sides", SC, put(SC, "PatientOrientation", value=["R", "P"]), "letters"),
    Fault(
        "capture of half the pixels",
        SC,
        lambda made: setattr(made.first(SC), "PixelData", made.first(SC).PixelData[:1000]),
        "PixelData",
    ),
    Fault(
        "capture of a stranger",
        SC,
        put(SC, "SourceImageSequence", 0, "ReferencedSOPInstanceUID", value=STRANGER),
        "SourceImageSequence",
    ),
    Fault(
        "presentation state of a stranger",
        PR,
        put(PR, "ReferencedSeriesSequence", 0, "SeriesInstanceUID", value=STRANGER),
        "names another series",
    ),
    Fault(
        "presentation state without area",
        PR,
        cut(PR, "DisplayedAreaSelectionSequence"),
        "lacks DisplayedAreaSelectionSequence",
    ),
    Fault(
        "presentation state whose line leaves the image",
        PR,
        line_outside,
        "outside the image",
    ),
    Fault(
        "presentation state that does not say unverified",
        PR,
        put(PR, "ContentLabel", value="AI"),
        "AI_UNVERIFIED",
    ),
    Fault(
        "key objects without evidence",
        KO,
        cut(KO, "CurrentRequestedProcedureEvidenceSequence"),
        "lacks CurrentRequestedProcedureEvidenceSequence",
    ),
    Fault(
        "key objects that a person would have chosen",
        KO,
        lambda made: made.first(KO).ContentSequence.remove(
            item(made.first(KO), codes.DCM.DeviceObserverUID)
        ),
        "device observer",
    ),
    Fault("key objects of another study", KO, put(KO, "StudyInstanceUID", value=STRANGER), "Study"),
    Fault("key objects of another title", KO, other_title, "113000"),
    Fault(
        "PDF of another accession number",
        PDF,
        put(PDF, "AccessionNumber", value="A-2026-2"),
        "AccessionNumber",
    ),
    Fault(
        "PDF cut short",
        PDF,
        lambda made: setattr(
            made.first(PDF), "EncapsulatedDocument", made.first(PDF).EncapsulatedDocument[:2000]
        ),
        "no whole PDF",
    ),
    Fault(
        "PDF of another type",
        PDF,
        put(PDF, "MIMETypeOfEncapsulatedDocument", value="text/plain"),
        "MIMETypeOfEncapsulatedDocument",
    ),
    Fault("PDF that does not say unverified", PDF, put(PDF, "DocumentTitle", value="AI"), "Title"),
    Fault(
        "map of another frame of reference",
        MAP,
        put(MAP, "FrameOfReferenceUID", value=STRANGER),
        "FrameOfReferenceUID",
    ),
    Fault("map of percent", MAP, scale_map(100), "no probability"),
    Fault("map of half the probability", MAP, scale_map(0.5), "not the assessment's probability"),
    Fault("map with columns reversed", MAP, flip_map, "map"),
)


def measured_value(made: Made, code, value: bytes) -> None:
    """Write a number as it stands in the file, valid or not."""
    holder = measured(code)[0](made.sr).MeasuredValueSequence[0]
    holder["NumericValue"] = holder["NumericValue"].__class__(
        "NumericValue", "DS", value.decode(), validation_mode=0
    )
