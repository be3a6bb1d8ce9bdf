"""Small files that say that they are large: refused before anything is made of their size."""

import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.assembly import assemble
from node.disk import Disk
from node.encoded_image import MAXIMUM_HEADER, EncodedBytes
from node.intake import CANNOT_UNDERSTAND, TRANSFER_SYNTAXES, IntakeError, inspect
from node.reception import Intaker
from node.settings import load_settings
from node.spool import Spool
from node.store_request import StoreRequest
from tests.node.configuration import write_config
from tests.node.encodings import CODECS, write_series
from tests.slices import write_part10

UID = "1.2.3"


@contextmanager
def bounded(megabytes, seconds):
    """What is done here takes no more memory of Python's, and no more time."""
    start = time.process_time()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < seconds


def refused(data_set, syntax):
    with pytest.raises(IntakeError) as error:
        inspect(EncodedBytes([data_set]), syntax, CTImageStorage, UID)
    assert len(str(error.value)) <= 64
    return str(error.value)


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("frames", [None, 1000])
def test_a_file_of_a_kilobyte_that_says_it_has_terabytes_takes_none(tmp_path, syntax, frames):
    paths = write_series(tmp_path / "series", syntax)
    header = dcmread(paths[0])
    header.Rows = header.Columns = 65535
    if frames:
        header.NumberOfFrames = frames
    if syntax in CODECS:  # the codestream says so too
        header.PixelData = encapsulate([_enlarged(header, syntax)])
        header["PixelData"].VR = "OB"
        header["PixelData"].is_undefined_length = True
    write_part10(paths[0], header, syntax)
    content = paths[0].read_bytes()
    data_set = content[144 + int.from_bytes(content[140:144], "little") :]
    with bounded(8, 20):
        try:
            inspect(EncodedBytes([data_set]), syntax, header.SOPClassUID, header.SOPInstanceUID)
        except IntakeError:
            assert syntax not in CODECS
        assert not assemble(paths[:1]).verdict.accepted


def _enlarged(header, syntax):
    """A frame's codestream that claims 65535 x 65535 pixels, where it says how many it has."""
    stream = get_frame(header.PixelData, 0, number_of_frames=1)
    size, largest = (16).to_bytes(2, "big"), b"\xff\xff"
    if stream.startswith(b"\xff\x4f"):  # JPEG 2000: of 4 bytes each
        return stream.replace((16).to_bytes(4, "big"), b"\0\0" + largest)
    return stream.replace(size + size, largest + largest)


def test_a_deflated_data_set_of_ten_gigabytes_is_refused_at_its_limit():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    megabyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    with bounded(600, 30):
        said = refused(megabyte * 10_240 + packer.flush(), DeflatedExplicitVRLittleEndian)
    assert "beyond the limit" in said


def test_deflated_data_sets_that_come_together_do_not_add_up(tmp_path):
    spool = Spool(tmp_path / "state" / "spool")
    spool.prepare()
    disk = Disk(load_settings(write_config(tmp_path)))
    intaker = Intaker(spool, disk, note=lambda _: None)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    # Refused once it is inflated, for its first element.
    content = packer.compress(b"\x02" + bytes(80 << 20)) + packer.flush()
    asked = StoreRequest(CTImageStorage, "1.2.3", DeflatedExplicitVRLittleEndian, "PACS", "::1")

    def store(_):
        reception = intaker.begin(asked)
        reception.add(memoryview(content))
        return reception.finish().status

    with bounded(400, 60), ThreadPoolExecutor(8) as senders:
        assert set(senders.map(store, range(8))) == {CANNOT_UNDERSTAND}


@pytest.fixture
def few(monkeypatch):
    """The limits of elements and fragments, lower, for a test that takes no minute."""
    for limit in ("data_elements.MAX_ELEMENTS", "encoded_image.MAX_ELEMENTS"):
        monkeypatch.setattr(f"node.{limit}", 4000)
    monkeypatch.setattr("node.encoded_image.MAX_FRAGMENTS", 4000)


def element(number, value=b""):
    """An element of Implicit VR Little Endian."""
    tag = number.to_bytes(4, "big")
    return tag[1::-1] + tag[:1:-1] + len(value).to_bytes(4, "little") + value


MANY = np.zeros((20_000, 4), "<u2")
MANY[:, 0] = 0x0011 + 2 * (np.arange(len(MANY)) >> 16)
MANY[:, 1] = np.arange(len(MANY)) & 0xFFFF


@pytest.mark.parametrize(
    ("syntax", "elements"),
    [
        (ImplicitVRLittleEndian, MANY.tobytes()),
        (ExplicitVRBigEndian, MANY.tobytes()),
        (ExplicitVRLittleEndian, MANY.tobytes()),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_a_header_of_very_many_elements_is_refused(few, syntax, elements):
    with bounded(6, 5):
        refused(elements, syntax)


def test_a_header_that_does_not_end_is_refused():
    part = element(0x00110011, bytes(1 << 20))
    many = EncodedBytes([part] * (2 * MAXIMUM_HEADER // len(part)))
    with bounded(5 * MAXIMUM_HEADER / 1e6, 20), pytest.raises(IntakeError):
        inspect(many, ImplicitVRLittleEndian, CTImageStorage, UID)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return dcmread(write_series(tmp_path_factory.mktemp("image"), ExplicitVRLittleEndian)[0])


def data_set_of(image):
    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = False, True
    write_dataset(target, image)
    return target.getvalue()


def test_what_follows_the_pixel_data_is_bounded(image):
    whole = data_set_of(image)
    after = b"\xfc\xff\xfc\xffOB\0\0" + (1 << 24).to_bytes(4, "little") + bytes(1 << 24)
    with bounded(8, 10), pytest.raises(IntakeError, match="follows"):
        inspect(
            EncodedBytes([whole, after]),
            ExplicitVRLittleEndian,
            image.SOPClassUID,
            image.SOPInstanceUID,
        )


def test_pixel_data_of_very_many_fragments_are_refused(few, image):
    whole = data_set_of(image)
    start = whole.index(b"\xe0\x7f\x10\x00")
    fragments = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 20_000
    syntax = next(iter(CODECS))
    with bounded(3, 5), pytest.raises(IntakeError):
        inspect(
            EncodedBytes([whole[:start] + fragments + b"\xfe\xff\xdd\xe0\0\0\0\0"]),
            syntax,
            image.SOPClassUID,
            image.SOPInstanceUID,
        )
