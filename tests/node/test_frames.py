import contextlib
import gzip
import shutil
import struct
import subprocess
import time
import warnings
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from node.frames import Frame, Tile, frames_of
from node.instances import UnreadableInstanceError, read_instance
from node.siemens_csa import parse_csa, prescribed_slices
from tests.multi_frames import (
    csa1,
    csa2,
    mosaic_protocol,
    one,
    set_pixels,
    write_enhanced,
    write_grid,
    write_legacy_converted,
    write_mosaic,
)
from tests.slices import decimals, grid_affine, slice_header, turned, write_part10, write_slices

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nibabel calls its DICOM readers experimental
    from nibabel.nicom import csareader, dicomwrappers

OBLIQUE = turned(grid_affine(), Rotation.from_euler("xyz", [20, -35, 50], degrees=True))


def frames(path: Path) -> tuple[Frame, ...]:
    return frames_of(read_instance(path))


def positions(found: tuple[Frame, ...]) -> np.ndarray:
    return np.array([frame.header.ImagePositionPatient for frame in found], float)


def slice_positions(affine: np.ndarray, count: int) -> np.ndarray:
    return affine[:3, 3] + np.arange(count)[:, None] * affine[:3, 0]


def numbered(count: int, rows: int = 4, columns: int = 6) -> np.ndarray:
    """Pixels that differ everywhere."""
    return np.arange(count * rows * columns, dtype=np.int16).reshape(count, rows, columns)


def without_lengths(header: Dataset) -> None:
    """Have functional groups written without their lengths, as many scanners do."""
    header["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    for item in header.PerFrameFunctionalGroupsSequence:
        item.is_undefined_length_sequence_item = True
        for group in item:
            group.is_undefined_length = True


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableInstanceError) as error:
        frames(path)
    assert error.value.reason.zh
    return error.value.reason.en


# Single-frame images


def test_a_single_frame_image_is_its_instance(tmp_path):
    (path,) = write_slices(tmp_path, numbered(1), grid_affine())
    instance = read_instance(path)

    (frame,) = frames_of(instance)

    assert frame.header is instance.header
    assert (frame.index, frame.number, frame.tile) == (0, None, None)


# Enhanced images


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("defined", [True, False], ids=["lengths", "delimiters"])
def test_a_frame_of_an_enhanced_image_lies_where_its_functional_groups_say(
    tmp_path, modality, syntax, defined
):
    path = write_enhanced(
        tmp_path / "e",
        numbered(5),
        OBLIQUE,
        modality=modality,
        transfer_syntax=syntax,
        change=None if defined else without_lengths,
    )

    found = frames(path)

    np.testing.assert_allclose(positions(found), slice_positions(OBLIQUE, 5), atol=1e-4)
    for k, frame in enumerate(found):
        header = frame.header
        assert (frame.index, frame.number, frame.tile) == (k, k + 1, None)
        np.testing.assert_allclose(header.ImageOrientationPatient[:3], OBLIQUE[:3, 2] / 0.5)
        assert (header.PixelSpacing, header.SliceThickness) == ([0.6, 0.5], 2)
        assert (header.Rows, header.Columns) == (4, 6)
        assert (header.StackID, header.InStackPositionNumber) == ("1", k + 1)
        assert header.SOPInstanceUID == frame.instance.uid
        assert header.FrameOfReferenceUID == frame.instance.header.FrameOfReferenceUID
        assert "NumberOfFrames" not in header
        assert "PerFrameFunctionalGroupsSequence" not in header


def test_a_frames_attributes_have_the_names_of_a_single_frame_image(tmp_path):
    def groups(item: Dataset, k: int) -> None:
        item.MRImageFrameTypeSequence = one(
            FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"], ComplexImageComponent="MAGNITUDE"
        )
        item.MREchoSequence = one(EffectiveEchoTime=4.5 + k)
        item.FrameContentSequence = one(
            FrameAcquisitionNumber=7 + k,
            TemporalPositionIndex=k + 1,
            StackID="1",
            DimensionIndexValues=[1, k + 1],
        )
        item.MRDiffusionSequence = one(
            DiffusionBValue=1000.0 * k,
            DiffusionDirectionality="DIRECTIONAL",
            DiffusionGradientDirectionSequence=one(DiffusionGradientOrientation=[0.0, 0.6, 0.8]),
        )
        item.CardiacSynchronizationSequence = one(NominalCardiacTriggerDelayTime=50.0 * k)
        item.PixelValueTransformationSequence = one(
            RescaleSlope="2.5", RescaleIntercept=str(-k), RescaleType="US"
        )
        item.FrameVOILUTSequence = one(WindowCenter="40", WindowWidth="400")

    path = write_enhanced(tmp_path / "e", numbered(3), grid_affine(), frame_change=groups)

    for k, frame in enumerate(frames(path)):
        header = frame.header
        assert header.ImageType == ["ORIGINAL", "PRIMARY", "M", "NONE"]
        assert header.ComplexImageComponent == "MAGNITUDE"
        assert header.EchoTime == 4.5 + k
        assert header.AcquisitionNumber == 7 + k
        assert header.TemporalPositionIdentifier == header.TemporalPositionIndex == k + 1
        assert header.DiffusionBValue == 1000 * k
        assert header.DiffusionGradientOrientation == [0, 0.6, 0.8]
        assert header.TriggerTime == 50 * k
        assert (header.RescaleSlope, header.RescaleIntercept) == (2.5, -k)
        assert (header.WindowCenter, header.WindowWidth) == (40, 400)


