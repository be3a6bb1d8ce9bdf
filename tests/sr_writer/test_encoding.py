"""What a destination gets in its own encoding says the same: by pydicom, and by DCMTK."""

import io
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from sr_writer.element_tree import read_elements
from sr_writer.encoding import TRANSFER_SYNTAXES, EncodingError, encoded
from sr_writer.kinds import LANGUAGES, Kind
from sr_writer.writing import write_results
from tests.sr_writer.series import PROVENANCE, make_volume, mixed, spooled

DCMDUMP = Path("/usr/bin/dcmdump")
NAME = "Wang^XiaoDong=王^小东"
LANE = "誠"  # 0xD55C in GB18030: its second byte is a backslash


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Every object of an assessment as a file, by what it is."""
    folder = tmp_path_factory.mktemp("objects")
    volume = spooled(make_volume(name=NAME, charset="ISO_IR 192"))
    results = write_results(
        mixed(volume),
        volume.sources,
        volume,
        PROVENANCE,
        predecessors={},
        kinds=tuple(Kind),
        languages=LANGUAGES,
    )
    paths = {}
    for result in results:
        path = folder / f"{result.kind}-{result.rank}-{result.language}.dcm"
        result.dataset.save_as(path, enforce_file_format=True)
        paths[path.name] = path
    return paths


def content(dataset: Dataset) -> dict:
    """All that a data set says, but for its character set and the word size of its pixels."""
    said = dataset.to_json_dict()
    del said["00080005"]
    if "7FE00010" in said:
        said["7FE00010"]["vr"] = "OW"
    return said


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda uid: uid.name.split()[0])
def test_every_object_reads_back_equal_in_every_encoding(objects, syntax, charset):
    for path in objects.values():
        source = dcmread(path)
        made = dcmread(io.BytesIO(encoded(path, syntax, charset)))
        assert made.file_meta.TransferSyntaxUID == syntax
        assert made.file_meta.MediaStorageSOPInstanceUID == source.SOPInstanceUID
        assert made.SpecificCharacterSet == charset
        correct_ambiguous_vr(made, is_little_endian=True)
        assert content(made) == content(source)


@pytest.mark.skipif(not DCMDUMP.exists(), reason="DCMTK is not installed (apt-get install dcmtk)")
@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda uid: uid.name.split()[0])
def test_dcmtk_reads_the_same_words(objects, tmp_path, syntax, charset):
    path = objects["report-0-.dcm"]
    made = tmp_path / "made.dcm"
    made.write_bytes(encoded(path, syntax, charset))
    assert dumped(made) == dumped(path)
    assert NAME in "".join(dumped(made))


def dumped(path):
    """Tags and values as DCMTK reads them, in UTF-8; not how the file is encoded."""
    command = [str(DCMDUMP), "-q", "+U8", "+L", "-M", "+W", str(path.parent), str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    values = [line.rpartition(" # ")[0].rstrip(" ") for line in lines if "(" in line]
    return [
        value
        for value in values
        if "(0008,0005)" not in value and "(0002," not in value and "(fffe," not in value
        if " SQ " not in value
    ]


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\^="))
       .map(str.strip).filter(bool))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_text_survives_gb18030(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "text.dcm"
    item = Dataset()
    item.CodeMeaning = f"a{text[:60]}b"
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = "1.2.3", "1.2.3.4"
    made.PatientName = f"x^y=a{text}b"
    made.TextValue = f"a{text}b"
    made.OtherPatientNames = [f"a{text}b", LANE]
    made.ConceptNameCodeSequence = [item, Dataset()]
    made.file_meta = dcm_meta(ExplicitVRLittleEndian)
    made.save_as(path, enforce_file_format=True)
    back = dcmread(io.BytesIO(encoded(path, ImplicitVRLittleEndian, "GB18030")))
    assert content(back) == content(dcmread(path))


def dcm_meta(syntax):
    dataset = Dataset()
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset.file_meta


def test_a_text_that_the_characters_set_lacks_is_an_error_and_never_a_question_mark(objects):
    with pytest.raises(EncodingError, match="cannot be written in ISO_IR 100"):
        encoded(objects["report-0-.dcm"], ExplicitVRLittleEndian, "ISO_IR 100")


def test_a_text_that_is_too_long_in_the_character_set_is_an_error(tmp_path):
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = "1.2.3", "1.2.3.4"
    made.AdditionalPatientHistory = "ñ" * 30000  # two bytes each in UTF-8, four in GB18030
    made.file_meta = dcm_meta(ExplicitVRLittleEndian)
    made.save_as(tmp_path / "long.dcm", enforce_file_format=True)
    with pytest.raises(EncodingError, match="AdditionalPatientHistory is too long in GB18030"):
        encoded(tmp_path / "long.dcm", ExplicitVRLittleEndian, "GB18030")


def test_what_is_compressed_is_not_encoded_anew(objects, tmp_path):
    made = dcmread(objects["report-0-.dcm"])
    made.file_meta.TransferSyntaxUID = RLELossless
    made.save_as(tmp_path / "made.dcm")
    with pytest.raises(EncodingError, match="RLE Lossless; write it natively"):
        encoded(tmp_path / "made.dcm", ImplicitVRLittleEndian, "ISO_IR 192")


def test_what_no_dictionary_knows_is_not_sent_without_its_vr(tmp_path):
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = "1.2.3", "1.2.3.4"
    made.private_block(0x0099, "OVERREAD", create=True).add_new(1, "LO", "x")
    made.file_meta = dcm_meta(ExplicitVRLittleEndian)
    made.save_as(tmp_path / "private.dcm", enforce_file_format=True)
    with pytest.raises(EncodingError, match=r"\(0099,0010\) is in no dictionary"):
        encoded(tmp_path / "private.dcm", ImplicitVRLittleEndian, "ISO_IR 192")
    assert encoded(tmp_path / "private.dcm", DeflatedExplicitVRLittleEndian, "ISO_IR 192")


@pytest.mark.parametrize("is_implicit", [False, True])
@given(cut=st.floats(0, 1), flip=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_damaged_data_set_is_an_error_and_nothing_worse(objects, is_implicit, cut, flip):
    whole = bytearray(objects["report-0-.dcm"].read_bytes()[400:])
    whole[int(cut * 2000)] ^= flip
    try:
        read_elements(bytes(whole[: int(cut * len(whole))]), is_implicit=is_implicit)
    except ValueError:
        return


def test_a_report_is_encoded_anew_well_within_a_second(objects):
    path = objects["report-0-.dcm"]
    encoded(path, ImplicitVRLittleEndian, "GB18030")  # the dictionary is loaded once
    start = time.perf_counter()
    encoded(path, ImplicitVRLittleEndian, "GB18030")
    assert time.perf_counter() - start < 0.5
