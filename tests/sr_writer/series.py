"""Simulated series and assessments, small enough to write in milliseconds, with known truth."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from inference.assessment import (
    Assessment,
    AssessmentRecord,
    Code,
    Evidence,
    Finding,
    Laterality,
    Measurement,
    ModelIdentity,
    Presence,
    Segment,
    Text,
)
from inference.volume import Geometry, GeometryVerdict, Volume
from sr_writer.content_items import is_named, walk
from sr_writer.provenance import Provenance

HAEMORRHAGE = Code(value="50960005", scheme="SCT", meaning="Hemorrhage")
MIDLINE_SHIFT = Code(value="RID39486", scheme="RADLEX", meaning="Midline shift")
SKULL_FRACTURE = Code(value="71642004", scheme="SCT", meaning="Fracture of skull")
HYDROCEPHALUS = Code(value="230745008", scheme="SCT", meaning="Hydrocephalus")
ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
LONG_AXIS = Code(value="103339001", scheme="SCT", meaning="Long axis")
MILLILITRE = Code(value="mL", scheme="UCUM", meaning="mL")
MILLIMETRE = Code(value="mm", scheme="UCUM", meaning="mm")

MODEL = ModelIdentity(
    name="Overread demonstration head CT",
    version="0.1.0",
    manufacturer="Overread project",
    digest="3f" * 32,
    demonstration=True,
    intended_use=Text(en="Showing that the node works.", zh="用于演示节点运行。"),
)
PROVENANCE = Provenance(
    content="study-revision-1/route-head",
    software_version="0.1.0",
    station_name="OVERREAD",
    written_at=datetime(2026, 11, 21, 10, 30, 5, tzinfo=UTC),
)

# image rows run along the first triple, image columns along the second (PS3.3 C.7.6.2.1.1)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_COS, _SIN = float(np.cos(0.3)), float(np.sin(0.3))
OBLIQUE = (_COS, 0.0, _SIN, 0.0, 1.0, 0.0)

LESION_AT = np.array([32.0, -12.0, 18.0])
"""Centre of the simulated lesion in patient coordinates: left of the midline, LPS mm."""
LESION_RADIUS_MM = 14.0
HEAD_RADII_MM = np.array([68.0, 84.0, 76.0])


def make_volume(
    orientation=AXIAL,
    *,
    descending=False,
    shape=(24, 48, 40),
    spacing=(8.0, 4.2, 4.0),
    modality="CT",
    name="Zhang^Xiao Dong=张^小东=",
    charset="GB18030",
    tilt=0.0,
    slots=None,
    stored="instances",
) -> Volume:
    """A head of ellipsoids around the origin, lying in patient space as the arguments say.

    `shape` counts images, rows and columns; `spacing` is that of the grid. Images lie at the slices
    `slots` of the grid, each shifted down its columns by the gantry's `tilt` in degrees. They are
    `stored` as "instances", as frames of two "enhanced" ones, or as tiles of one "mosaic".
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column) * (-1 if descending else 1)
    slots = np.arange(shape[0]) if slots is None else np.array(slots)
    shifts = slots * spacing[0] * np.tan(np.radians(tilt)) / spacing[1]
    shifts -= shifts.min()
    size = (int(slots[-1]) + 1, shape[1] + int(np.ceil(shifts.max())), shape[2])
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing[0]
    affine[:3, 1] = column * spacing[1]
    affine[:3, 2] = row * spacing[2]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    identity = f"{modality}{orientation}{descending}{shape}{spacing}"
    identity += f"{tilt}{list(slots)}{stored}" if tilt or size[0] > shape[0] else ""
    identity += "" if stored == "instances" else stored
    frame_of_reference = f"2.25.{abs(hash_text(identity))}"
    sources = [
        source_header(
            affine @ np.array([slot, shift, 0, 1.0]),
            index,
            orientation,
            spacing,
            shape,
            modality,
            identity,
            frame_of_reference,
            name,
            charset,
        )
        for index, (slot, shift) in enumerate(zip(slots, shifts, strict=True))
    ]
    grid = hd.Volume(
        array=head(affine, size),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference,
    )
    verdict = judged(slots, tilt, spacing)
    return Volume(
        grid, tuple(sources), verdict, modality, frame_numbers=store(sources, modality, stored)
    )


def head(affine, shape):
    """The voxels of the simulated head, with its lesion."""
    inside = ((patient_points(affine, shape) / HEAD_RADII_MM) ** 2).sum(-1)
    voxels = np.full(shape, -1000, np.float32)
    voxels[inside < 1] = 900
    voxels[inside < 0.86] = 34
    voxels[lesion(affine, shape)] = 68
    return voxels


def judged(slots, tilt, spacing):
    """The verdict on images at these slices of a grid; a step of three or more is a gap."""
    steps = np.diff(slots)
    missing = int((steps[steps >= 3] - 1).sum())
    geometry = Geometry.UNIFORM if (steps == 1).all() else Geometry.UNEVEN
    geometry = Geometry.TILTED if tilt else geometry
    geometry = Geometry.GAPPED if missing else geometry
    return GeometryVerdict(
        geometry,
        accepted=True,
        slices=len(slots),
        spacing_mm=spacing,
        tilt_degrees=abs(tilt),
        missing_slices=missing,
        resampled=geometry is not Geometry.UNIFORM,
    )


