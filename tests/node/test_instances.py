"""Headers are those that pydicom reads, whatever they are encoded in; no file breaks the reader."""

import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.instances import (
    HEADER_BYTES,
    UnreadableInstanceError,
    integer_of,
    numbers_of,
    read_instance,
    text_of,
    value_of,
)
from tests.slices import grid_affine, write_slices

OF_PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def with_header(folder, change, syntax=ExplicitVRLittleEndian):
    return write_slices(
        Path(folder),
        np.zeros((1, 4, 4), np.int16),
        grid_affine(),
        transfer_syntax=syntax,
        change=lambda header, _: change(header),
    )[0]


def by_pydicom(path):
    header = dcmread(path)
    header.pop("PixelData", None)
    return header


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(OF_PYDICOM.glob("*.dcm")), ids=lambda path: path.stem)
def test_headers_of_other_systems_are_as_pydicom_reads_them(path):
    try:
        theirs = dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        with pytest.raises(UnreadableInstanceError):
            read_instance(path)
        return
    ours = read_instance(path).header
    for keyword in ("SOPClassUID", "SOPInstanceUID"):  # the reader completes them
        if keyword not in theirs:
            delattr(ours, keyword)
    assert ours.file_meta == theirs.file_meta
    assert ours.to_json_dict(suppress_invalid_tags=True) == theirs.to_json_dict(
        suppress_invalid_tags=True
    )


def nested(depth):
    item = Dataset()
    item.CodeMeaning = "Grüße"
    item.EchoTime = "1.5"
    if depth:
        item.RequestAttributesSequence = [nested(depth - 1), Dataset()]
        item["RequestAttributesSequence"].is_undefined_length = depth % 2 == 0
        for inner in item.RequestAttributesSequence:
            inner.is_undefined_length_sequence_item = depth % 3 == 0
    return item


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize("depth", [0, 1, 4, 9])
def test_nested_sequences_of_any_length_encoding(tmp_path, syntax, depth):
    def change(header):
        header.SpecificCharacterSet = "ISO_IR 192"
        header.PatientName = "Grüße^张"
        header.ReferencedStudySequence = [nested(depth)]
        header["ReferencedStudySequence"].is_undefined_length = True
        header.add_new(0x00091001, "UN", b"private")

    path = with_header(tmp_path, change, syntax)
    header = read_instance(path).header
    assert header.PatientName == "Grüße^张"
    assert header == by_pydicom(path)
    copy = BytesIO()
    header.save_as(copy, enforce_file_format=False)


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize("size", [HEADER_BYTES - 900, HEADER_BYTES, 3 * HEADER_BYTES, 700_000])
def test_headers_longer_than_the_first_read(tmp_path, syntax, size):
    def change(header):
        header.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
        header.add_new(0x00291010, "OB", bytes(size))

    path = with_header(tmp_path, change, syntax)
    instance = read_instance(path)
    assert instance.header == by_pydicom(path)
    assert instance.pixel_length == len(instance.pixel_bytes(0, 99)) == 32


@settings(max_examples=60, deadline=None)
@given(
    vr=st.sampled_from(["DS", "IS", "US", "FD"]),
    values=st.lists(st.integers(0, 65535), min_size=1, max_size=3),
    syntax=st.sampled_from(sorted(SYNTAXES.values())),
)
def test_numbers_are_the_same_before_and_after_pydicom_parses_them(vr, values, syntax):
    keyword = {
        "DS": "ImageOrientationPatient",
        "IS": "ReferencedFrameNumber",
        "US": "Rows",
        "FD": "DiffusionGradientOrientation",
    }[vr]
    if vr == "US":
        values = values[:1]

    with tempfile.TemporaryDirectory() as folder:
        path = with_header(folder, lambda header: header.add_new(keyword, vr, values), syntax)
        header = read_instance(path).header
    unparsed = numbers_of(header, keyword, len(values))
    assert unparsed == tuple(values)
    value_of(header, keyword)
    assert numbers_of(header, keyword, len(values)) == unparsed
    assert numbers_of(header, keyword, len(values) + 1) is None
    assert integer_of(header, keyword, -1) == (values[0] if len(values) == 1 else -1)


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_absent_empty_and_meaningless_values(tmp_path, syntax):
    def change(header):
        header.add_new("SliceLocation", "DS", "")
        header.Modality = ""
        header.ImageType = ["ORIGINAL", "PRIMARY"]

    header = read_instance(with_header(tmp_path, change, syntax)).header
    assert numbers_of(header, "SliceLocation", 1) is None
    assert numbers_of(header, "SpacingBetweenSlices", 1) is None
    assert text_of(header, "Modality") == text_of(header, "BodyPartExamined") == ""
    assert text_of(header, "ImageType") == str(["ORIGINAL", "PRIMARY"])
    assert value_of(header, "BodyPartExamined") is None


@pytest.fixture(scope="module", params=SYNTAXES.values(), ids=SYNTAXES)
def content(request, tmp_path_factory):
    def change(header):
        header.ReferencedStudySequence = [nested(3)]
        header["ReferencedStudySequence"].is_undefined_length = True

    return with_header(tmp_path_factory.mktemp("one"), change, request.param).read_bytes()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_and_cut_files_are_headers_or_a_reason(content, data):
    mutated = bytearray(content)
    for _ in range(data.draw(st.integers(0, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.dcm"
        path.write_bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
        try:
            instance = read_instance(path)
        except UnreadableInstanceError:
            return
        assert len(instance.pixel_bytes(0, 2**40)) <= instance.pixel_bytes_available
    for keyword in ("SOPInstanceUID", "Rows", "PixelSpacing", "ImageType", "NumberOfFrames"):
        text_of(instance.header, keyword)
        numbers_of(instance.header, keyword, 2)
