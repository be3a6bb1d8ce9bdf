"""Every pixel has the value that it was sent with, in every encoding; no stream breaks the node."""

import shutil
import struct
import subprocess
import tempfile
import tracemalloc
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from node.codecs import Codecs
from node.frames import Frame, Tile
from node.instances import UnreadableInstanceError, integer_of, read_instance
from node.modality_transformation import (
    HOUNSFIELD_ASSUMED,
    INVERTED_DISPLAY,
    LUT_USED,
    NOT_HOUNSFIELD,
    PADDING_IS_TISSUE,
    PHILIPS_SCALED,
)
from node.pixels import LOSSY, decode_frames, pixel_format
from tests.slices import grid_affine, write_slices

OF_PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
DCMTK = pytest.mark.skipif(
    shutil.which("dcmcjpeg") is None, reason="DCMTK is not installed (apt-get install dcmtk)"
)
DRAW = np.random.default_rng(4)
RAMP = np.add.outer(np.arange(24) * 30, np.arange(20) * 11).astype(np.int16) - 500


def frames_in(path):
    instance = read_instance(path)
    count = max(1, integer_of(instance.header, "NumberOfFrames", 1))
    return [Frame(instance, instance.header, index) for index in range(count)]


def decoded(frames, modality="MR"):
    """Values of frames, [frame, row, column], and the notes of the first."""
    formats = [pixel_format(frame, modality=modality) for frame in frames]
    shape = (frames[0].header.Rows, frames[0].header.Columns)
    voxels = np.full((len(frames), *shape), np.nan, np.float32)
    with Codecs() as codecs:
        decode_frames(frames, formats, list(voxels), codecs)
    return voxels, formats[0].notes


def written(folder, stored, *, modality="MR", syntax=ExplicitVRLittleEndian, change=None):
    """One image [row, column] as a file."""
    return write_slices(
        Path(folder),
        stored[None],
        grid_affine(),
        modality=modality,
        transfer_syntax=syntax,
        change=(lambda header, _: change(header)) if change else None,
    )[0]


def compressed(folder, codestreams, syntax, stored, *, frames=None, extended=False, **attributes):
    """An image of these codestreams, or of encapsulated bytes, laid out as `stored` is."""

    def change(header):
        header.BitsAllocated = header.BitsStored = stored.dtype.itemsize * 8
        header.PixelRepresentation = int(stored.dtype.kind == "i")
        for keyword, value in attributes.items():
            setattr(header, keyword, value)
        header.HighBit = header.BitsStored - 1
        if frames:
            header.NumberOfFrames = frames
        if extended:
            content, table, lengths = encapsulate_extended(codestreams)
            header.PixelData = content
            header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = table, lengths
        elif isinstance(codestreams, bytes):
            header.PixelData = codestreams
        else:
            header.PixelData = encapsulate(codestreams)
        header["PixelData"].VR = "OB"
        header["PixelData"].is_undefined_length = True

    return written(folder, stored.view(np.int16), syntax=syntax, change=change)


# Against other implementations


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI",
        "CT_small",
        "J2K_pixelrep_mismatch",
        "JPEG-lossy",
        "JPEG2000",
        "JPEGLSNearLossless_08",
        "JPEGLSNearLossless_16",
        "JPGExtended",
        "MR_small_RLE",
        "MR_small_expb",
        "MR_small_implicit",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "MR_small_padded",
        "badVR",
        "examples_overlay",
        "image_dfl",
        "rtdose",
        "rtdose_rle",
    ],
)
def test_files_of_other_systems_have_the_values_that_simpleitk_reads(name):
    path = OF_PYDICOM / f"{name}.dcm"
    frames = frames_in(path)
    for frame in frames:
        frame.header.pop("PixelPaddingValue", None)
    ours, _ = decoded(frames)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=1e-7)


def test_32_bit_big_endian_frames_have_the_values_that_pydicom_reads():
    path = OF_PYDICOM / "rtdose_expb.dcm"
    np.testing.assert_allclose(decoded(frames_in(path))[0], dcmread(path).pixel_array, rtol=1e-7)