def test_dimension_indices_other_than_the_position_tell_frames_apart(tmp_path):
    def groups(item: Dataset, k: int) -> None:
        item.FrameContentSequence = one(DimensionIndexValues=[1, k % 2 + 1, k // 2 + 1])

    def change(header: Dataset) -> None:
        private = one(DimensionIndexPointer=0x20051035)[0]
        header.DimensionIndexSequence.append(private)

    path = write_enhanced(
        tmp_path / "e", numbered(4), grid_affine(), frame_change=groups, change=change
    )

    found = [list(frame.header.DimensionIndexValues) for frame in frames(path)]
    assert found == [[1, 0, 1], [1, 0, 1], [1, 0, 2], [1, 0, 2]]


def test_a_ct_frame_has_its_own_kernel(tmp_path):
    def groups(item: Dataset, k: int) -> None:
        item.CTImageFrameTypeSequence = one(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
        item.CTReconstructionSequence = one(ConvolutionKernel=["B30f", "B70f"][k])

    path = write_enhanced(
        tmp_path / "e", numbered(2), grid_affine(), modality="CT", frame_change=groups
    )

    assert [frame.header.ConvolutionKernel for frame in frames(path)] == ["B30f", "B70f"]
    assert frames(path)[0].header.RescaleType == "HU"


def test_what_a_frame_says_goes_before_what_all_share(tmp_path):
    def change(header: Dataset) -> None:
        shared = header.SharedFunctionalGroupsSequence[0]
        shared.PlanePositionSequence = one(ImagePositionPatient=decimals([1, 2, 3]))
        shared.PixelValueTransformationSequence = one(RescaleSlope="9", RescaleIntercept="9")
        header.RescaleSlope = "8"
        header.AcquisitionNumber = 3

    path = write_enhanced(tmp_path / "e", numbered(2), grid_affine(), change=change)

    found = frames(path)
    np.testing.assert_allclose(positions(found), slice_positions(grid_affine(), 2))
    assert [frame.header.RescaleSlope for frame in found] == [1, 1]
    assert [frame.header.AcquisitionNumber for frame in found] == [3, 3]


def test_a_group_cannot_change_what_instance_a_frame_belongs_to(tmp_path):
    def groups(item: Dataset, k: int) -> None:
        item.UnassignedPerFrameConvertedAttributesSequence = one(
            SOPInstanceUID=generate_uid(), SOPClassUID=CTImageStorage, Rows=9, SliceLocation="3"
        )

    path = write_enhanced(tmp_path / "e", numbered(2), grid_affine(), frame_change=groups)

    for frame in frames(path):
        assert frame.header.SOPInstanceUID == frame.instance.uid
        assert frame.header.SOPClassUID == frame.instance.header.SOPClassUID
        assert frame.header.Rows == 4
        assert frame.header.SliceLocation == 3


def test_an_mr_frame_without_pixel_value_transformation_takes_its_real_world_values(tmp_path):
    def groups(item: Dataset, k: int) -> None:
        del item.PixelValueTransformationSequence
        item.RealWorldValueMappingSequence = one(
            RealWorldValueSlope=0.5, RealWorldValueIntercept=float(-k)
        )

    path = write_enhanced(tmp_path / "e", numbered(2), grid_affine(), frame_change=groups)

    headers = [frame.header for frame in frames(path)]
    assert [(header.RescaleSlope, header.RescaleIntercept) for header in headers] == [
        (0.5, 0),
        (0.5, -1),
    ]


def test_an_enhanced_image_of_one_frame_is_that_frame(tmp_path):
    (frame,) = frames(write_enhanced(tmp_path / "e", numbered(1), OBLIQUE))

    assert frame.number == 1
    np.testing.assert_allclose(positions((frame,)), slice_positions(OBLIQUE, 1), atol=1e-4)


def test_a_de_mosaicked_enhanced_image_that_is_still_called_mosaic_is_read_by_its_frames(tmp_path):
    def change(header: Dataset) -> None:
        header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]

    assert len(frames(write_enhanced(tmp_path / "e", numbered(4), OBLIQUE, change=change))) == 4


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_legacy_converted_frames_are_the_single_frame_images(tmp_path, modality):
    stored = numbered(6)

    def change(header: Dataset, k: int) -> None:
        header.AcquisitionNumber = k // 3
        header.AcquisitionTime = f"10111{k}"
        header.SliceLocation = str(k)

    slices = write_slices(
        tmp_path / "s",
        stored,
        OBLIQUE,
        modality=modality,
        slopes=[1 + k for k in range(6)],
        change=change,
    )
    order = [3, 0, 5, 1, 4, 2]
    path = write_legacy_converted(tmp_path / "e", [slices[k] for k in order])

    found = frames(path)

    pixels = dcmread(path).pixel_array
    for frame, k in zip(found, order, strict=True):
        single = dcmread(slices[k])
        np.testing.assert_array_equal(pixels[frame.index], stored[k])
        for keyword in (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "RescaleSlope",
            "AcquisitionNumber",
            "FrameOfReferenceUID",
        ):
            assert frame.header[keyword].value == single[keyword].value


def test_highdicom_places_the_frames_alike(tmp_path):
    path = write_enhanced(tmp_path / "e", numbered(5), OBLIQUE)
    volume = hd.imread(path).get_volume()

    found = frames(path)

    indices = np.rint(
        np.linalg.solve(volume.affine[:3, :3], (positions(found) - volume.affine[:3, 3]).T)
    ).T
    np.testing.assert_allclose(
        indices @ volume.affine[:3, :3].T + volume.affine[:3, 3], positions(found), atol=1e-4
    )
    for frame, (k, row, column) in zip(found, indices.astype(int), strict=True):
        assert (row, column) == (0, 0)
        np.testing.assert_array_equal(volume.array[k], numbered(5)[frame.index])


angles = st.floats(-180, 180)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    turn=st.tuples(angles, angles, angles),
    spacing=st.tuples(*[st.floats(0.2, 8.0)] * 3),
    order=st.permutations(range(6)),
    files=st.sampled_from([(6,), (3, 3), (1, 2, 3), (1,) * 6]),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
)
def test_frames_lie_where_the_slices_were_in_any_orientation_order_and_split(
    tmp_path_factory, turn, spacing, order, files, syntax
):
    folder = tmp_path_factory.mktemp("split")
    affine = turned(grid_affine(spacing=spacing), Rotation.from_euler("xyz", turn, degrees=True))
    stored = numbered(6)
    left = list(order)
    for number, count in enumerate(files):
        chosen, left = left[:count], left[count:]

        def groups(item: Dataset, k: int, chosen: list[int] = chosen) -> None:
            item.PlanePositionSequence = one(
                ImagePositionPatient=decimals(slice_positions(affine, 6)[chosen[k]])
            )

        path = write_enhanced(
            folder / f"{number}",
            stored[chosen],
            affine,
            transfer_syntax=syntax,
            frame_change=groups,
        )
        found = frames(path)
        np.testing.assert_allclose(positions(found), slice_positions(affine, 6)[chosen], atol=1e-4)
        assert [frame.index for frame in found] == list(range(count))


def test_two_thousand_frames_are_flattened_in_seconds(tmp_path):
    def groups(item: Dataset, k: int) -> None:
        item.MREchoSequence = one(EffectiveEchoTime=4.5)
        item.MRImageFrameTypeSequence = one(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"])

    path = write_enhanced(
        tmp_path / "e", np.zeros((2000, 4, 4), np.int16), grid_affine(), frame_change=groups
    )
    started = time.process_time()

    assert len(frames(path)) == 2000

    assert time.process_time() - started < 5  # 0.7 s where nothing else runs


# Multi-frame images that cannot be right


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda header: setattr(header, "NumberOfFrames", 2**31 - 1), "describes 3 of them"),
        (lambda header: setattr(header, "NumberOfFrames", 2), "describes 3 of them"),
        (lambda header: setattr(header, "NumberOfFrames", -3), "describes 3 of them"),
        (lambda header: setattr(header, "NumberOfFrames", 0), "describes 3 of them"),
        (lambda header: delattr(header, "PerFrameFunctionalGroupsSequence"), "0 of them"),
        (lambda header: setattr(header, "PerFrameFunctionalGroupsSequence", []), "0 of them"),
        (
            lambda header: setattr(header, "PixelData", header.PixelData[:-60]),
            "too short for them",
        ),
        (lambda header: setattr(header, "Rows", 60000), "too short for them"),
        (lambda header: delattr(header, "PixelData"), "too short for them"),
    ],
    ids=[
        "absurd",
        "fewer",
        "negative",
        "none",
        "no groups",
        "empty groups",
        "cut",
        "matrix",
        "no pixels",
    ],
)
def test_frames_that_do_not_add_up_are_refused(tmp_path, change, reason):
    path = write_enhanced(tmp_path / "e", numbered(3), grid_affine(), change=change)

    assert reason in refusal(path)


