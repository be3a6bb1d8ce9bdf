import tempfile
import tracemalloc
import zlib
from pathlib import Path

import gdcm
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SecondaryCaptureImageStorage,
)
from scipy.spatial.transform import Rotation

from inference.volume import Geometry
from node.assembly import Assembled, assemble
from tests.slices import decimals, grid_affine, turned, write_slices

REAL_SCANS = Path(__file__).parents[3] / "shared" / "data"

PLANES = {
    "axial": {"row": (1, 0, 0), "column": (0, 1, 0)},
    "sagittal": {"row": (0, 1, 0), "column": (0, 0, -1)},
    "coronal": {"row": (1, 0, 0), "column": (0, 0, -1)},
}


def numbered(slices: int = 8, rows: int = 6, columns: int = 7) -> np.ndarray:
    """Stored values that are all different."""
    count = slices * rows * columns
    return (np.arange(count) - count // 2).astype(np.int16).reshape(slices, rows, columns)


def real_series(name: str) -> list[Path]:
    folder = REAL_SCANS / name
    if not folder.is_dir():
        pytest.skip(f"the real scan {name} is not on this machine")
    return sorted(folder.iterdir())


def refusal(assembled: Assembled, geometry: Geometry) -> str:
    verdict = assembled.verdict
    assert verdict.geometry is geometry, verdict
    assert not verdict.accepted
    assert assembled.volume is None
    assert verdict.reason is not None
    assert verdict.reason.en
    assert verdict.reason.zh
    return verdict.reason.en


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(5, 9), st.integers(2, 7), st.integers(2, 7)),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    position=st.tuples(*[st.floats(-500, 500)] * 3),
    plane=st.sampled_from(sorted(PLANES)),
    turn=st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-180, 180)] * 3)),
    descending=st.booleans(),
    modality=st.sampled_from(["CT", "MR"]),
    seed=st.integers(0, 2**16),
)
def test_every_voxel_keeps_its_value_at_its_patient_coordinate(
    shape, spacing, position, plane, turn, descending, modality, seed
):
    truth = grid_affine(position=position, spacing=spacing, descending=descending, **PLANES[plane])
    truth = turned(truth, Rotation.from_euler("xyz", turn, degrees=True))
    stored = numbered(*shape)
    draw = np.random.default_rng(seed)
    slopes = [float(draw.choice([0.5, 1.0, 1.25])) for _ in stored]
    intercepts = [float(draw.integers(-1024, 10)) for _ in stored]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_slices(
            Path(folder), stored, truth, modality=modality, slopes=slopes, intercepts=intercepts
        )
        draw.shuffle(paths)
        assembled = assemble(paths)
    volume = assembled.volume
    assert volume is not None, assembled.verdict
    assert assembled.verdict.geometry is Geometry.UNIFORM
    assert volume.modality == modality

    indices = np.array(list(np.ndindex(*shape)))
    points = indices @ truth[:3, :3].T + truth[:3, 3]
    found = np.linalg.solve(volume.grid.affine[:3, :3], (points - volume.grid.affine[:3, 3]).T).T
    assert np.abs(found - np.round(found)).max() < 0.005
    where = tuple(np.round(found).astype(int).T)
    expected = stored * np.reshape(slopes, (-1, 1, 1)) + np.reshape(intercepts, (-1, 1, 1))
    np.testing.assert_allclose(volume.grid.array[where], expected.reshape(-1), atol=1e-3)

    normal = np.cross(volume.grid.affine[:3, 2], volume.grid.affine[:3, 1])
    assert volume.grid.affine[:3, 0] @ normal > 0
    for k, source in enumerate(volume.sources):
        near = volume.grid.affine[:3, 3] + k * volume.grid.affine[:3, 0]
        assert np.linalg.norm(np.array(source.ImagePositionPatient, float) - near) < 1e-3
        assert "PixelData" not in source


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("plane", sorted(PLANES))
def test_a_marker_is_found_at_its_patient_point(tmp_path, plane, descending):
    affine = grid_affine(descending=descending, spacing=(3, 0.7, 0.4), **PLANES[plane])
    affine = turned(affine, Rotation.from_euler("xyz", (12, -7, 20), degrees=True))
    stored = np.zeros((9, 20, 30), np.int16)
    stored[6, 4, 21] = 1000
    point = affine @ (6, 4, 21, 1)
    volume = assemble(write_slices(tmp_path, stored, affine)).volume
    brightest = np.unravel_index(volume.grid.array.argmax(), volume.grid.array.shape)
    np.testing.assert_allclose(volume.grid.affine @ (*brightest, 1), point, atol=1e-4)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("plane", sorted(PLANES))
