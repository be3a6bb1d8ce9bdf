"""WADO-RS answers what is held in the form that a client asks for, with the values unchanged."""

import base64
import io
import tracemalloc

import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from httpx2 import RemoteProtocolError
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from requests import Session

from node.codecs import Codecs
from node.dicomweb.dicom_json import json_of
from node.dicomweb.instance_files import explicit_little_endian
from node.instances import read_instance
from node.settings import load_settings
from tests.node import held_files
from tests.node.dicomweb_server import TOKEN, configure, dicomweb_server, http_client
from tests.node.held_files import COLUMNS, ENCODE, NATIVE, ROWS, SLICES, colours, head, hold, key_of
from tests.node.native_model import SEVERAL_XML, documents_of, read_document
from tests.slices import write_part10


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return held_files.write_all(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, files):
    config = configure(tmp_path_factory.mktemp("node"))
    hold(load_settings(config), [path for paths in files.values() for path in paths])
    with dicomweb_server(config) as settings:
        yield settings


@pytest.fixture(scope="module")
def http(settings):
    with http_client(settings) as client:
        yield client


@pytest.fixture(scope="module")
def client(settings):
    session = Session()
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    session.trust_env = False
    return DICOMwebClient(f"http://127.0.0.1:{settings.dicomweb.port}/dicom-web", session=session)


def url(path, *, level="instance"):
    key = key_of(path)
    parts = {"study": key.study, "series": key.series, "instance": key.instance}
    said = {"study": "studies", "series": "series", "instance": "instances"}
    path = ""
    for one, uid in parts.items():
        path += f"/{said[one]}/{uid}"
        if one == level:
            return path
    return None


def three(path):
    key = key_of(path)
    return key.study, key.series, key.instance


