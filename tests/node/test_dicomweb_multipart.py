"""Parts are the same however the body is cut; heads of files are read whatever comes after."""

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node.dicomweb.multipart import (
    Mark,
    MultipartError,
    MultipartReader,
    PartBegins,
    parameters_of,
)
from node.part10 import LARGEST_HEAD, HeadError, read_head

BOUNDARY = "b0-1"
# Contents that look like the boundary without being one, or like parts of it.
CONTENT = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"\r", b"\n", b"\r\n", b"\r\n-", b"\r\n--", b"\r\n--b0", b"--b0-1", b"--"]
        ),
    ),
    max_size=12,
).map(b"".join)
HEADERS = st.sampled_from(
    [
        (b"Content-Type: application/dicom\r\n", "application/dicom"),
        (
            b"content-type:  Application/DICOM; transfer-syntax=1.2.840.10008.1.2\r\n",
            "application/dicom",
        ),
        (
            b"Content-Location: /a\r\nContent-Type: image/jpeg\r\nMIME-Version: 1.0\r\n",
            "image/jpeg",
        ),
        (b"", ""),
    ]
)


def parts_of(reader, chunks):
    """Media type and content of each part."""
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    events += reader.close()
    parts = []
    for event in events:
        if isinstance(event, PartBegins):
            parts.append((event.media_type, bytearray()))
        elif event is not Mark.PART_ENDS:
            parts[-1][1].extend(event)
    assert events.count(Mark.PART_ENDS) == len(parts)
    return [(media_type, bytes(content)) for media_type, content in parts]


def cut(data, body):
    """The body in chunks that hypothesis chooses."""
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=20).map(sorted))
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True) if a < b]


@given(st.lists(st.tuples(HEADERS, CONTENT), min_size=1, max_size=4), st.data())
def test_parts_are_the_same_however_the_body_is_cut(parts, data):
    delimiter = b"\r\n--" + BOUNDARY.encode()
    parts = [
        (headers, content)
        for headers, content in parts
        if delimiter not in b"\r\n" + content + b"\r\n"
    ]
    body = b"".join(
        b"%s\r\n%s\r\n%s" % (delimiter, headers, content) for (headers, _), content in parts
    )
    body += delimiter + b"--\r\n"
    expected = [(media_type, content) for (_, media_type), content in parts]
    assert parts_of(MultipartReader(BOUNDARY), cut(data, body)) == expected
    assert parts_of(MultipartReader(BOUNDARY), [body[i : i + 1] for i in range(len(body))]) == (
        expected
    )


@given(st.binary(max_size=200), st.data())
def test_what_is_no_multipart_is_refused_or_has_no_parts(body, data):
    reader = MultipartReader(BOUNDARY)
    with pytest.raises(MultipartError):
        parts_of(reader, cut(data, body))


@pytest.mark.parametrize("count", [17, 10_000])
def test_headers_of_a_part_are_limited(count):
    reader = MultipartReader(BOUNDARY)
    with pytest.raises(MultipartError):
        list(reader.feed(b"--b0-1\r\n" + b"A: b\r\n" * count))
    with pytest.raises(MultipartError):
        list(MultipartReader(BOUNDARY).feed(b"--b0-1\r\nA: " + b"b" * 5000 * count))


@given(st.text(max_size=80))
def test_any_content_type_has_a_media_type(text):
    media_type, parameters = parameters_of(text)
    assert isinstance(media_type, str)
    assert all(isinstance(value, str) for value in parameters.values())


def test_parameters_of_a_content_type_may_be_quoted():
    media_type, parameters = parameters_of(
        'Multipart/Related; Type="application/dicom"; boundary="a b"'
    )
    assert media_type == "multipart/related"
    assert parameters == {"type": "application/dicom", "boundary": "a b"}


def whole_file(private=b""):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if private:
        dataset.file_meta.PrivateInformationCreatorUID = "1.2.4"
        dataset.file_meta.PrivateInformation = private
    dataset.PatientName = "TEST"
    file = BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("private", [b"", b"x" * 500])
def test_the_head_of_a_file_is_read_as_soon_as_it_is_whole(private):
    file = whole_file(private)
    begins = file.index(b"\x10\x00\x10\x00PN")
    assert all(read_head(file[:size]) is None for size in range(begins + 2))
    for size in range(begins + 2, len(file)):
        head = read_head(file[:size])
        assert (head.sop_class_uid, head.instance_uid) == (CTImageStorage, "1.2.3")
        assert head.transfer_syntax == ExplicitVRLittleEndian
        assert head.end == begins


@given(st.binary(max_size=300))
def test_a_hostile_head_is_refused_or_read_within_its_bytes(content):
    file = b"\0" * 128 + b"DICM" + content
    try:
        head = read_head(file)
    except HeadError:
        return
    assert head is None or head.end <= len(file)


def test_a_head_that_does_not_end_is_refused():
    file = whole_file(b"x" * (LARGEST_HEAD + 100))
    with pytest.raises(HeadError):
        read_head(file[: LARGEST_HEAD + 1])
    with pytest.raises(HeadError):
        read_head(b"\0" * 128 + b"DICM" + b"\x02\x00\x01\x00OB\x00\x00\xff\xff\xff\xff")