@DCMTK
@pytest.mark.parametrize(
    ("encoder", "decoder", "bits"),
    [
        ("dcmcjpeg +e1", "dcmdjpeg", 16),
        ("dcmcjpeg +e1", "dcmdjpeg", 8),
        *((f"dcmcjpeg +el +sv {predictor}", "dcmdjpeg", 16) for predictor in (2, 4, 5, 7)),
        ("dcmcjpeg +el +sv 6", "dcmdjpeg", 12),
        ("dcmcjpeg +eb", "dcmdjpeg", 8),
        ("dcmcjpeg +ee", "dcmdjpeg", 12),
        ("dcmcjpls +el", "dcmdjpls", 16),
        ("dcmcjpls +en +md 3", "dcmdjpls", 12),
        ("dcmcrle", "dcmdrle", 16),
        ("dcmcrle", "dcmdrle", 8),
    ],
)
def test_what_dcmtk_compresses_is_what_it_decompresses(tmp_path, encoder, decoder, bits):
    kind = np.uint8 if bits == 8 else np.uint16
    stored = (DRAW.integers(0, 2**bits, (24, 20)) // 3 + np.arange(20)).astype(kind)

    def change(header):
        header.Rows, header.Columns = stored.shape
        header.BitsAllocated, header.BitsStored = stored.dtype.itemsize * 8, bits
        header.HighBit, header.PixelRepresentation = bits - 1, 0
        header.PixelData = stored.tobytes()

    plain = written(tmp_path / "plain", RAMP, change=change)
    squeezed, opened = tmp_path / "squeezed.dcm", tmp_path / "opened.dcm"
    subprocess.run([*encoder.split(), plain, squeezed], check=True)
    subprocess.run([decoder, squeezed, opened], check=True)
    assert dcmread(squeezed).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(decoded(frames_in(squeezed))[0], decoded(frames_in(opened))[0])


@pytest.mark.parametrize("kind", ["int16", "uint16"])
@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL], ids=["HTJ2K", "RPCL"])
def test_high_throughput_jpeg_2000_without_loss(tmp_path, syntax, kind):
    stored = DRAW.integers(-2000, 4000, (24, 20)).astype(np.int16).view(kind)
    path = compressed(tmp_path, [imagecodecs.htj2k_encode(stored, reversible=True)], syntax, stored)
    voxels, notes = decoded(frames_in(path))
    np.testing.assert_array_equal(voxels[0], stored)
    assert notes == ()


def test_lossy_high_throughput_jpeg_2000_is_what_another_codec_decodes(tmp_path):
    codestream = imagecodecs.htj2k_encode(RAMP, level=0.01, reversible=False)
    voxels, notes = decoded(frames_in(compressed(tmp_path, [codestream], HTJ2K, RAMP)))
    np.testing.assert_allclose(voxels[0], imagecodecs.jpeg2k_decode(codestream), atol=1)
    assert notes == (LOSSY,)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=["implicit", "big endian", "deflated"],
)
def test_several_frames_of_uncompressed_syntaxes(tmp_path, syntax):
    stored = DRAW.integers(-2000, 2000, (5, 24, 20)).astype(np.int16)

    def change(header):
        header.NumberOfFrames = 5
        header.PixelData = stored.astype(
            ">i2" if syntax == ExplicitVRBigEndian else "<i2"
        ).tobytes()

    frames = frames_in(written(tmp_path, RAMP, syntax=syntax, change=change))
    np.testing.assert_array_equal(decoded(frames)[0], stored)
    np.testing.assert_array_equal(decoded(frames[::-2])[0], stored[::-2])


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_8_bit_big_endian_bytes_come_in_pairs_only_in_words(tmp_path, vr):
    stored = DRAW.integers(0, 255, (3, 5, 7)).astype(np.uint8)
    content = stored.tobytes() + b"\0"
    if vr == "OW":
        content = np.frombuffer(content, "<u2").astype(">u2").tobytes()

    def change(header):
        header.NumberOfFrames, header.Rows, header.Columns = stored.shape
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit, header.PixelRepresentation = 7, 0
        header.PixelData = content
        header["PixelData"].VR = vr

    path = written(tmp_path, RAMP, syntax=ExplicitVRBigEndian, change=change)
    np.testing.assert_array_equal(decoded(frames_in(path))[0], stored)