def test_simpleitk_reads_the_same_volume(tmp_path, plane, descending):
    affine = grid_affine(descending=descending, **PLANES[plane])
    affine = turned(affine, Rotation.from_euler("xyz", (5, 10, -20), degrees=True))
    stored = numbered()
    paths = write_slices(
        tmp_path, stored, affine, slopes=[1.0] * len(stored), intercepts=[-1024.0] * len(stored)
    )
    volume = assemble(paths).volume
    compare_with_simpleitk(volume, [str(path) for path in paths])


def compare_with_simpleitk(volume, paths: list[str]) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(Path(paths[0]).parent)))
    image = reader.Execute()
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    theirs = sitk.GetArrayFromImage(image)
    assert theirs.shape == volume.grid.array.shape
    for corner in ((0, 0, 0), np.array(theirs.shape) - 1):
        point = direction @ np.array(corner)[::-1] + image.GetOrigin()
        index = np.linalg.solve(volume.grid.affine[:3, :3], point - volume.grid.affine[:3, 3])
        np.testing.assert_allclose(index, corner, atol=2e-3)
    np.testing.assert_array_equal(theirs, volume.grid.array)


@pytest.mark.parametrize("name", ["mr-t1-head", "ct-dicom-20"])
def test_real_scans_are_accepted_and_agree_with_simpleitk(name):
    paths = real_series(name)
    shuffled = [paths[index] for index in np.random.default_rng(1).permutation(len(paths))]
    assembled = assemble(shuffled)
    assert assembled.verdict.geometry is Geometry.UNIFORM
    assert assembled.verdict.slices == len(paths)
    assert assembled.verdict.deviation_mm < 0.01
    assert all(source.SOPClassUID for source in assembled.volume.sources)
    compare_with_simpleitk(assembled.volume, [str(path) for path in paths])


def test_the_real_mr_head_has_its_known_spacing():
    verdict = assemble(real_series("mr-t1-head")).verdict
    np.testing.assert_allclose(verdict.spacing_mm, (0.6667, 0.6667, 0.7000), atol=1e-4)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed_transfer_syntaxes(tmp_path, syntax):
    stored = numbered()
    as_written = stored.astype(">i2") if syntax == ExplicitVRBigEndian else stored
    paths = write_slices(tmp_path, as_written, grid_affine(), transfer_syntax=syntax)
    np.testing.assert_array_equal(assemble(paths).volume.grid.array, stored)