@pytest.mark.parametrize(
    "groups",
    [
        lambda item: item.clear(),
        lambda item: setattr(item, "PlanePositionSequence", []),
        lambda item: setattr(item, "PlanePositionSequence", [Dataset(), Dataset()]),
        lambda item: item.add_new(0x00209113, "LO", "not a sequence"),
    ],
    ids=["nothing", "empty sequence", "two items", "text"],
)
def test_a_frame_without_a_position_has_none(tmp_path, groups):
    path = write_enhanced(
        tmp_path / "e",
        numbered(2),
        grid_affine(),
        frame_change=lambda item, _: groups(item),
        change=lambda header: setattr(header, "ImagePositionPatient", [1, 2, 3]),
    )

    assert ["ImagePositionPatient" in frame.header for frame in frames(path)] == [False, False]


@pytest.mark.parametrize("depth", [1, 40, 5000])
@pytest.mark.parametrize("defined", [True, False], ids=["of known length", "of unknown length"])
def test_groups_within_groups_without_end_are_read_or_refused(tmp_path, depth, defined):
    def change(header: Dataset) -> None:
        del header.PerFrameFunctionalGroupsSequence
        del header.PixelData

    def sequence(tag: str, items: bytes) -> bytes:
        """One item in a sequence, explicit VR little endian."""
        unknown, item = b"\xff" * 4, bytes.fromhex("feff00e0")
        if defined:
            items = item + struct.pack("<I", len(items)) + items
            return bytes.fromhex(tag) + b"SQ\0\0" + struct.pack("<I", len(items)) + items
        ends = bytes.fromhex("feff0de000000000 feffdde000000000")
        return bytes.fromhex(tag) + b"SQ\0\0" + unknown + item + unknown + items + ends

    path = write_enhanced(tmp_path / "e", numbered(1), grid_affine(), change=change)
    content = b""
    for _ in range(depth):
        content = sequence("20001391", content)
    pixels = bytes.fromhex("e07f1000") + b"OW\0\0" + struct.pack("<I", 48) + bytes(48)
    path.write_bytes(path.read_bytes() + sequence("00523092", content) + pixels)

    if not defined and depth == 5000:
        with pytest.raises(UnreadableInstanceError):
            frames(path)
    else:
        assert len(frames(path)) == 1