# Bits


@settings(max_examples=60, deadline=None)
@given(
    allocated=st.sampled_from([8, 16, 32]),
    signed=st.booleans(),
    big_endian=st.booleans(),
    data=st.data(),
)
def test_only_the_stored_bits_count_and_the_highest_is_the_sign(
    allocated, signed, big_endian, data
):
    bits = data.draw(st.integers(1, allocated))
    high = data.draw(st.integers(bits - 1, allocated - 1))
    cells = data.draw(st.lists(st.integers(0, 2**allocated - 1), min_size=4, max_size=4))
    expected = []
    for cell in cells:
        value = (cell >> (high + 1 - bits)) % 2**bits
        expected.append(value - 2**bits if signed and value >> (bits - 1) else value)

    def change(header):
        header.Rows = header.Columns = 2
        header.BitsAllocated, header.BitsStored, header.HighBit = allocated, bits, high
        header.PixelRepresentation = int(signed)
        order = ">" if big_endian else "<"
        header.PixelData = np.array(cells, f"{order}u{allocated // 8}").tobytes()
        header["PixelData"].VR = "OB" if allocated == 8 else "OW"

    syntax = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    with tempfile.TemporaryDirectory() as folder:
        voxels, _ = decoded(frames_in(written(folder, RAMP, syntax=syntax, change=change)))
    np.testing.assert_array_equal(voxels.ravel(), np.array(expected, np.float32))


@pytest.mark.parametrize("precision", [12, 16])
def test_signed_values_in_an_unsigned_codestream(tmp_path, precision):
    stored = RAMP.clip(-500, 900)
    cells = (stored.view(np.uint16) & (2**precision - 1)).astype(np.uint16)
    codestream = imagecodecs.jpeg8_encode(cells, lossless=True, bitspersample=precision)
    path = compressed(tmp_path, [codestream], JPEGLosslessSV1, stored, BitsStored=precision)
    np.testing.assert_array_equal(decoded(frames_in(path))[0][0], stored)


# Meaning


def test_rescale_is_that_of_each_frame(tmp_path):
    frames = frames_in(
        compressed(
            tmp_path,
            [imagecodecs.jpegls_encode(RAMP.view(np.uint16))] * 3,
            JPEGLSLossless,
            RAMP,
            frames=3,
        )
    )
    scaled = []
    for k, frame in enumerate(frames):
        header = Dataset(dict(frame.header.items()))
        header.RescaleSlope, header.RescaleIntercept = str(k + 0.25), str(-7 * k)
        scaled.append(Frame(frame.instance, header, frame.index))
    expected = [RAMP * (k + 0.25) - 7 * k for k in range(3)]
    np.testing.assert_allclose(decoded(scaled, "CT")[0], expected, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    first=st.integers(-600, 300),
    size=st.integers(2, 1200),
    vr=st.sampled_from(["US", "OW"]),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
)
def test_a_modality_lut_is_what_pydicom_makes_of_it(first, size, vr, syntax):
    table = np.random.default_rng(size).integers(0, 2**16, size).astype("<u2")

    def change(header):
        item = Dataset()
        item.add_new("LUTDescriptor", "SS", [size, first, 16])
        item.ModalityLUTType = "HU"
        item.add_new("LUTData", vr, table.tolist() if vr == "US" else table.tobytes())
        header.ModalityLUTSequence = [item]
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
            delattr(header, keyword)

    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, RAMP, modality="CT", syntax=syntax, change=change)
        voxels, notes = decoded(frames_in(path), "CT")
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [size, first, 16], table.tolist()
    theirs = Dataset()
    theirs.ModalityLUTSequence = [item]
    np.testing.assert_array_equal(voxels[0], apply_modality_lut(RAMP, theirs))
    assert notes == (LUT_USED,)


def without_rescale(header, rescale_type=""):
    del header.RescaleSlope, header.RescaleIntercept
    header.RescaleType = rescale_type