@pytest.mark.parametrize(
    "syntax",
    [
        "RLELossless",
        "JPEGLosslessProcess14",
        "JPEGLosslessProcess14_1",
        "JPEGLSLossless",
        "JPEG2000Lossless",
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_compressed_transfer_syntaxes(tmp_path, syntax, signed):
    stored = numbered(6, 32, 24)
    if not signed:
        stored = (stored - stored.min()).astype(np.int16)

    def change(header, _):
        header.PixelRepresentation = int(signed)

    paths = write_slices(tmp_path, stored, grid_affine(), change=change)
    names = {
        "RLELossless": gdcm.TransferSyntax.RLELossless,
        "JPEGLosslessProcess14": gdcm.TransferSyntax.JPEGLosslessProcess14,
        "JPEGLosslessProcess14_1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        "JPEGLSLossless": gdcm.TransferSyntax.JPEGLSLossless,
        "JPEG2000Lossless": gdcm.TransferSyntax.JPEG2000Lossless,
    }
    for path in paths:
        transcode(path, names[syntax])
    assert dcmread(paths[0]).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(assemble(paths).volume.grid.array, stored)


def transcode(path: Path, syntax: int) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def test_bits_beside_the_stored_ones_are_left_out(tmp_path):
    stored = numbered()
    noisy = (stored & 0x0FFF) | 0x5000

    def change(header, _):
        header.BitsStored, header.HighBit = 12, 11

    paths = write_slices(tmp_path, noisy.astype(np.int16), grid_affine(), change=change)
    np.testing.assert_array_equal(assemble(paths).volume.grid.array, stored)


def test_ct_padding_becomes_air_but_never_tissue_and_less_than_air_stays(tmp_path):
    stored = numbered()
    stored[:, 0, 0] = 4000
    stored[:, 0, 1] = -2000

    def change(header, k):
        header.add_new("PixelPaddingValue", "SS", (4000, 0, -2000)[k % 3])

    voxels = assemble(write_slices(tmp_path, stored, grid_affine(), change=change)).volume
    assert voxels.grid.array[:6, 0, 0].tolist() == [-1024, 4000, 4000] * 2
    assert set(voxels.grid.array[:, 0, 1]) == {-2000.0}
    assert (voxels.grid.array[4] == 0).any() == (stored[4] == 0).any()


def test_sop_class_and_instance_come_from_file_meta_where_the_data_set_has_none(tmp_path):
    paths = write_slices(tmp_path, numbered(), grid_affine())
    for path in paths:
        dataset = dcmread(path)
        del dataset.SOPClassUID, dataset.SOPInstanceUID
        dataset.save_as(path)
    assembled = assemble(paths)
    assert assembled.volume is not None
    uids = {str(source.SOPInstanceUID) for source in assembled.volume.sources}
    assert uids == {dcmread(path).file_meta.MediaStorageSOPInstanceUID for path in paths}


def test_float_noise_and_rounding_in_headers_are_no_tilt_and_no_gap(tmp_path):
    noise = np.random.default_rng(1)

    def change(header, _):
        position = np.array(header.ImagePositionPatient, float) + noise.normal(0, 0.005, 3)
        header.ImagePositionPatient = decimals(np.round(position, 2))
        header.ImageOrientationPatient = decimals(
            np.round(np.array(header.ImageOrientationPatient, float), 5)
        )

    affine = turned(grid_affine(), Rotation.from_euler("xyz", (11, 3, -8), degrees=True))
    verdict = assemble(write_slices(tmp_path, numbered(), affine, change=change)).verdict
    assert verdict.geometry is Geometry.UNIFORM
    assert 0 < verdict.deviation_mm < 0.05


def test_a_lossy_source_is_a_limitation(tmp_path):
    def change(header, _):
        header.LossyImageCompression = "01"

    volume = assemble(write_slices(tmp_path, numbered(), grid_affine(), change=change)).volume
    assert len(volume.limitations) == 1


def test_without_a_frame_of_reference_nothing_could_be_placed_on_the_images(tmp_path):
    def change(header, _):
        header.FrameOfReferenceUID = ""

    assembled = assemble(write_slices(tmp_path, numbered(), grid_affine(), change=change))
    assert assembled.volume is None
    assert assembled.verdict.geometry is Geometry.INCONSISTENT
    assert "(0020,0052)" in assembled.verdict.reason.en


# Set aside


def test_localizers_and_captures_are_set_aside_and_counted(tmp_path):
    paths = write_slices(tmp_path / "stack", numbered(), grid_affine())
    series = dcmread(paths[0]).SeriesInstanceUID

    def as_localizer(header, _):
        header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        header.SeriesInstanceUID = series

    def as_capture(header, _):
        header.SOPClassUID = SecondaryCaptureImageStorage
        header.SeriesInstanceUID = series

    paths += write_slices(tmp_path / "scout", numbered(2), grid_affine(), change=as_localizer)
    paths += write_slices(tmp_path / "dose", numbered(1), grid_affine(), change=as_capture)
    assembled = assemble(paths)
    assert assembled.volume is not None
    assert assembled.verdict.slices == 8
    assert assembled.verdict.set_aside == (
        "1 x Secondary Capture Image Storage, not a CT or MR image",
        "2 x localizer",
    )
    assert len(assembled.headers) == 11


@pytest.mark.parametrize("what", ["matrix", "orientation"])
def test_a_stray_image_is_set_aside(tmp_path, what):
    paths = write_slices(tmp_path / "stack", numbered(), grid_affine())
    first = dcmread(paths[0])

    def change(header, _):
        header.SeriesInstanceUID = first.SeriesInstanceUID
        header.FrameOfReferenceUID = first.FrameOfReferenceUID

    stored = numbered(1, 9, 9) if what == "matrix" else numbered(1)
    affine = grid_affine() if what == "matrix" else grid_affine(**PLANES["coronal"])
    paths += write_slices(tmp_path / "stray", stored, affine, change=change)
    verdict = assemble(paths).verdict
    assert verdict.accepted
    assert verdict.set_aside == ("1 x image of another matrix or orientation than the stack",)


def test_an_image_that_was_cut_short_in_its_header_is_set_aside_for_what_it_lacks(tmp_path):
    paths = write_slices(tmp_path, numbered(20), grid_affine())
    paths[7].write_bytes(paths[7].read_bytes()[:900])
    verdict = assemble(paths).verdict
    assert verdict.set_aside == ("1 x image without a position",)
    assert verdict.missing_slices == 1


# Refused


def altered(tmp_path, change, *, slices: int = 8, **options) -> Assembled:
    return assemble(
        write_slices(tmp_path, numbered(slices), grid_affine(), change=change, **options)
    )


def test_slices_shifted_sideways_are_refused(tmp_path):
    def change(header, k):
        header.ImagePositionPatient[0] = 10.0 * (k % 2)

    assert "sideways" in refusal(altered(tmp_path, change), Geometry.INCONSISTENT)


@pytest.mark.parametrize(
    ("keyword", "value", "named"),
    [
        ("PixelSpacing", [0.7, 0.5], "pixel spacing"),
        ("FrameOfReferenceUID", "2.25.396", "frame of reference"),
        ("SeriesInstanceUID", "2.25.397", "series"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], "orientation"),
    ],
)
def test_mixed_series_are_refused_by_what_differs(tmp_path, keyword, value, named):
    def change(header, k):
        if k % 2:
            setattr(header, keyword, value)

    assert named in refusal(altered(tmp_path, change), Geometry.INCONSISTENT)


def test_two_matrices_in_one_series_are_refused(tmp_path):
    def change(header, k):
        if k % 2:
            header.Rows, header.Columns = header.Columns, header.Rows

    assert "matrix" in refusal(altered(tmp_path, change), Geometry.INCONSISTENT)


@pytest.mark.parametrize(
    "keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
@pytest.mark.parametrize("which", ["all", "one"])
def test_images_without_a_place_are_refused(tmp_path, keyword, which):
    def change(header, k):
        if which == "all" or k == 3:
            delattr(header, keyword)

    reason = refusal(altered(tmp_path, change), Geometry.NO_POSITIONS)
    assert ("8 of 8" if which == "all" else "1 of 8") in reason


def test_axes_that_are_not_at_a_right_angle_are_refused(tmp_path):
    def change(header, _):
        header.ImageOrientationPatient = [1, 0, 0, 0.2, 0.98, 0]

    assert "right angle" in refusal(altered(tmp_path, change), Geometry.INCONSISTENT)


def test_a_single_slice_is_refused(tmp_path):
    reason = refusal(altered(tmp_path, None, slices=1), Geometry.TOO_FEW_SLICES)
    assert "one slice" in reason


def test_a_series_without_slices_is_not_a_volume(tmp_path):
    def as_capture(header, _):
        header.SOPClassUID = SecondaryCaptureImageStorage

    refusal(assemble([]), Geometry.NOT_A_VOLUME)
    assembled = altered(tmp_path / "captures", as_capture)
    refusal(assembled, Geometry.NOT_A_VOLUME)
    assert assembled.verdict.set_aside
    assert len(assembled.headers) == 8


@pytest.mark.parametrize(("modality", "limitations"), [("CT", 0), ("MR", 1)])
def test_an_inverted_display_changes_no_value_and_is_named_for_mr(tmp_path, modality, limitations):
    def inverted(header, _):
        header.PhotometricInterpretation = "MONOCHROME1"

    volume = altered(tmp_path, inverted, modality=modality).volume
    np.testing.assert_array_equal(volume.grid.array, numbered(8))
    assert len(volume.limitations) == limitations


def test_ct_without_rescale_is_refused_and_mr_is_not(tmp_path):
    def change(header, _):
        header.pop("RescaleSlope", None)

    refusal(altered(tmp_path / "ct", change), Geometry.UNREADABLE)
    assert altered(tmp_path / "mr", change, modality="MR").volume is not None


# Hostile input


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda header: setattr(header, "PixelData", header.PixelData[:-2]), "82 bytes"),
        (lambda header: header.pop("PixelData"), "no pixel data"),
        (lambda header: setattr(header, "BitsAllocated", 13), "13/16/15"),
        (lambda header: setattr(header, "RescaleSlope", "0"), "Rescale Slope"),
    ],
)
def test_pixel_data_that_contradict_the_header_are_refused(tmp_path, change, named):
    def change_one(header, k):
        if k == 2:
            change(header)

    reason = refusal(altered(tmp_path, change_one), Geometry.UNREADABLE)
    assert named in reason
    assert "Explicit VR Little Endian" in reason
    assert str(dcmread(tmp_path / "slice-002.dcm").SOPInstanceUID) in reason