def test_many_frames_of_many_attributes_are_refused_before_they_fill_the_memory(tmp_path):
    def change(header: Dataset) -> None:
        block = [header.private_block(0x0009 + 2 * k, "TEST", create=True) for k in range(100)]
        for elements in block:
            for offset in range(50):
                elements.add_new(offset, "US", 1)

    path = write_enhanced(
        tmp_path / "e", np.zeros((2000, 1, 1), np.int16), grid_affine(), change=change
    )

    assert "attributes" in refusal(path)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(st.tuples(st.integers(132, 1900), st.integers(0, 255)), min_size=1),
    cut=st.integers(0, 1900) | st.none(),
)
def test_a_damaged_enhanced_image_is_read_or_refused(tmp_path_factory, changes, cut):
    path = write_enhanced(tmp_path_factory.mktemp("damaged") / "e", numbered(2), grid_affine())
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content[:cut])

    with contextlib.suppress(UnreadableInstanceError):
        assert len(frames(path)) <= 48


def test_an_enhanced_image_cut_off_anywhere_has_not_its_frames(tmp_path):
    path = write_enhanced(tmp_path / "e", numbered(2), grid_affine(), change=without_lengths)
    content = path.read_bytes()
    for end in range(200, len(content)):
        path.write_bytes(content[:end])
        with contextlib.suppress(UnreadableInstanceError):
            assert len(frames(path)) < 2  # where not even the SOP class is left


def test_frames_of_other_images_than_ct_and_mr_are_refused(tmp_path):
    def change(header: Dataset) -> None:
        header.SOPClassUID = EnhancedPETImageStorage

    path = write_enhanced(tmp_path / "e", numbered(3), grid_affine(), change=change)

    assert "only CT and MR" in refusal(path)


# Multi-frame images without functional groups


def write_plain_multi_frame(path: Path, count: int, affine: np.ndarray, **attributes) -> Path:
    header = slice_header("MR", generate_uid(), generate_uid(), generate_uid(), 1)
    set_pixels(header, numbered(count))
    header.ImagePositionPatient = decimals(affine[:3, 3])
    header.ImageOrientationPatient = decimals(
        np.concatenate([affine[:3, 2] / 0.5, affine[:3, 1] / 0.6])
    )
    header.PixelSpacing = [0.6, 0.5]
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    write_part10(path, header, ExplicitVRLittleEndian)
    return path


ALONG = float(np.cross(OBLIQUE[:3, 2], OBLIQUE[:3, 1]) @ OBLIQUE[:3, 3]) / 0.3