def test_ct_without_rescale_is_refused_unless_it_says_hounsfield_units(tmp_path):
    path = written(tmp_path / "no", RAMP, modality="CT", change=without_rescale)
    with pytest.raises(UnreadableInstanceError, match="Rescale Slope"):
        decoded(frames_in(path), "CT")
    path = written(
        tmp_path / "hu", RAMP, modality="CT", change=lambda header: without_rescale(header, "HU")
    )
    voxels, notes = decoded(frames_in(path), "CT")
    np.testing.assert_array_equal(voxels[0], RAMP)
    assert notes == (HOUNSFIELD_ASSUMED,)


def test_ct_of_another_rescale_type_says_so(tmp_path):
    def change(header):
        header.RescaleType = "US"

    _, notes = decoded(frames_in(written(tmp_path, RAMP, modality="CT", change=change)), "CT")
    assert notes == (NOT_HOUNSFIELD,)


@pytest.mark.parametrize("as_unknown", [False, True])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"]
)
def test_philips_private_scale_stands_in_for_the_public_one(tmp_path, syntax, as_unknown):
    def change(header, *, public=False):
        block = header.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        for element, value in ((0x0D, 12.0), (0x0E, 0.5)):
            raw = struct.pack("<f", value)
            block.add_new(element, "UN" if as_unknown else "FL", raw if as_unknown else value)
        if public:
            header.RescaleSlope, header.RescaleIntercept = "2", "1"

    path = written(tmp_path / "private", RAMP, syntax=syntax, change=change)
    voxels, notes = decoded(frames_in(path))
    np.testing.assert_allclose(voxels[0], (RAMP - 12.0) / 0.5)
    assert notes == (PHILIPS_SCALED,)
    path = written(
        tmp_path / "public", RAMP, syntax=syntax, change=lambda header: change(header, public=True)
    )
    voxels, notes = decoded(frames_in(path))
    np.testing.assert_allclose(voxels[0], RAMP * 2 + 1)
    assert notes == ()


@settings(max_examples=60, deadline=None)
@given(
    signed=st.booleans(),
    wrong_vr=st.booleans(),
    modality=st.sampled_from(["CT", "MR"]),
    ends=st.lists(st.integers(-32768, 32767), min_size=1, max_size=2),
    cells=st.lists(st.integers(-32768, 32767), min_size=2, max_size=2),
)
def test_padding_of_any_range_and_sign_is_background(signed, wrong_vr, modality, ends, cells):
    """Values of a CT that tissue can have are no padding, and less than air needs none."""
    offset = 0 if signed else 32768
    stored = np.array([[*cells, ends[0], ends[-1]]], np.int32) + offset
    padding = sorted(end + offset for end in ends)

    def change(header):
        header.Rows, header.Columns = stored.shape
        header.PixelRepresentation = int(signed)
        header.PixelData = (stored % 2**16).astype("<u2").tobytes()
        header.RescaleSlope, header.RescaleIntercept = "1", str(-offset)
        for keyword, end in zip(
            ("PixelPaddingValue", "PixelPaddingRangeLimit"), ends, strict=False
        ):
            vr = "SS" if signed != wrong_vr else "US"
            value = np.array(end + offset).astype(np.int16 if vr == "SS" else np.uint16)
            header.add_new(keyword, vr, int(value))

    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, RAMP, modality=modality, change=change)
        voxels, notes = decoded(frames_in(path), modality)
    tissue = modality == "CT" and min(ends) <= 3071 and max(ends) >= -1000
    less_than_air = modality == "CT" and max(ends) < -1024
    padded = (stored >= padding[0]) & (stored <= padding[-1]) & (not tissue and not less_than_air)
    background = -1024 if modality == "CT" else 0
    np.testing.assert_array_equal(voxels[0], np.where(padded, background, stored - offset))
    assert (PADDING_IS_TISSUE in notes) == tissue