def store(sources, modality, stored):
    """Make the headers those of parts of instances, and return their frame numbers.

    The frames of the volume stand backwards in their instance, each after one of another phase.
    """
    if stored == "instances":
        return ()
    if stored == "mosaic":
        for header in sources:
            header.SOPInstanceUID = sources[0].SOPInstanceUID
        return ()
    half = len(sources) // 2
    for part in (sources[:half], sources[half:]):
        for header in part:
            header.SOPInstanceUID = part[0].SOPInstanceUID
            header.SOPClassUID = (
                EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
            )
    return tuple(
        2 * (len(part) - index)
        for part in (sources[:half], sources[half:])
        for index in range(len(part))
    )


def instances_of(volume: Volume) -> list[Dataset]:
    """The headers of the instances that the volume's images are part of, as they were sent."""
    parts: dict[str, list[int]] = {}
    for index, source in enumerate(volume.sources):
        parts.setdefault(source.SOPInstanceUID, []).append(index)
    return [instance_of(volume, part) for part in parts.values()]


def instance_of(volume, part):
    """The header of the one instance that these images are part of."""
    instance = deepcopy(volume.sources[part[0]])
    if len(part) == 1:
        return instance
    del instance.ImagePositionPatient, instance.ImageOrientationPatient
    if not volume.frame_numbers:
        instance.Rows, instance.Columns = 5 * instance.Rows, 5 * instance.Columns
        return instance
    del instance.PixelSpacing, instance.SliceThickness
    instance.NumberOfFrames = 2 * len(part)
    first = volume.sources[part[0]]
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    plane.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    instance.SharedFunctionalGroupsSequence = [shared]
    groups = {}
    for index in part:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = volume.sources[index].ImagePositionPatient
        frame.PlanePositionSequence = [position]
        number = volume.frame_numbers[index]
        groups[number] = groups[number - 1] = frame
    instance.PerFrameFunctionalGroupsSequence = [deepcopy(groups[key]) for key in sorted(groups)]
    return instance


def patient_points(affine, shape):
    """Patient coordinates (LPS mm) of every voxel centre: [slice, row, column, xyz]."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def lesion(affine, shape, centre=LESION_AT, radius=LESION_RADIUS_MM):
    """The voxels of the simulated lesion."""
    return np.linalg.norm(patient_points(affine, shape) - centre, axis=-1) < radius


def hash_text(text):
    """A number that a text always gives."""
    return int.from_bytes(text.encode(), "little") % 10**36


def source_header(
    position,
    index,
    orientation,
    spacing,
    shape,
    modality,
    identity,
    frame_of_reference,
    name,
    charset,
):
    """One instance's header, text still as undecoded bytes of `charset` where it is multi-byte."""
    header = Dataset()
    header.SpecificCharacterSet = charset
    header.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    header.SOPInstanceUID = f"2.25.{hash_text(identity + f'instance{index}')}"
    header.StudyInstanceUID = f"2.25.{hash_text(identity + 'study')}"
    header.SeriesInstanceUID = f"2.25.{hash_text(identity + 'series')}"
    header.FrameOfReferenceUID = frame_of_reference
    header.Modality = modality
    header.PatientName = name
    header.PatientID = "P-0042"
    header.PatientBirthDate = "19580211"
    header.PatientSex = "M"
    header.StudyDate = "20261121"
    header.StudyTime = "093000"
    header.StudyID = "S1"
    header.AccessionNumber = "A-2026-1"
    header.ReferringPhysicianName = "Li^Wei"
    header.StudyDescription = "CT head"
    header.SeriesNumber = 3
    header.InstanceNumber = index + 1
    header.Rows, header.Columns = shape[1:]
    header.PixelSpacing = [spacing[1], spacing[2]]
    header.SliceThickness = spacing[0]
    header.ImageOrientationPatient = [round(cosine, 8) for cosine in orientation]
    header.ImagePositionPatient = [round(float(value), 4) for value in position[:3]]
    request = Dataset()
    request.RequestedProcedureID = "RP-7"
    request.RequestedProcedureDescription = "Head CT"
    request.ScheduledProcedureStepID = "SPS-7"
    header.RequestAttributesSequence = [request]
    return header


def segment(number=1, label="Hemorrhage"):
    return Segment(number=number, label=label, category=ABNORMAL, type=HAEMORRHAGE, site=BRAIN)


def present_finding(mask, number=1, name="hemorrhage"):
    slices = tuple(int(k) for k in np.flatnonzero(mask.any(axis=(1, 2))))
    best = int(mask.sum(axis=(1, 2)).argmax())
    return Finding(
        name=name,
        label=Text(en="Intracranial hemorrhage", zh="颅内出血"),
        code=HAEMORRHAGE,
        presence=Presence.PRESENT,
        probability=0.973,
        threshold=0.62,
        site=BRAIN,
        laterality=Laterality.LEFT,
        evidence=Evidence(segment=number, slices=slices, best_slice=best),
        measurements=(
            Measurement(code=VOLUME, value=11.49404, unit=MILLILITRE, segment=number),
            Measurement(code=LONG_AXIS, value=28.04, unit=MILLIMETRE, segment=number),
        ),
    )