@pytest.mark.parametrize(
    ("attributes", "step"),
    [
        ({"SpacingBetweenSlices": "2"}, 2),
        ({"SpacingBetweenSlices": "-2"}, -2),
        ({"SpacingBetweenSlices": "2", "FrameIncrementPointer": 0x00180088}, 2),
        ({"GridFrameOffsetVector": [0, 2, 4, 6], "FrameIncrementPointer": 0x3004000C}, 2),
        ({"GridFrameOffsetVector": [0, -2, -4, -6]}, -2),
        ({"SliceLocationVector": [round(ALONG + 2 * k, 3) for k in range(4)]}, 2),
        ({"SliceLocationVector": [round(-ALONG + 2 * k, 3) for k in range(4)]}, -2),
    ],
    ids=[
        "spacing",
        "spacing against the normal",
        "spacing by pointer",
        "offsets by pointer",
        "offsets against the normal",
        "locations",
        "locations against the normal",
    ],
)
def test_plain_frames_are_placed_along_the_normal(tmp_path, attributes, step):
    path = write_plain_multi_frame(tmp_path / "m", 4, OBLIQUE, **attributes)

    found = frames(path)

    expected = OBLIQUE[:3, 3] + np.arange(4)[:, None] * step * OBLIQUE[:3, 0] / 2
    np.testing.assert_allclose(positions(found), expected, atol=2e-3)
    assert [frame.number for frame in found] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"FrameTime": "40", "FrameIncrementPointer": 0x00181063},
        {"FrameTime": "40", "FrameIncrementPointer": 0x00181063, "SpacingBetweenSlices": "2"},
        {"SpacingBetweenSlices": "0"},
        {"SliceLocationVector": [500, 502, 504, 506]},
        {"GridFrameOffsetVector": [0, 2, 4], "FrameIncrementPointer": 0x3004000C},
        {"SpacingBetweenSlices": "2", "ImagePositionPatient": None},
        {"SpacingBetweenSlices": "2", "ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"SpacingBetweenSlices": "2", "NumberOfFrames": 2**31 - 1},
    ],
    ids=[
        "nothing",
        "time",
        "time and spacing",
        "no distance",
        "locations of another origin",
        "too few offsets",
        "no position",
        "no orientation",
        "too many frames",
    ],
)
def test_plain_frames_of_unknown_place_are_refused(tmp_path, attributes):
    assert refusal(write_plain_multi_frame(tmp_path / "m", 4, OBLIQUE, **attributes))


def test_a_plain_multi_frame_image_with_functional_groups_is_read_by_these(tmp_path):
    def change(header: Dataset) -> None:
        header.SOPClassUID = CTImageStorage

    path = write_enhanced(tmp_path / "e", numbered(3), OBLIQUE, modality="CT", change=change)

    np.testing.assert_allclose(positions(frames(path)), slice_positions(OBLIQUE, 3), atol=1e-4)


# Siemens mosaics


def tile_pixels(frame: Frame) -> np.ndarray:
    header, tile = frame.header, frame.tile
    return dcmread(frame.instance.path).pixel_array[
        tile.top : tile.top + header.Rows, tile.left : tile.left + header.Columns
    ]


def reversed_slices(affine: np.ndarray, count: int) -> np.ndarray:
    """The grid of the same slices in the opposite order."""
    result = affine.copy()
    result[:3, 3] += (count - 1) * affine[:3, 0]
    result[:3, 0] *= -1
    return result


@pytest.mark.parametrize("layout", ["CSA1", "CSA2"])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9, 10, 17])
def test_the_tiles_of_a_mosaic_are_its_slices(tmp_path, layout, count):
    stored = numbered(count)
    path = write_mosaic(tmp_path / "m", stored, OBLIQUE, layout=layout)

    found = frames(path)

    np.testing.assert_allclose(positions(found), slice_positions(OBLIQUE, count), atol=1e-4)
    for frame, pixels in zip(found, stored, strict=True):
        assert (frame.index, frame.number) == (0, None)
        assert isinstance(frame.tile, Tile)
        assert (frame.header.Rows, frame.header.Columns) == (4, 6)
        assert frame.header.SOPInstanceUID == frame.instance.uid
        np.testing.assert_array_equal(tile_pixels(frame), pixels)


@pytest.mark.parametrize("descending", [False, True], ids=["with the normal", "against it"])
@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "oblique"])
def test_nibabel_places_the_tiles_alike(tmp_path, plane, descending):
    affine = {
        "axial": grid_affine(descending=descending),
        "sagittal": grid_affine(row=(0, 1, 0), column=(0, 0, -1), descending=descending),
        "coronal": grid_affine(row=(1, 0, 0), column=(0, 0, -1), descending=descending),
        "oblique": reversed_slices(OBLIQUE, 7) if descending else OBLIQUE,
    }[plane]
    stored = numbered(7)
    path = write_mosaic(tmp_path / "m", stored, affine)
    wrapper = dicomwrappers.wrapper_from_file(path)
    assert wrapper.is_mosaic

    found = frames(path)

    for k, frame in enumerate(found):
        np.testing.assert_allclose(
            np.array(frame.header.ImagePositionPatient, float),
            (wrapper.affine @ [0, 0, k, 1])[:3],
            atol=1e-4,
        )
        np.testing.assert_array_equal(tile_pixels(frame), wrapper.get_data()[..., k])
    np.testing.assert_allclose(positions(found), slice_positions(affine, 7), atol=1e-4)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    turn=st.tuples(angles, angles, angles),
    spacing=st.tuples(*[st.floats(0.2, 8.0)] * 3),
    count=st.integers(2, 30),
    matrix=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    descending=st.booleans(),
    layout=st.sampled_from(["CSA1", "CSA2"]),
)
def test_tiles_lie_where_the_slices_were_in_any_orientation(
    tmp_path_factory, turn, spacing, count, matrix, descending, layout
):
    affine = turned(
        grid_affine(spacing=spacing, descending=descending),
        Rotation.from_euler("xyz", turn, degrees=True),
    )
    stored = numbered(count, *matrix)
    path = write_mosaic(tmp_path_factory.mktemp("mosaic") / "m", stored, affine, layout=layout)

    found = frames(path)

    np.testing.assert_allclose(positions(found), slice_positions(affine, count), atol=1e-4)
    for frame, pixels in zip(found, stored, strict=True):
        np.testing.assert_array_equal(tile_pixels(frame), pixels)