SYNTAXES = [*NATIVE, *ENCODE]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda one: one.name)
def test_an_instance_comes_uncompressed_with_the_values_that_it_had(client, files, syntax):
    path = files["ct" if syntax == ExplicitVRLittleEndian else syntax.name][0]
    got = client.retrieve_instance(
        *three(path), media_types=(("application/dicom", str(ExplicitVRLittleEndian)),)
    )
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (got.pixel_array == head()).all()
    stored = dcmread(path)
    for element in stored:
        if element.keyword != "PixelData":
            assert got[element.tag] == element, element.keyword


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda one: one.name)
def test_an_instance_comes_as_it_is_stored_where_that_is_asked_for(http, files, syntax):
    path = files["ct" if syntax == ExplicitVRLittleEndian else syntax.name][0]
    got = http.get(url(path), headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert got.status_code == 200
    assert got.headers["Content-Type"] == f"application/dicom;transfer-syntax={syntax}"
    assert got.content == path.read_bytes()


def test_a_study_comes_whole(client, files):
    paths = [path for several in files.values() for path in several]
    got = {one.SOPInstanceUID: one for one in client.retrieve_study(key_of(paths[0]).study)}
    assert got.keys() == {key_of(path).instance for path in paths}
    assert {one.file_meta.TransferSyntaxUID for one in got.values()} == {ExplicitVRLittleEndian}


def test_a_series_comes_whole(client, files):
    got = client.retrieve_series(*three(files["ct"][0])[:2])
    assert {one.SOPInstanceUID for one in got} == {key_of(path).instance for path in files["ct"]}


@pytest.mark.parametrize("kind", ["colour", "planar", "jpeg"])
def test_colours_come_uncompressed_as_rgb(client, files, kind):
    got = client.retrieve_instance(
        *three(files[kind][0]), media_types=(("application/dicom", str(ExplicitVRLittleEndian)),)
    )
    assert got.PhotometricInterpretation == "RGB"
    difference = np.abs(got.pixel_array.astype(int) - colours()).max()
    assert difference <= (6 if kind == "jpeg" else 0)


@pytest.mark.parametrize("kind", ["ct", "frames in JPEG-LS", "jpeg", "colour"])
def test_metadata_are_the_attributes_with_pixels_by_url(client, http, files, kind):
    path = files[kind][0]
    got = client.retrieve_instance_metadata(*three(path))
    stored = dcmread(path)
    expected = stored.to_json_dict(bulk_data_threshold=10**9)
    expected.pop("7FE00010")
    place = got.pop("7FE00010")["BulkDataURI"]
    expected["00080005"]["Value"] = ["ISO_IR 192"]
    assert got == {key: value for key, value in expected.items() if value != {"vr": "SQ"}}
    bulk = http.get(place, headers={"Accept": "application/octet-stream"})
    assert bulk.status_code == 200
    assert len(bulk.content) == stored.Rows * stored.Columns * (
        stored.SamplesPerPixel * stored.BitsAllocated // 8 * stored.get("NumberOfFrames", 1)
    )


@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_metadata_come_as_xml_where_that_is_asked_for(http, files, level):
    path = f"{url(files['ct'][0], level=level)}/metadata"
    documents = documents_of(http.get(path, headers={"Accept": SEVERAL_XML}))
    by_json = http.get(path).json()
    assert len(documents) == len(by_json)
    for one, attributes in zip(documents, by_json, strict=True):
        assert {tag: read[0] for (tag, _), read in one.items()} == {
            tag: said["vr"] for tag, said in attributes.items()
        }
        assert one["00080018", ""][2] == attributes["00080018"]["Value"]
        (pixels,) = one["7FE00010", ""][2]
        assert pixels == attributes["7FE00010"]["BulkDataURI"]
    pixels = http.get(pixels, headers={"Accept": "application/octet-stream"})
    assert (pixels.status_code, len(pixels.content) > 0) == (200, True)


def test_metadata_of_one_instance_may_be_one_document(http, files):
    path = f"{url(files['ct'][0])}/metadata"
    got = http.get(path, headers={"Accept": "application/dicom+xml"})
    assert got.headers["Content-Type"] == "application/dicom+xml"
    name = read_document(got.content)["00100010", ""][2][0]
    assert name == {"Alphabetic": {"FamilyName": "Müller", "GivenName": "Jörg"}}
    several = f"{url(files['ct'][0], level='series')}/metadata"
    assert http.get(several, headers={"Accept": "application/dicom+xml"}).status_code == 406


def test_metadata_of_a_study_are_those_of_its_instances(client, files):
    paths = [path for several in files.values() for path in several]
    got = client.retrieve_study_metadata(key_of(paths[0]).study)
    assert {one["00080018"]["Value"][0] for one in got} == {key_of(path).instance for path in paths}


@pytest.mark.parametrize("kind", ["frames", "frames in JPEG-LS"])
def test_frames_come_uncompressed_unless_asked_for_otherwise(client, files, kind):
    got = client.retrieve_instance_frames(*three(files[kind][0]), frame_numbers=[3, 1])
    assert [np.frombuffer(one, "<u2").reshape(ROWS, COLUMNS)[0, 0] for one in got] == [
        head(2)[0, 0],
        head(0)[0, 0],
    ]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("image/jls", f"image/jls;transfer-syntax={JPEGLSLossless}"),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            f"application/octet-stream;transfer-syntax={JPEGLSLossless}",
        ),
        (
            "image/jp2, */*;q=0.1",
            f"application/octet-stream;transfer-syntax={ExplicitVRLittleEndian}",
        ),
    ],
)
def test_a_frame_comes_in_the_form_that_is_preferred(http, files, accept, content_type):
    (path,) = files["frames in JPEG-LS"]
    got = http.get(f"{url(path)}/frames/2", headers={"Accept": accept})
    assert got.status_code == 200
    said = got.headers["Content-Type"]
    if said.startswith("multipart"):
        assert content_type.encode() in got.content[:200]
    else:
        assert said == content_type
    if "jls" in content_type:
        assert got.content.startswith(b"\xff\xd8")