NARRATIVE = Text(
    en="There is a hyperdense lesion in the left hemisphere.", zh="左侧大脑半球见高密度病灶。"
)
LIMITATION = Text(en="Only the brain window was looked at.", zh="仅观察了脑窗。")


def present(volume) -> Assessment:
    """A hemorrhage with its mask."""
    mask = lesion(volume.grid.affine, volume.grid.spatial_shape)
    finding = present_finding(mask)
    record = AssessmentRecord(
        model=MODEL,
        completed=True,
        findings=(finding,),
        segments=(segment(),),
        key_slices=(finding.evidence.best_slice,),
        narrative=NARRATIVE,
        limitations=(LIMITATION,),
        assessed_at=PROVENANCE.written_at,
    )
    return Assessment(record, {1: mask})


def without_region(volume, presence, *, probability=0.031, reason=None) -> Assessment:
    """One finding that no region goes with."""
    finding = present_finding(np.ones((2, 2, 2), bool)).model_copy(
        update={
            "presence": presence,
            "probability": probability,
            "laterality": None,
            "evidence": None,
            "measurements": (),
            "reason": reason,
        }
    )
    record = present(volume).record.model_copy(
        update={"findings": (finding,), "segments": (), "key_slices": (len(volume.sources) // 2,)}
    )
    return Assessment(record)


def on_slices(volume, *best) -> Assessment:
    """Findings of a model that looks at slices and outlines nothing."""
    made = [
        present_finding(np.ones((1, 1, 1), bool)).model_copy(
            update={
                "name": f"midline-shift-{index}",
                "label": Text(en="Midline shift", zh="中线移位"),
                "code": MIDLINE_SHIFT,
                "evidence": Evidence(segment=None, slices=(4, 9, 10), best_slice=index),
                "measurements": (),
            }
        )
        for index in best or (9,)
    ]
    record = present(volume).record.model_copy(
        update={"findings": tuple(made), "segments": (), "key_slices": (4, *best)}
    )
    return Assessment(record)


def absent(volume) -> Assessment:
    return without_region(volume, Presence.ABSENT)


def undetermined(volume) -> Assessment:
    reason = Text(en="The model could not decide.", zh="模型无法判定。")
    return without_region(volume, Presence.UNDETERMINED, probability=0.55, reason=reason)


def mixed(volume) -> Assessment:
    """A finding of each kind in one assessment."""
    shown = present(volume)
    findings = (
        *on_slices(volume).record.findings,
        *shown.record.findings,
        *(
            each(volume).record.findings[0].model_copy(update={"code": code, "name": code.meaning})
            for each, code in ((absent, SKULL_FRACTURE), (undetermined, HYDROCEPHALUS))
        ),
    )
    return Assessment(shown.record.model_copy(update={"findings": findings}), shown.masks)


def two_segments(volume, *, overlap) -> Assessment:
    """Two lesions with a mask each."""
    affine, shape = volume.grid.affine, volume.grid.spatial_shape
    first = lesion(affine, shape)
    centre = LESION_AT + (8.0 if overlap else -60.0) * np.array([1.0, 0.0, 0.0])
    second = lesion(affine, shape, centre)
    findings = (
        present_finding(first, 1),
        present_finding(second, 2, "second").model_copy(update={"laterality": Laterality.RIGHT}),
    )
    record = present(volume).record.model_copy(
        update={"findings": findings, "segments": (segment(1), segment(2))}
    )
    return Assessment(record, {1: first, 2: second})


def place_groups(report) -> list[Dataset]:
    """The groups (TID 1410) that say where findings are."""
    return [each for each in measurement_groups(report) if template_of(each) == "1410"]


def finding_groups(report) -> list[Dataset]:
    """The groups that say what was found."""
    return [each for each in measurement_groups(report) if template_of(each) != "1410"]


def measurement_groups(report):
    """All measurement groups, in document order."""
    return [each for each in walk(report) if is_named(each, codes.DCM.MeasurementGroup)]


def template_of(group):
    """The number of a group's template."""
    return group.ContentTemplateSequence[0].TemplateIdentifier


def bytes_of(dataset: Dataset) -> bytes:
    """The Part 10 file."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def as_received(dataset: Dataset) -> Dataset:
    """What the peer reads: written to Part 10 bytes and read again."""
    return dcmread(BytesIO(bytes_of(dataset)))


def as_spooled(header: Dataset) -> Dataset:
    """The header as the node reads it from its spool: text is still raw bytes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(header.SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(header.SOPInstanceUID)
    header.file_meta = meta
    return as_received(header)


def spooled(volume: Volume) -> Volume:
    """The volume with its headers as the node reads them."""
    return replace(volume, sources=tuple(map(as_spooled, volume.sources)))