def nibabel_file(folder: Path, name: str) -> Path:
    """A scanner's file that nibabel is tested with."""
    packed = Path(nib.__file__).parent / "nicom" / "tests" / "data" / f"{name}.gz"
    if not packed.exists():
        pytest.skip("nibabel was installed without its test data")
    (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
    return folder / name


@pytest.mark.parametrize("b_value", [0, 1000])
def test_a_scanners_mosaic_is_split_as_nibabel_and_its_own_protocol_say(tmp_path, b_value):
    path = nibabel_file(tmp_path, f"siemens_dwi_{b_value}.dcm")
    wrapper = dicomwrappers.wrapper_from_file(path)

    found = frames(path)

    expected = [(wrapper.affine @ [0, 0, k, 1])[:3] for k in range(48)]
    np.testing.assert_allclose(positions(found), expected, atol=1e-3)
    header = dcmread(path)
    centres = prescribed_slices(parse_csa(header[0x0029, 0x1020].value))
    half = 64 * header.PixelSpacing[0]
    orientation = np.array(header.ImageOrientationPatient, float)
    middles = positions(found) + half * (orientation[:3] + orientation[3:])
    np.testing.assert_allclose(middles, centres, atol=1e-3)
    assert found[0].header.DiffusionBValue == b_value


def test_a_scanners_enhanced_image_is_placed_as_nibabel_does(tmp_path):
    path = nibabel_file(tmp_path, "philips_mprage.dcm")
    wrapper = dicomwrappers.wrapper_from_file(path)

    found = frames(path)

    # nibabel takes a spacing of 1 mm where the positions are 0.99999 mm apart.
    expected = [(wrapper.affine @ [0, 0, 175 - k, 1])[:3] for k in range(176)]
    np.testing.assert_allclose(positions(found), expected, atol=2e-3)
    assert found[0].header.EchoTime == 3.513
    assert found[0].header.RescaleSlope == pytest.approx(2.1079, abs=1e-4)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("kind", ["mosaic", "grid", "enhanced", "legacy converted"])
def test_dcm2niix_places_the_slices_alike(tmp_path, kind):
    stored = np.random.default_rng(0).integers(0, 900, (7, 8, 10)).astype(np.int16)
    folder = tmp_path / "in"
    folder.mkdir()
    if kind == "mosaic":
        path = write_mosaic(folder / "m.dcm", stored, OBLIQUE)
    elif kind == "grid":
        path = write_grid(folder / "g.dcm", stored, OBLIQUE)
    elif kind == "enhanced":
        path = write_enhanced(folder / "e.dcm", stored, OBLIQUE)
    else:
        slices = write_slices(tmp_path / "s", stored, OBLIQUE, modality="MR")
        path = write_legacy_converted(folder / "l.dcm", slices)
    subprocess.run(
        ["dcm2niix", "-b", "n", "-f", "out", "-o", tmp_path, folder],
        check=True,
        timeout=60,
        capture_output=True,
    )
    image = nib.load(tmp_path / "out.nii")
    voxels = np.asanyarray(image.dataobj)
    to_index = np.linalg.inv(image.affine @ np.eye(4))

    pixels = dcmread(path).pixel_array
    for frame in frames(path):
        header = frame.header
        row = np.array(header.ImageOrientationPatient[:3]) * header.PixelSpacing[1]
        column = np.array(header.ImageOrientationPatient[3:]) * header.PixelSpacing[0]
        own = tile_pixels(frame) if frame.tile else pixels[frame.index]
        for r, c in [(0, 0), (2, 5), (7, 9)]:
            point = np.array(header.ImagePositionPatient) + r * column + c * row
            index = to_index @ [*(point * [-1, -1, 1]).astype(float), 1]
            assert np.abs(index - np.rint(index)).max() < 1e-2
            assert voxels[tuple(np.rint(index[:3]).astype(int))] == own[r, c]


def test_time_points_of_a_mosaic_series_keep_what_tells_them_apart(tmp_path):
    def change(header: Dataset) -> None:
        header.AcquisitionNumber = 5
        header.InstanceNumber = 8
        header.AcquisitionTime = "101113"

    path = write_mosaic(
        tmp_path / "m", numbered(4), OBLIQUE, change=change, image_tags={"B_value": [1000]}
    )

    for frame in frames(path):
        assert frame.header.AcquisitionNumber == 5
        assert frame.header.InstanceNumber == 8
        assert frame.header.AcquisitionTime == "101113"
        assert frame.header.DiffusionBValue == 1000


def test_a_mosaic_that_is_no_longer_called_so_is_split(tmp_path):
    def change(header: Dataset) -> None:
        header.ImageType = ["DERIVED", "SECONDARY"]
        header.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 4)

    assert len(frames(write_mosaic(tmp_path / "m", numbered(4), OBLIQUE, change=change))) == 4