def picture(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_picture_has_the_window_of_the_image(http, files):
    shown = picture(http.get(f"{url(files['ct'][0])}/rendered", headers={"Accept": "image/png"}))
    hounsfield = head().astype(float) - 1024
    expected = np.clip(((hounsfield - 39.5) / 399 + 0.5) * 255, 0, 255)
    assert np.abs(shown - expected).max() <= 1


def test_a_picture_has_the_window_and_the_part_that_are_asked_for(http, files):
    shown = picture(
        http.get(
            f"{url(files['ct'][0])}/rendered",
            params={
                "window": "500,1000,linear-exact",
                "viewport": "20,20,8,10,-20,20",
                "accept": "image/png",
            },
        )
    )
    part = head().astype(float)[10:30, 8:28][:, ::-1] - 1024
    assert shown.shape == (20, 20)
    assert np.abs(shown - np.clip(part / 1000 * 255, 0, 255)).max() <= 1


@pytest.mark.parametrize("kind", ["colour", "planar", "jpeg"])
def test_pictures_of_colours_are_in_colour(client, files, kind):
    shown = client.retrieve_instance_rendered(*three(files[kind][0]), media_types=("image/png",))
    difference = np.abs(np.asarray(Image.open(io.BytesIO(shown))).astype(int) - colours())
    assert difference.max() <= (6 if kind == "jpeg" else 0)


def test_frames_are_drawn_one_by_one_and_a_thumbnail_is_the_middle_one(http, files):
    path = files["frames"][0]
    one = picture(http.get(f"{url(path)}/frames/3/rendered", params={"accept": "image/png"}))
    several = http.get(f"{url(path)}/rendered")
    assert several.headers["Content-Type"].startswith('multipart/related; type="image/jpeg"')
    assert several.content.count(b"Content-Type: image/jpeg") == SLICES
    assert http.get(f"{url(path)}/rendered", headers={"Accept": "image/png"}).status_code == 406
    thumbnail = picture(http.get(f"{url(path)}/thumbnail", params={"accept": "image/png"}))
    assert thumbnail.shape == (213, 256)
    assert abs(int(thumbnail.mean()) - int(one.mean())) <= 2
    for level in ("study", "series"):
        assert picture(http.get(f"{url(path, level=level)}/thumbnail")).shape == (213, 256)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/frames/0", 400),
        ("/frames/-1", 400),
        ("/frames/1,,2", 400),
        ("/frames/1,999999", 404),
        ("/frames/99999999999999999999", 400),
        ("/frames/%31", 200),
        ("/rendered?window=0", 400),
        ("/rendered?window=1,0.5,linear", 400),
        ("/rendered?window=1,nan", 400),
        ("/rendered?window=1,2,cubic", 400),
        ("/rendered?viewport=0,10", 400),
        ("/rendered?viewport=99999,10", 400),
        ("/rendered?viewport=10,10,100,100,5,5", 406),
        ("/rendered?quality=0", 400),
        ("/rendered?quality=%C2%B2", 400),
        ("/bulkdata/7FE00010", 200),
        ("/bulkdata/00189999", 404),
        ("/bulkdata/00081140/1/00080018", 404),
        ("/bulkdata/%2e%2e/%2e%2e", 400),
        ("/nothing", 404),
    ],
)
def test_what_cannot_be_asked_is_said(http, files, path, status):
    got = http.get(url(files["ct"][0]) + path)
    assert got.status_code == status, got.text
    if status != 200:
        assert got.headers["Content-Type"].startswith("text/plain")
        assert got.text


NO_UIDS = ["1" * 65, "%2e%2e", "..%5c..", "1.2%00", "*", "' OR 1=1 --", "１.２"]