def test_monochrome1_inverts_the_display_and_no_value(tmp_path):
    def change(header):
        header.PhotometricInterpretation = "MONOCHROME1"

    for modality, noted in (("CT", ()), ("MR", (INVERTED_DISPLAY,))):
        path = written(tmp_path / modality, RAMP, modality=modality, change=change)
        voxels, notes = decoded(frames_in(path), modality)
        np.testing.assert_array_equal(voxels[0], RAMP)
        assert notes == noted


@pytest.mark.parametrize(
    ("syntax", "said", "lossy"),
    [
        (JPEGLSNearLossless, "", True),
        (JPEGLSNearLossless, "00", False),
        (JPEGLSLossless, "", False),
        (JPEGLSLossless, "01", True),
    ],
)
def test_loss_is_noted_where_the_header_or_the_transfer_syntax_says_so(
    tmp_path, syntax, said, lossy
):
    codestream = imagecodecs.jpegls_encode(RAMP.view(np.uint16))
    path = compressed(tmp_path, [codestream], syntax, RAMP, LossyImageCompression=said)
    assert (LOSSY in decoded(frames_in(path))[1]) == lossy


# Frames


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 6),
    split=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    table=st.sampled_from(["basic", "extended", "none"]),
    data=st.data(),
)
def test_frames_in_any_number_of_fragments_are_told_apart(count, split, table, data):
    stored = np.random.default_rng(count).integers(-900, 900, (count, 24, 20)).astype(np.int16)
    streams = [imagecodecs.jpegls_encode(frame.view(np.uint16)) for frame in stored]
    with tempfile.TemporaryDirectory() as folder:
        if table == "extended":
            content = streams
        else:
            pieces = [cut_in(stream, parts) for stream, parts in zip(streams, split, strict=False)]
            content = encapsulated(pieces, with_table=table == "basic")
        path = compressed(
            folder, content, JPEGLSLossless, stored[0], frames=count, extended=table == "extended"
        )
        frames = frames_in(path)
        order = data.draw(st.permutations(range(count)))
        voxels, _ = decoded([frames[index] for index in order])
    np.testing.assert_array_equal(voxels, stored[order])


def cut_in(stream, parts):
    size = len(stream) // parts // 2 * 2
    cuts = [*range(0, size * parts, size), len(stream)]
    return [stream[start:end] for start, end in pairwise(cuts)]


def encapsulated(frames, *, with_table):
    """Items of a Basic Offset Table, empty or not, and of each frame's fragments (PS3.5 A.4)."""
    item = struct.Struct("<HHL")
    offsets, content = [], b""
    for fragments in frames:
        offsets.append(len(content))
        for fragment in fragments:
            padded = fragment + bytes(len(fragment) % 2)
            content += item.pack(0xFFFE, 0xE000, len(padded)) + padded
    table = struct.pack(f"<{len(offsets)}L", *offsets) if with_table else b""
    return item.pack(0xFFFE, 0xE000, len(table)) + table + content


def test_tiles_of_a_stored_frame_are_cut_out_of_it(tmp_path):
    streams = [imagecodecs.jpegls_encode(RAMP.view(np.uint16))]
    instance = read_instance(compressed(tmp_path, streams, JPEGLSLossless, RAMP))
    frames = []
    for top, left in ((0, 0), (12, 0), (12, 10), (0, 10)):
        header = Dataset(dict(instance.header.items()))
        header.Rows, header.Columns = 12, 10
        frames.append(Frame(instance, header, tile=Tile(top, left)))
    expected = [RAMP[f.tile.top : f.tile.top + 12, f.tile.left : f.tile.left + 10] for f in frames]
    np.testing.assert_array_equal(decoded(frames)[0], expected)
    outside = Frame(instance, frames[0].header, tile=Tile(13, 0))
    with pytest.raises(UnreadableInstanceError, match="beyond its matrix"):
        pixel_format(outside, modality="MR")


# Hostile


