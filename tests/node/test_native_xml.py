"""XML of a data set says what its JSON says, and what DCMTK says, whatever the values hold."""

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from node.dicomweb.dicom_json import json_of
from node.dicomweb.native_xml import xml_of
from tests.node.native_model import read_document
from tests.slices import write_part10

DCM2XML = Path("/usr/bin/dcm2xml")


def dataset():
    """Values that are easily written wrong, all of which XML can hold."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    made.ImageType = ["ORIGINAL", "", "A"]
    made.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    made.OtherPatientNames = ["A^B^C^D^E", "X"]
    made.PatientID = ""
    made.StudyDescription = "<&> \"'\u2028 ]]> <!-- &amp; \U0001f600"
    made.ImageComments = " led\tby\r\nspace"
    made.WindowCenter, made.InstanceNumber = ["1.50", "-3"], "007"
    made.FrameIncrementPointer = [0x00181063, 0x00280009]
    made.Rows, made.RecommendedDisplayFrameRateInFloat = 7, 0.1
    block = made.private_block(0x0009, "ACME 1", create=True)
    block.add_new(1, "LO", "x")
    block.add_new(2, "OB", b"\1\2\3\4")
    made.private_block(0x0009, "Other", create=True).add_new(1, "FD", [0.1, -2.0])
    item, within = Dataset(), Dataset()
    item.CodeValue, within.CodeMeaning = "1", "inner"
    item.private_block(0x0009, "Inner", create=True).add_new(5, "UN", b"zz")
    item.EquivalentCodeSequence = [within]
    made.ConceptNameCodeSequence, made.AnatomicRegionSequence = [item, Dataset()], []
    return made


def encoded(made):
    """A data set as it is stored, without a head."""
    file = BytesIO()
    made.save_as(file, implicit_vr=False, little_endian=True)
    return file.getvalue()


@pytest.fixture
def stored(tmp_path):
    write_part10(tmp_path / "image.dcm", dataset(), ExplicitVRLittleEndian)
    return tmp_path / "image.dcm"


@pytest.mark.peers
@pytest.mark.skipif(not DCM2XML.exists(), reason="DCMTK is not installed")
def test_dcmtk_writes_the_same(stored):
    # Of OW it turns the bytes round, an empty name in a list is the name before it to it, < in a
    # creator and escape in a text make XML of it that is none: so nothing of that is here.
    command = [str(DCM2XML), "--native-format", "--use-xml-namespace", "--encode-base64"]
    theirs = subprocess.run([*command, str(stored)], check=True, capture_output=True).stdout
    for ours in (dataset(), dcmread(stored)):
        assert read_document(xml_of(json_of(ours))) == read_document(theirs)


def test_values_that_are_not_there_keep_their_place():
    made = Dataset()
    made.OtherPatientNames = ["A^B", "", "=X"]
    made.ImageType = ["", "B", ""]
    made.PatientName = None
    for one in (made, dcmread(BytesIO(encoded(made)), force=True)):
        types, empty, names = read_document(xml_of(json_of(one))).values()
        assert types[2] == ["", "B", ""]
        assert not empty[2]
        assert names[2] == [
            {"Alphabetic": {"FamilyName": "A", "GivenName": "B"}},
            {},
            {"Ideographic": {"FamilyName": "X"}},
        ]


def test_large_values_are_given_by_their_url():
    made = Dataset()
    made.add_new(0x60003000, "OW", b"\0\1" * 2000)
    made.add_new(0x60103000, "OW", b"\0\1" * 2)
    found = read_document(xml_of(json_of(made, "https://node/bulkdata?a=1&b=<2>")))
    assert found["60003000", ""][2] == ["https://node/bulkdata?a=1&b=<2>/60003000"]
    assert found["60103000", ""] == ("OW", "OverlayData", [b"\0\1\0\1"])


@given(st.text(st.characters(codec="utf-8")))
@example("form\ffeed")
@example("\x1b$B;3ED")
@example("\0")
@example("\ufffe")
@example("a\rb\r\nc")
def test_any_text_is_read_as_it_was_or_as_its_bytes(text):
    named = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
    found = read_document(xml_of({**named, "00204000": {"vr": "LT", "Value": [text]}}))
    vr, keyword, values = found["00204000", ""]
    assert keyword == "ImageComments"
    assert (values or [b""]) == ([text] if vr == "LT" else [text.encode()])
    name = {"Alphabetic": text, "Phonetic": "a^b^c^d^e^f"}
    found = read_document(xml_of({"00100010": {"vr": "PN", "Value": [name]}}))
    vr, _, (value,) = found["00100010", ""]
    if vr == "PN":
        assert value["Phonetic"]["NameSuffix"] == "e^f"
    else:
        assert value == f"{text}==a^b^c^d^e^f".encode()


@pytest.mark.parametrize("vr", ['B"', "B<", "B\1", "zz", "B\u0660"])
@pytest.mark.parametrize("values", [{}, {"Value": ["a"]}])
def test_a_representation_that_is_none_becomes_unknown(vr, values):
    found = read_document(xml_of({"00204000": {"vr": vr, **values}}))
    assert found["00204000", ""] == ("UN", "ImageComments", [b"a"] if values else [])


@pytest.mark.parametrize(
    "creator",
    [
        {"vr": "LO"},
        {"vr": "LO", "Value": ["A", "B"]},
        {"vr": "LO", "Value": ["A\x1b"]},
        {"vr": "PN", "Value": [{"Alphabetic": "A"}]},
        {"vr": "SQ", "Value": [{}]},
    ],
)
def test_a_private_creator_that_is_none_is_not_believed(creator):
    found = read_document(xml_of({"00090010": creator, "00091001": {"vr": "LO", "Value": ["x"]}}))
    assert found["00091001", ""] == ("LO", "", ["x"])


def test_a_private_creator_may_have_any_name_that_xml_can_hold():
    made = Dataset()
    made.private_block(0x0009, "A<\"'\t&>", create=True).add_new(1, "LO", "x")
    assert read_document(xml_of(json_of(made)))["00090001", "A<\"'\t&>"] == ("LO", "", ["x"])


def test_a_document_says_what_it_is_and_nothing_is_between_its_values():
    document = xml_of(json_of(dataset()))
    first, _, rest = document.partition(b"\n")
    assert first == b'<?xml version="1.0" encoding="UTF-8"?>'
    assert rest.startswith(b"<NativeDicomModel ")
    assert b' xml:space="preserve">' in rest
    assert b">\n<" not in rest