@pytest.mark.parametrize(
    "protocol",
    ["", "### ASCCONV BEGIN ###\nsSliceArray.lSize = 7\n### ASCCONV END ###\n"],
    ids=["none", "without positions"],
)
def test_a_mosaic_without_a_protocol_is_split_by_its_image_header(tmp_path, protocol):
    path = write_mosaic(tmp_path / "m", numbered(7), OBLIQUE, protocol=protocol)

    np.testing.assert_allclose(positions(frames(path)), slice_positions(OBLIQUE, 7), atol=1e-4)


def shifted(affine: np.ndarray, *millimetres: float) -> np.ndarray:
    result = affine.copy()
    result[:3, 3] += millimetres
    return result


@pytest.mark.parametrize(
    "planned",
    [
        reversed_slices(OBLIQUE, 7),
        shifted(OBLIQUE, 0, 0, 0.4),
        turned(OBLIQUE, Rotation.from_euler("x", 3, degrees=True)),
    ],
    ids=["numbered from the other end", "table moved", "patient moved"],
)
def test_a_protocol_that_means_the_same_slices_agrees(tmp_path, planned):
    path = write_mosaic(
        tmp_path / "m", numbered(7), OBLIQUE, protocol=mosaic_protocol(planned, (7, 4, 6))
    )

    np.testing.assert_allclose(positions(frames(path)), slice_positions(OBLIQUE, 7), atol=1e-4)


def test_the_slab_of_a_three_dimensional_protocol_agrees_with_its_slices(tmp_path):
    middle = OBLIQUE.copy()
    middle[:3, 3] += 3 * OBLIQUE[:3, 0]
    path = write_mosaic(
        tmp_path / "m", numbered(7), OBLIQUE, protocol=mosaic_protocol(middle, (1, 4, 6))
    )

    assert len(frames(path)) == 7


FIRST_SLICE_THE_OTHER_WAY = OBLIQUE @ np.diag([-1.0, 1, 1, 1])
MORE_APART = OBLIQUE @ np.diag([1.2, 1, 1, 1])


@pytest.mark.parametrize(
    ("planned", "count"),
    [
        (FIRST_SLICE_THE_OTHER_WAY, 7),
        (reversed_slices(FIRST_SLICE_THE_OTHER_WAY, 7), 7),
        (MORE_APART, 7),
        (OBLIQUE, 6),
        (turned(OBLIQUE, Rotation.from_euler("x", 30, degrees=True)), 7),
        (FIRST_SLICE_THE_OTHER_WAY, 1),
    ],
    ids=["other way", "other way, reversed", "farther apart", "fewer", "turned", "slab elsewhere"],
)
def test_a_mosaic_that_contradicts_its_protocol_is_refused(tmp_path, planned, count):
    if count == 1:
        planned = shifted(planned, *(3 * planned[:3, 0]))
    path = write_mosaic(
        tmp_path / "m", numbered(7), OBLIQUE, protocol=mosaic_protocol(planned, (count, 4, 6))
    )

    assert "contradict" in refusal(path)


def test_a_table_that_moved_as_far_as_the_image_says_agrees(tmp_path):
    planned = shifted(OBLIQUE, 0, 0, -80)
    tags = {"ImaRelTablePosition": [0, 0, 80]}
    protocol = mosaic_protocol(planned, (7, 4, 6))
    path = write_mosaic(tmp_path / "m", numbered(7), OBLIQUE, protocol=protocol, image_tags=tags)

    np.testing.assert_allclose(positions(frames(path)), slice_positions(OBLIQUE, 7), atol=1e-4)


def test_a_mosaic_whose_position_is_already_that_of_its_first_tile_is_refused(tmp_path):
    def change(header: Dataset) -> None:
        header.ImagePositionPatient = decimals(OBLIQUE[:3, 3])

    path = write_mosaic(tmp_path / "m", numbered(7), OBLIQUE, change=change)

    assert "contradict" in refusal(path)