@pytest.mark.parametrize(
    "study", ["1.2.3", "%2e%2e%2f%2e%2e%2fetc", "1.2%0d%0aX-Header:%20no", *NO_UIDS]
)
@pytest.mark.parametrize(
    "below", ["", "/metadata", "/thumbnail", "/series/1.2/instances/1.3/frames/1"]
)
def test_uids_that_are_not_held_lead_nowhere(http, study, below):
    got = http.get(f"/studies/{study}{below}")
    assert got.status_code == (400 if study in NO_UIDS else 404)


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "image/png",
        "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90",
        "*/*;q=0",
    ],
)
def test_what_is_not_acceptable_is_answered_with_what_there_is(http, files, accept):
    got = http.get(url(files["ct"][0]), headers={"Accept": accept})
    assert got.status_code == 406
    assert "application/dicom" in got.text


def test_what_cannot_be_read_of_accept_is_said(http, files):
    assert http.get(url(files["ct"][0]), headers={"Accept": "no media type"}).status_code == 400


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_large_instance_is_sent_in_pieces(tmp_path, syntax):
    path = tmp_path / "large.dcm"
    dataset = dcmread(held_files.write_multi_frame(tmp_path / "one.dcm", ExplicitVRLittleEndian))
    frames = 1 + (32 << 20) // (2 * ROWS * COLUMNS)
    dataset.NumberOfFrames = frames
    dataset.PixelData = bytes(2 * ROWS * COLUMNS * frames)
    write_part10(path, dataset, syntax)
    tracemalloc.start()
    with Codecs() as codecs:
        length = sum(map(len, explicit_little_endian(path, codecs)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length > 32 << 20
    assert peak < 8 << 20


def test_an_instance_that_turns_out_to_be_damaged_cuts_the_answer_off(tmp_path, files):
    config = configure(tmp_path)
    settings = load_settings(config)
    good, bad = files["ct"][0], tmp_path / "damaged.dcm"
    (path,) = files["frames in JPEG-LS"]
    content = bytearray(path.read_bytes())  # of which the last frame is no codestream any more
    at = content.rindex(b"\xff\xd8\xff\xe8")
    content[at : at + 2] = bytes(2)
    bad.write_bytes(content)
    hold(settings, [good, bad])
    with dicomweb_server(config) as settings, http_client(settings) as client:
        accept = {"Accept": 'multipart/related; type="application/dicom"'}
        with pytest.raises(RemoteProtocolError):
            client.get(url(good, level="study"), headers=accept)


def test_pixels_that_are_no_integers_are_given_by_url(tmp_path):
    config = configure(tmp_path)
    path = held_files.write_float(tmp_path / "float.dcm", head().astype("<f4"))
    hold(load_settings(config), [path])
    with dicomweb_server(config) as settings, http_client(settings) as client:
        (metadata,) = client.get(f"{url(path)}/metadata").json()
        assert metadata["7FE00008"]["vr"] == "OF"
        accept = {"Accept": "application/octet-stream"}
        bulk = client.get(metadata["7FE00008"]["BulkDataURI"], headers=accept)
        assert (np.frombuffer(bulk.content, "<f4").reshape(ROWS, COLUMNS) == head()).all()
        whole = client.get(url(path), headers={"Accept": "application/dicom"})
        assert dcmread(io.BytesIO(whole.content)).FloatPixelData == head().astype("<f4").tobytes()
        assert client.get(f"{url(path)}/frames/1").status_code == 406


def test_values_of_a_damaged_sequence_are_bytes(tmp_path, files):
    path = tmp_path / "damaged.dcm"
    dataset = dcmread(files["ct"][0])
    dataset.RequestAttributesSequence = [Dataset()]
    dataset.RequestAttributesSequence[0].RequestedProcedureID = "R1"
    write_part10(path, dataset, ExplicitVRLittleEndian)
    content = path.read_bytes()
    at = content.index(b"R1") - 8
    path.write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])
    made = json_of(read_instance(path).header)
    assert made["00400275"]["vr"] == "UN"
    assert base64.b64decode(made["00400275"]["InlineBinary"]).endswith(b"R1")
    assert made["00280010"]["Value"] == [ROWS]
