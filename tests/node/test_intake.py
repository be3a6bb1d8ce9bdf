"""What is let in: whole images that are what the request says; everything else has its status."""

import contextlib
import copy
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)

from node.encoded_image import EncodedBytes
from node.intake import CANNOT_UNDERSTAND, INVALID_INSTANCE, MISMATCH, IntakeError, inspect
from tests.slices import grid_affine, write_slices

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slice")
    path = write_slices(folder, np.zeros((1, 16, 16), np.int16), grid_affine())[0]
    return dcmread(path)


def encoded(dataset, syntax):
    if syntax is JPEG2000Lossless:
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" * 10])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    target = DicomBytesIO()
    target.is_implicit_VR = syntax.is_implicit_VR
    target.is_little_endian = syntax.is_little_endian
    write_dataset(target, dataset)
    return deflated(target.getvalue()) if syntax.is_deflated else target.getvalue()


def deflated(content):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def refused(dataset, syntax=ExplicitVRLittleEndian, *, sop_class=None, instance=None, raw=None):
    with pytest.raises(IntakeError) as error:
        inspect(
            EncodedBytes([encoded(dataset, syntax) if raw is None else raw]),
            syntax,
            sop_class or dataset.SOPClassUID,
            dataset.SOPInstanceUID if instance is None else instance,
        )
    return error.value


@pytest.fixture
def fresh(image):
    return copy.deepcopy(image)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_whole_image_is_let_in(fresh, syntax):
    intake = inspect(
        EncodedBytes([encoded(fresh, syntax)]), syntax, fresh.SOPClassUID, fresh.SOPInstanceUID
    )
    assert intake.key.study == fresh.StudyInstanceUID
    assert intake.key.instance == fresh.SOPInstanceUID


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_image_cut_short_anywhere_is_refused(fresh, syntax):
    whole = encoded(fresh, syntax)
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 2, len(whole) - 1]:
        assert refused(fresh, syntax, raw=whole[:length]).status in (CANNOT_UNDERSTAND, MISMATCH)


def test_a_class_that_an_anonymiser_took_out_is_that_of_the_request(fresh):
    sop_class = fresh.SOPClassUID
    del fresh.SOPClassUID
    intake = inspect(
        EncodedBytes([encoded(fresh, ExplicitVRLittleEndian)]),
        ExplicitVRLittleEndian,
        sop_class,
        fresh.SOPInstanceUID,
    )
    assert intake.sop_class_uid == sop_class


def test_what_the_request_does_not_say_is_a_mismatch(fresh):
    assert refused(fresh, instance=generate_uid()).status == MISMATCH
    assert refused(fresh, sop_class="1.2.840.10008.5.1.4.1.1.4").status == MISMATCH


@pytest.mark.parametrize("hostile", ["../../../etc/cron.d/x", "", "1" * 65, "1.2/../3"])
def test_hostile_instance_uids_are_invalid(fresh, hostile):
    error = refused(fresh, instance=hostile)
    assert error.status == INVALID_INSTANCE
    assert not hostile or hostile not in str(error)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("hostile", ["../../../etc/cron.d/x", "", None])
def test_hostile_or_missing_study_and_series_uids_are_refused(fresh, keyword, hostile):
    if hostile is None:
        delattr(fresh, keyword)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setattr(fresh, keyword, hostile)
    assert refused(fresh).status == CANNOT_UNDERSTAND


@pytest.mark.parametrize("syntax", [s for s in SYNTAXES if not s.is_deflated])
@pytest.mark.parametrize("group", [0x0000, 0x0002])
def test_elements_of_commands_and_files_are_refused_in_a_data_set(fresh, syntax, group):
    """A reader of the file would take them for the file's own: another transfer syntax, say."""
    order = "little" if syntax.is_little_endian else "big"
    tag = group.to_bytes(2, order) + (0x10).to_bytes(2, order)
    value = b"1.2.840.10008.1.2\0"
    length = len(value).to_bytes(4, order)
    head = tag + (length if syntax.is_implicit_VR else b"UI" + len(value).to_bytes(2, order))
    error = refused(fresh, syntax, raw=head + value + encoded(fresh, syntax))
    assert error.status == CANNOT_UNDERSTAND


def test_what_is_no_image_is_refused(fresh):
    del fresh.PixelData
    error = refused(fresh)
    assert error.status == CANNOT_UNDERSTAND
    assert "not an image" in str(error)


def test_a_deflate_bomb_is_refused_before_it_fills_the_memory(fresh):
    whole = encoded(fresh, ExplicitVRLittleEndian)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    zeros = [packer.compress(bytes(2**20)) for _ in range(1024)]
    bomb = b"".join([packer.compress(whole), *zeros, packer.flush()])
    tracemalloc.start()
    try:
        error = refused(fresh, DeflatedExplicitVRLittleEndian, raw=bomb)
        assert tracemalloc.get_traced_memory()[1] < 600e6
    finally:
        tracemalloc.stop()
    assert error.status == CANNOT_UNDERSTAND
    assert "beyond the limit" in str(error)


def test_the_reason_fits_an_error_comment_and_names_no_patient(fresh):
    fresh.PatientName = "SECRET^NAME"
    whole = encoded(fresh, ExplicitVRLittleEndian)
    for length in range(0, len(whole), 101):
        text = str(refused(fresh, raw=whole[:length]))
        assert len(text) <= 64
        assert "SECRET" not in text


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_images_are_let_in_or_refused_but_never_break_it(image, data):
    whole = bytearray(encoded(image, ExplicitVRLittleEndian))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IntakeError):
        inspect(
            EncodedBytes([bytes(whole)]),
            ExplicitVRLittleEndian,
            image.SOPClassUID,
            image.SOPInstanceUID,
        )
