"""Damaged images in every transfer syntax: let in or refused, assembled or not, within bounds.

OVERREAD_FUZZ_EXAMPLES says how many.
"""

import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.assembly import assemble
from node.codecs import Codecs
from node.descriptions import describe
from node.dicomweb.dicom_json import json_of
from node.dicomweb.images import NoSuchFrameError, NotAnImageError, image_of
from node.dicomweb.instance_files import NotConvertibleError, explicit_little_endian
from node.dicomweb.native_xml import xml_of
from node.dicomweb.rendering import Appearance, rendered
from node.encoded_image import EncodedBytes
from node.instances import UnreadableInstanceError, read_instance, text_of
from node.intake import TRANSFER_SYNTAXES, IntakeError, inspect
from tests.node.encodings import write_series
from tests.node.test_assembly_fuzz import has_a_verdict

EXAMPLES = int(os.environ.get("OVERREAD_FUZZ_EXAMPLES", "30"))
HOSTILE = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 0xE000FFFE, 0xE0DDFFFE)

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "byte", "number", "cut", "insert", "repeat", "drop", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(HOSTILE), st.integers(0, 2**32 - 1)),
    ),
    min_size=1,
    max_size=6,
)


def damaged(content, edits):
    """Bytes with some of them changed."""
    content = bytearray(content)
    for what, where, value in edits:
        at = int(where * len(content))
        some = value % 64 + 1
        if what == "flip" and content:
            content[at] ^= 1 << value % 8
        elif what == "byte" and content:
            content[at] = value % 256
        elif what == "number":
            content[at & ~1 : (at & ~1) + 4] = value.to_bytes(4, "little")
        elif what == "cut":
            del content[at:]
        elif what == "insert":
            content[at:at] = value.to_bytes(4, "little") * (some // 4)
        elif what == "repeat":
            content[at:at] = content[at : at + some]
        elif what == "drop":
            del content[at : at + some]
        elif what == "swap":
            content[at : at + 2 * some] = (
                content[at + some : at + 2 * some] + content[at : at + some]
            )
    return bytes(content)


class Series:
    """Files of one series, each in its file meta information and its data set."""

    def __init__(self, folder, syntax):
        self.syntax = syntax
        self.paths = write_series(folder, syntax)
        content = self.paths[0].read_bytes()
        end = 144 + int.from_bytes(content[140:144], "little")
        self.meta, self.data_set = content[:end], content[end:]
        header = dcmread(self.paths[0])
        self.sop_class, self.uid = header.SOPClassUID, header.SOPInstanceUID

    def damaged(self, edits, *, packed):
        """The first image's data set; a deflated one is damaged before or after it is deflated."""
        if self.syntax != DeflatedExplicitVRLittleEndian or packed:
            return damaged(self.data_set, edits)
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        inner = damaged(zlib.decompress(self.data_set, -zlib.MAX_WBITS), edits)
        return packer.compress(inner) + packer.flush()


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    made = [Series(folder / str(n), syntax) for n, syntax in enumerate(TRANSFER_SYNTAXES)]
    for one in made:
        assert (
            inspect(EncodedBytes([one.data_set]), one.syntax, one.sop_class, one.uid).key.instance
            == one.uid
        )
        assert assemble(one.paths).verdict.accepted, one.syntax.name
    return made


@pytest.mark.timeout(300 + EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(which=st.integers(0, len(TRANSFER_SYNTAXES) - 1), edits=EDITS, packed=st.booleans())
@example(which=0, edits=[("insert", 0.0, 255)], packed=False)  # lengths that were allocated
@example(which=2, edits=[("number", 0.0, 0)], packed=False)  # an element of group 0000
@example(which=2, edits=[("number", 0.0, 2)], packed=False)  # one of 0200 that reads as 0002
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_breaks_neither_the_intake_nor_what_reads_the_spool(
    series, which, edits, packed
):
    one = series[which]
    data_set = one.damaged(edits, packed=packed)
    intake = None
    with suppress(IntakeError):
        intake = inspect(EncodedBytes([data_set]), one.syntax, one.sop_class, one.uid)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.dcm"
        path.write_bytes(one.meta + data_set)
        with suppress(UnreadableInstanceError):
            read = read_instance(path)
            if intake is not None:  # it lies where those who read it will look for it
                assert text_of(read.header, "SOPInstanceUID") == intake.key.instance
                assert text_of(read.header, "StudyInstanceUID") == intake.key.study
                assert text_of(read.header, "SeriesInstanceUID") == intake.key.series
        has_a_verdict([path, *one.paths[1:]])


@pytest.fixture(scope="module")
def codecs():
    with Codecs() as codecs:
        yield codecs


@pytest.mark.timeout(300 + EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(which=st.integers(0, len(TRANSFER_SYNTAXES) - 1), edits=EDITS, packed=st.booleans())
@example(which=0, edits=[("repeat", 0.3984375, 1)], packed=False)  # a number that is none
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_described_and_shown_or_refused(series, codecs, which, edits, packed):
    """By what lists it in the catalogue, and by what DICOMweb answers of it."""
    one = series[which]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.dcm"
        path.write_bytes(one.meta + one.damaged(edits, packed=packed))
        with suppress(UnreadableInstanceError):
            read = read_instance(path)
            assert len(describe(read_instance(path).header).study)
            attributes = json_of(read.header, "https://node")
            assert orjson.loads(orjson.dumps(attributes)) is not None
            assert ElementTree.fromstring(xml_of(attributes)) is not None  # noqa: S314
            for show in (_rendered, _converted):
                with suppress(NotAnImageError, NoSuchFrameError, NotConvertibleError):
                    assert show(path, codecs)


def _rendered(path, codecs):
    return rendered(image_of(read_instance(path)), 1, Appearance(), "image/png", codecs)


def _converted(path, codecs):
    return b"".join(explicit_little_endian(path, codecs))