def test_the_first_frame_that_fails_is_named_and_its_neighbours_harm_nothing(tmp_path):
    good = imagecodecs.jpeg2k_encode(RAMP, level=0, codecformat="j2k", reversible=True)
    broken = good[: len(good) // 2].replace(good[60:90], b"\xff" * 30)
    path = compressed(tmp_path, [good, broken, good], JPEG2000Lossless, RAMP, frames=3)
    frames = frames_in(path)
    with pytest.raises(UnreadableInstanceError, match=read_instance(path).uid):
        decoded(frames)
    np.testing.assert_array_equal(decoded(frames[::2])[0], [RAMP, RAMP])


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEGLosslessSV1, lambda x: imagecodecs.jpeg8_encode(x.view("u2"), lossless=True)),
        (JPEGLSLossless, lambda x: imagecodecs.jpegls_encode(x.view("u2"))),
        (JPEG2000Lossless, lambda x: imagecodecs.jpeg2k_encode(x, level=0, codecformat="j2k")),
        (HTJ2KLossless, lambda x: imagecodecs.htj2k_encode(x, reversible=True)),
        (RLELossless, lambda _: get_frame(dcmread(OF_PYDICOM / "MR_small_RLE.dcm").PixelData, 0)),
    ],
    ids=["JPEG", "JPEG-LS", "JPEG 2000", "HTJ2K", "RLE"],
)
def test_mutated_codestreams_are_values_or_a_reason(tmp_path, syntax, encode):
    stored = np.resize(RAMP, (64, 64))
    good = encode(stored)
    draw = np.random.default_rng(7)
    reasons = 0
    with Codecs() as codecs:
        for turn in range(15):
            stream = bytearray(good)
            for at in draw.integers(0, len(stream), draw.integers(1, 12)):
                stream[at] = draw.integers(0, 256)
            end = draw.integers(2, 2 * len(stream))
            sent = bytes(stream[:end]) if turn else good
            frame = frames_in(compressed(tmp_path, [sent], syntax, stored))[0]
            out = np.empty((64, 64), np.float32)
            try:
                decode_frames([frame], [pixel_format(frame, modality="MR")], [out], codecs)
            except UnreadableInstanceError:
                assert turn
                reasons += 1
    assert reasons


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("NumberOfFrames", 2**31 - 1),
        ("NumberOfFrames", 7),
        ("Rows", 8000),
        ("Columns", 0),
        ("BitsAllocated", 12),
        ("BitsStored", 17),
        ("HighBit", 3),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless], ids=["plain", "LS"])
def test_what_the_file_cannot_hold_is_refused_without_allocating(
    tmp_path, syntax, attribute, value
):
    def change(header):
        setattr(header, attribute, value)
        if syntax.is_compressed:
            header.PixelData = encapsulate([imagecodecs.jpegls_encode(RAMP.view(np.uint16))] * 3)
            header["PixelData"].VR = "OB"
            header["PixelData"].is_undefined_length = True

    instance = read_instance(written(tmp_path, RAMP, syntax=syntax, change=change))
    last = max(1, integer_of(instance.header, "NumberOfFrames", 1)) - 1
    frame = Frame(instance, instance.header, last)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableInstanceError):
            decoded_to_nothing(frame)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def decoded_to_nothing(frame):
    meant = pixel_format(frame, modality="MR")
    with Codecs() as codecs:
        decode_frames([frame], [meant], [np.empty((1, 1), np.float32)], codecs)


def test_fragments_that_lie_about_their_length_are_refused(tmp_path):
    content = encapsulated([[b"\xff\xd8" * 20]], with_table=False)
    lying = content[:12] + struct.pack("<L", 2**32 - 2) + content[16:]
    path = compressed(tmp_path, lying, JPEGLSLossless, RAMP)
    with pytest.raises(UnreadableInstanceError, match="cannot be decoded"):
        decoded(frames_in(path))


def test_millions_of_empty_fragments_are_refused(tmp_path):
    path = compressed(tmp_path, b"\xfe\xff\x00\xe0\0\0\0\0" * 2**20, JPEGLSLossless, RAMP)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableInstanceError, match="cannot be decoded"):
            decoded(frames_in(path))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_a_transfer_syntax_without_a_codec_is_refused_by_name(tmp_path):
    path = compressed(tmp_path, [b"\0\0\1\xb3" * 8], MPEG2MPML, RAMP)
    with pytest.raises(UnreadableInstanceError, match=r"MPEG2.*compression is not read"):
        decoded(frames_in(path))
