"""A walked image says what pydicom reads in it, however it came in pieces."""

from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.encoded_image import BrokenImageError, EncodedBytes, attributes_of_image
from tests.node.test_intake import encoded
from tests.slices import grid_affine, write_slices

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Transfer syntax -> an encoded image."""
    folder = tmp_path_factory.mktemp("slice")
    path = write_slices(folder, np.zeros((1, 16, 16), np.int16), grid_affine())[0]
    return {syntax: encoded(dcmread(path), syntax) for syntax in SYNTAXES}


@settings(max_examples=200)
@given(data=st.data())
def test_pieces_say_what_the_whole_says(images, data):
    syntax = data.draw(st.sampled_from(SYNTAXES))
    whole = images[syntax]
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    bounds = [0, *cuts, len(whole)]
    pieces = [memoryview(whole)[begin:end] for begin, end in pairwise(bounds)]
    in_one = attributes_of_image(EncodedBytes([whole]), syntax)
    assert attributes_of_image(EncodedBytes(pieces), syntax) == in_one
    begin, end = data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole) + 9)))
    assert EncodedBytes(pieces).between(begin, end) == whole[begin:end]


@settings(max_examples=400)
@given(data=st.data())
def test_what_is_let_in_is_what_pydicom_reads(images, data):
    syntax = data.draw(st.sampled_from((ExplicitVRLittleEndian, ImplicitVRLittleEndian)))
    damaged = bytearray(images[syntax])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 513))] = data.draw(st.integers(0, 255))
    try:
        attributes = attributes_of_image(EncodedBytes([bytes(damaged)]), syntax)
    except BrokenImageError:
        return
    except Exception:  # noqa: BLE001 - intake answers whatever a parser raises
        return
    read = read_dataset(BytesIO(damaged), syntax.is_implicit_VR, is_little_endian=True)
    for keyword in IDENTITY:
        element = read.get_item(keyword)
        stored = b"" if element is None else bytes(element.value or b"").rstrip(b"\0 ")
        if stored.isascii():  # else it is no UID, and is not let in as one
            assert attributes[keyword] == stored.decode()


def test_frames_count_for_the_length_of_native_pixel_data(images, tmp_path):
    path = write_slices(tmp_path, np.zeros((1, 16, 16), np.int16), grid_affine())[0]
    image = dcmread(path)
    for frames, bits, taken in ((1, 16, True), (2, 16, False), (0, 16, True), (1, 32, False)):
        image.NumberOfFrames, image.BitsAllocated = frames, bits
        content = EncodedBytes([encoded(image, ExplicitVRLittleEndian)])
        if taken:
            attributes_of_image(content, ExplicitVRLittleEndian)
            continue
        with pytest.raises(BrokenImageError, match="shorter than the image"):
            attributes_of_image(content, ExplicitVRLittleEndian)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "SamplesPerPixel", "BitsAllocated"])
def test_what_gives_the_length_must_be_there(tmp_path, keyword):
    path = write_slices(tmp_path, np.zeros((1, 16, 16), np.int16), grid_affine())[0]
    image = dcmread(path)
    delattr(image, keyword)
    content = EncodedBytes([encoded(image, ExplicitVRLittleEndian)])
    with pytest.raises(BrokenImageError, match=f"{keyword} is missing"):
        attributes_of_image(content, ExplicitVRLittleEndian)