@pytest.mark.parametrize(
    ("tags", "change", "reason"),
    [
        ({"NumberOfImagesInMosaic": []}, None, "how many slices"),
        ({"NumberOfImagesInMosaic": [0]}, None, "declares 0 slices"),
        ({"NumberOfImagesInMosaic": [10**9]}, None, "slices"),
        ({"NumberOfImagesInMosaic": ["nan"]}, None, "how many slices"),
        ({"NumberOfImagesInMosaic": [50]}, None, "do not tile"),
        ({"SliceNormalVector": []}, None, "direction"),
        ({"SliceNormalVector": [0, 0]}, None, "direction"),
        ({"SliceNormalVector": [1, 0, 0]}, None, "contradict"),
        ({"SliceNormalVector": [0, 0, 0]}, None, "contradict"),
        ({}, lambda h: delattr(h, "SpacingBetweenSlices"), "Spacing Between Slices"),
        ({}, lambda h: delattr(h, "ImagePositionPatient"), "no Image Position"),
        ({}, lambda h: h.__delitem__((0x0029, 0x1010)), "no Siemens CSA header"),
        ({}, lambda h: h.__delitem__((0x0029, 0x0010)), "no Siemens CSA header"),
        ({}, lambda h: h[0x0029, 0x1010].__setattr__("value", b"SV10" * 9), "damaged"),
    ],
    ids=[
        "no number",
        "none",
        "too many",
        "not a number",
        "no square",
        "no normal",
        "half a normal",
        "another normal",
        "no length",
        "no distance",
        "no position",
        "no header",
        "no creator",
        "damaged",
    ],
)
def test_a_mosaic_whose_slices_cannot_be_placed_is_refused(tmp_path, tags, change, reason):
    path = write_mosaic(tmp_path / "m", numbered(7), OBLIQUE, image_tags=tags, change=change)

    assert reason in refusal(path)


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_the_tiles_of_a_united_imaging_grid_are_its_slices(tmp_path, count):
    stored = numbered(count)

    found = frames(write_grid(tmp_path / "g", stored, OBLIQUE))

    np.testing.assert_allclose(positions(found), slice_positions(OBLIQUE, count), atol=1e-4)
    for frame, pixels in zip(found, stored, strict=True):
        np.testing.assert_array_equal(tile_pixels(frame), pixels)
        assert frame.header.DiffusionBValue == 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: h.__delitem__((0x0065, 0x1050)), "does not describe"),
        (lambda h: h.__delitem__((0x0065, 0x1051)), "does not describe"),
        (lambda h: h.__delitem__((0x0065, 0x0010)), "does not describe"),
        (lambda h: h[0x0065, 0x1051].value.pop(), "does not describe"),
        (lambda h: h[0x0065, 0x1051].value[3].clear(), "no Image Position"),
        (lambda h: setattr(h, "Columns", 17), "do not tile"),
    ],
    ids=["no number", "no slices", "no creator", "a slice less", "no position", "matrix"],
)
def test_a_united_imaging_grid_whose_slices_cannot_be_placed_is_refused(tmp_path, change, reason):
    assert reason in refusal(write_grid(tmp_path / "g", numbered(7), OBLIQUE, change=change))


# CSA headers


@pytest.mark.parametrize("write", [csa1, csa2], ids=["CSA1", "CSA2"])
def test_a_csa_header_is_read_as_it_was_written(write):
    tags = {"First": ["a", "bcd", "efghijk"], "Empty": [], "Many": list(range(20))}

    assert parse_csa(write(tags)) == {
        "First": ("a", "bcd", "efghijk"),
        "Empty": (),
        "Many": tuple(map(str, range(20))),
    }


def test_nibabel_reads_a_csa_header_alike():
    content = csa2({"One": ["0.5"], "Three": ["1", "2", "3"], "None": []})

    theirs = csareader.read(content)["tags"]

    for name, values in parse_csa(content).items():
        assert [float(item) for item in theirs[name]["items"]] == [float(v) for v in values]


VALID = csa2({"NumberOfImagesInMosaic": ["7"], "SliceNormalVector": ["0", "0", "1"]})


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=400) | st.binary(max_size=400).map(lambda b: b"SV10" + b))
@example(b"SV10\4\3\2\1" + b"\xff\xff\xff\xff" + b"M\0\0\0")
@example(VALID[:8] + b"\xff\xff\xff\x7f" + VALID[12:])
def test_any_bytes_are_a_csa_header_or_not(content):
    with contextlib.suppress(ValueError):
        assert sum(map(len, parse_csa(content).values())) <= len(content)


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, len(VALID)),
    changes=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_csa_header_is_read_or_refused(cut, changes):
    content = bytearray(VALID)
    for place, value in changes:
        content[place] = value
    with contextlib.suppress(ValueError):
        assert len(parse_csa(bytes(content[:cut]))) <= 2


def test_a_csa_header_beyond_all_size_is_refused_unread():
    with pytest.raises(ValueError, match="longer than any"):
        parse_csa(b"SV10" + bytes(2**23))


def test_a_protocol_that_never_ends_is_searched_once():
    series = {"MrPhoenixProtocol": ("### ASCCONV BEGIN ###\n" * 200_000,)}

    started = time.process_time()

    assert prescribed_slices(series) is None
    assert time.process_time() - started < 1


@pytest.mark.parametrize("slices", ["0", "99999", "-1", "1e9", "x"])
def test_a_protocol_of_an_absurd_size_is_small_in_memory(slices):
    text = f"### ASCCONV BEGIN ###\nsSliceArray.lSize = {slices}\n### ASCCONV END ###\n"

    centres = prescribed_slices({"MrPhoenixProtocol": (text,)})

    assert centres is None or centres.nbytes < 4e6