@pytest.mark.parametrize("extent", [0, 9000, 65535])
def test_unbelievable_dimensions_allocate_nothing(tmp_path, extent):
    def change(header, _):
        header.Rows = header.Columns = extent

    paths = altered(tmp_path, change)
    tracemalloc.start()
    try:
        refusal(paths, Geometry.UNREADABLE)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
def test_undecodable_pixels_name_the_instance_and_its_transfer_syntax(tmp_path, syntax):
    def change(header, _):
        header.PixelData = encapsulate([b"\xff\x4f\xff\x51 no codestream "])
        header["PixelData"].is_undefined_length = True

    reason = refusal(altered(tmp_path, change, transfer_syntax=syntax), Geometry.UNREADABLE)
    assert "JPEG 2000" in reason


@pytest.mark.parametrize(
    ("syntax", "marker", "extents"),
    [
        ("JPEG2000Lossless", b"\xff\x4f\xff\x51", (slice(8, 16), slice(24, 32))),
        ("JPEGLosslessProcess14_1", b"\xff\xc3", (slice(5, 9),)),
        ("JPEGLSLossless", b"\xff\xf7", (slice(5, 9),)),
    ],
)
def test_codestreams_larger_than_declared_are_not_decoded(tmp_path, syntax, marker, extents):
    paths = write_slices(tmp_path, numbered(6, 32, 24), grid_affine())
    transcode(paths[0], getattr(gdcm.TransferSyntax, syntax))
    content = bytearray(paths[0].read_bytes())
    start = content.rindex(marker)
    for extent in extents:
        size = extent.stop - extent.start
        huge = (60_000).to_bytes(size // 2, "big") * 2
        content[start + extent.start : start + extent.stop] = huge
    paths[0].write_bytes(content)
    refusal(assemble(paths), Geometry.UNREADABLE)


def test_a_codec_that_ends_its_process_takes_nothing_with_it(tmp_path):
    paths = write_slices(tmp_path, numbered(6, 32, 24), grid_affine())
    for path in paths:
        transcode(path, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    content = bytearray(paths[2].read_bytes())
    scan = content.rindex(b"\xff\xda")
    content[scan + 2 : scan + 10] = b"\xff" * 8
    paths[2].write_bytes(content)
    reason = refusal(assemble(paths), Geometry.UNREADABLE)
    assert str(dcmread(paths[2]).SOPInstanceUID) in reason
    assert assemble(paths[3:] + paths[:2]).verdict.geometry is not Geometry.UNREADABLE


def test_files_that_are_not_dicom_are_refused_by_name(tmp_path):
    paths = write_slices(tmp_path, numbered(), grid_affine())
    paths[3].write_bytes(b"not DICOM")
    assert "slice-003.dcm" in refusal(assemble(paths), Geometry.UNREADABLE)


def test_a_deflate_bomb_is_refused(tmp_path):
    paths = write_slices(
        tmp_path, numbered(), grid_affine(), transfer_syntax=DeflatedExplicitVRLittleEndian
    )
    content = paths[0].read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(wbits=-15)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    paths[0].write_bytes(content[:start] + bomb)
    refusal(assemble(paths), Geometry.UNREADABLE)


def test_a_missing_file_is_the_node_s_fault_and_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        assemble([tmp_path / "absent.dcm"])


@pytest.mark.filterwarnings("ignore")
def test_no_bytes_make_it_raise(tmp_path):
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        paths = write_slices(
            tmp_path, numbered(6), grid_affine(), change=stable_uids, transfer_syntax=syntax
        )
        original = paths[0].read_bytes()
        for seed in range(200):
            draw = np.random.default_rng(seed)
            content = bytearray(original)
            for place in draw.integers(0, len(content), draw.integers(1, 8)):
                content[place] = draw.integers(0, 256)
            if seed % 4 == 0:
                del content[draw.integers(0, len(content)) :]
            paths[0].write_bytes(content)
            assembled = assemble(paths)
            assert (assembled.volume is not None) == assembled.verdict.accepted, seed
            assert (assembled.verdict.reason is None) == assembled.verdict.accepted, seed


def stable_uids(header, k):
    header.SOPInstanceUID = f"2.25.{k + 1}"
    header.StudyInstanceUID, header.SeriesInstanceUID = "2.25.100", "2.25.200"
    header.FrameOfReferenceUID = "2.25.300"
