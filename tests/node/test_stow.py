"""STOW-RS over real connections: what is acknowledged is on disk, and all else is refused."""

import errno
import os

import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ComprehensiveSRStorage,
    CTImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from node.catalogue import Catalogue
from node.dicomweb import store
from node.spool import Partial
from tests.node.dicomweb_server import (
    BOUNDARY,
    MULTIPART,
    TOKEN,
    as_file,
    configure,
    dicomweb_server,
    http_client,
    multipart,
)
from tests.node.native_model import read_document
from tests.node.test_listener import spooled
from tests.slices import grid_affine, write_slices


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with dicomweb_server(configure(tmp_path_factory.mktemp("node"))) as settings:
        yield settings


@pytest.fixture(scope="module")
def client(node):
    with http_client(node) as made:
        yield made


@pytest.fixture
def slices(tmp_path):
    """Five images of a study of their own."""
    pixels = np.arange(5 * 32 * 32, dtype=np.int16).reshape(5, 32, 32)
    return [dcmread(path) for path in write_slices(tmp_path / "scan", pixels, grid_affine())]


def send(client, datasets, *, path="/studies"):
    return client.post(
        path, content=multipart(map(as_file, datasets)), headers={"Content-Type": MULTIPART}
    )


def answered(response):
    """What the answer says of references, failures, and failures without a name."""
    assert response.headers["Content-Type"] == "application/dicom+json"
    module = Dataset.from_json(response.text)
    return (
        module.get("ReferencedSOPSequence", []),
        module.get("FailedSOPSequence", []),
        module.get("OtherFailuresSequence", []),
    )


def of_study(node, study):
    return [path for path in spooled(node) if path.parts[-3] == study]


def left_half_written(node):
    return list((node.spool_dir / ".incoming-dicomweb").iterdir())


def test_dicomweb_client_stores_a_study_and_it_is_on_disk(node, slices):
    study = slices[0].StudyInstanceUID
    url = f"http://127.0.0.1:{node.dicomweb.port}/dicom-web"
    client = DICOMwebClient(url, headers={"Authorization": f"Bearer {TOKEN}"})
    answer = client.store_instances(slices, study_instance_uid=study)
    assert answer.RetrieveURL == f"{url}/studies/{study}"
    named = {one.ReferencedSOPInstanceUID: one.RetrieveURL for one in answer.ReferencedSOPSequence}
    stored = of_study(node, study)
    assert (
        sorted(named) == [path.stem for path in stored] == sorted(d.SOPInstanceUID for d in slices)
    )
    assert all(url.endswith(f"/instances/{uid}") for uid, url in named.items())
    for path in stored:
        sent = next(one for one in slices if one.SOPInstanceUID == path.stem)
        found = dcmread(path)
        assert found.file_meta.SourceApplicationEntityTitle == "router"
        assert found.PixelData == sent.PixelData
        assert found == sent
    assert not left_half_written(node)


def test_the_answer_comes_as_xml_where_that_is_asked_for(client, slices):
    headers = {"Content-Type": MULTIPART, "Accept": "application/dicom+xml"}
    body = multipart([as_file(slices[0]), b"no file"])
    got = client.post("/studies", content=body, headers=headers)
    assert (got.status_code, got.headers["Content-Type"]) == (202, "application/dicom+xml")
    found = read_document(got.content)
    (stored,), (other,) = found["00081199", ""][2], found["0008119A", ""][2]
    assert stored["00081155", ""][2] == [slices[0].SOPInstanceUID]
    assert other["00081197", ""] == ("US", "FailureReason", [0xC000])


def test_the_catalogue_hears_of_what_came(tmp_path, slices):
    with dicomweb_server(configure(tmp_path)) as settings, http_client(settings) as client:
        assert send(client, slices).status_code == 200
    catalogue = Catalogue(settings.database_url)
    (study,) = catalogue.worklist()
    catalogue.close()
    assert study.uid == slices[0].StudyInstanceUID
    assert study.series[0].instances == 5


def test_a_boundary_may_be_as_long_as_that_of_orthanc(client, slices):
    boundary = "1dced132-610e-40b3-9d13-0b2f7c6b78b8-1dced132-610e-40b3-9d13-0b2f7c6b78b8"
    body = multipart([as_file(slices[0])]).replace(BOUNDARY.encode(), boundary.encode())
    headers = {"Content-Type": MULTIPART.replace(BOUNDARY, boundary)}
    assert client.post("/studies", content=body, headers=headers).status_code == 200


def test_a_single_file_can_be_the_body(node, client, slices):
    answer = client.post(
        "/studies", content=as_file(slices[0]), headers={"Content-Type": "application/dicom"}
    )
    assert answer.status_code == 200
    assert len(of_study(node, slices[0].StudyInstanceUID)) == 1


def test_the_same_instance_again_is_acknowledged_and_another_under_its_uid_kept_aside(
    node, client, slices
):
    assert send(client, slices[:2]).status_code == 200
    assert send(client, slices[:2]).status_code == 200
    slices[1].ImageComments = "not the same"
    response = send(client, slices[:2])
    assert response.status_code == 202
    (stored,), (failed,), _ = answered(response)
    assert stored.ReferencedSOPInstanceUID == slices[0].SOPInstanceUID
    assert failed.ReferencedSOPInstanceUID == slices[1].SOPInstanceUID
    assert failed.FailureReason == 0x0111
    study = slices[0].StudyInstanceUID
    assert len(of_study(node, study)) == 2
    assert len(list((node.spool_dir / ".aside" / study).rglob("*.dcm"))) == 1


def test_other_content_may_be_a_warning(tmp_path, slices):
    config = configure(tmp_path, other_content="warn")
    with dicomweb_server(config) as settings, http_client(settings) as client:
        assert send(client, slices[:1]).status_code == 200
        slices[0].ImageComments = "not the same"
        response = send(client, slices[:1])
        assert response.status_code == 202
        (warned,), failed, _ = answered(response)
        assert not failed
        assert warned.WarningReason == 0xB000


def test_bad_instances_are_refused_and_good_ones_of_the_same_request_are_not(node, client, slices):
    good, hostile, cut, foreign, coded = slices
    hostile.StudyInstanceUID = "1.2.../../../../tmp/x"
    cut.PixelData = cut.PixelData[:100]
    foreign.SOPClassUID = foreign.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    files = [as_file(one) for one in (good, hostile, cut, foreign)]
    files.append(as_file(coded).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.8\0", 1))
    files.append(as_file(good).replace(good.SOPInstanceUID[-6:].encode(), b"000001", 1))
    files += [as_file(good).replace(b"DICM", b"DOCM"), b"", b"\0" * 200]
    response = client.post(
        "/studies", content=multipart(files), headers={"Content-Type": MULTIPART}
    )
    assert response.status_code == 202
    (stored,), failed, others = answered(response)
    assert stored.ReferencedSOPInstanceUID == good.SOPInstanceUID
    assert [one.FailureReason for one in failed] == [0xC000, 0xC000, 0x0122, 0xC122, 0xA900]
    assert [one.FailureReason for one in others] == [0xC000] * 3
    assert len(of_study(node, good.StudyInstanceUID)) == 1


def test_where_nothing_is_taken_the_answer_is_a_conflict(client, slices):
    response = send(client, slices[:2], path=f"/studies/{generate_uid()}")
    assert response.status_code == 409
    stored, failed, _ = answered(response)
    assert not stored
    assert [one.FailureReason for one in failed] == [0xA900] * 2


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Content-Type": "application/json"}, "/studies", 415),
        ({"Content-Type": ""}, "/studies", 415),
        ({}, "/studies", 415),
        (
            {"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=x'},
            "/studies",
            415,
        ),
        ({"Content-Type": MULTIPART, "Content-Encoding": "gzip"}, "/studies", 415),
        ({"Content-Type": 'multipart/related; type="application/dicom"'}, "/studies", 400),
        ({"Content-Type": f"multipart/related; boundary={'x' * 300}"}, "/studies", 400),
        ({"Content-Type": "multipart/related; boundary*=utf-8''%E4%BD%A0"}, "/studies", 400),
        ({"Content-Type": "multipart/related; boundary=other"}, "/studies", 400),
        ({"Content-Type": MULTIPART, "Accept": "image/jpeg"}, "/studies", 406),
        ({"Content-Type": MULTIPART}, "/studies/1.2.x", 400),
        ({"Content-Type": MULTIPART}, "/series", 405),
    ],
)
def test_a_request_that_is_not_as_it_should_be_is_told_so(
    node, client, slices, headers, path, status
):
    response = client.post(path, content=multipart([as_file(slices[0])]), headers=headers)
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/plain")
    assert len(response.text) > 20 or status == 404
    assert not of_study(node, slices[0].StudyInstanceUID)


def test_a_body_that_is_cut_short_is_told_so_and_whole_parts_are_kept(node, client, slices):
    body = multipart(map(as_file, slices[:3]))
    response = client.post("/studies", content=body[:-1000], headers={"Content-Type": MULTIPART})
    assert response.status_code == 400
    assert "last boundary is missing" in response.text
    kept = of_study(node, slices[0].StudyInstanceUID)
    assert {path.stem for path in kept} == {one.SOPInstanceUID for one in slices[:2]}
    assert not left_half_written(node)


def test_an_empty_multipart_holds_no_instance(client):
    answer = client.post(
        "/studies", content=f"--{BOUNDARY}--\r\n", headers={"Content-Type": MULTIPART}
    )
    assert answer.status_code == 400
    assert "no instance" in answer.text


def test_a_part_that_says_it_is_something_else_is_not_taken(client, slices):
    body = multipart(map(as_file, slices[:2])).replace(b"application/dicom", b"image/jpeg", 1)
    response = client.post("/studies", content=body, headers={"Content-Type": MULTIPART})
    assert response.status_code == 202
    stored, _, others = answered(response)
    assert (len(stored), len(others)) == (1, 1)


def test_a_large_instance_goes_through_the_disk(node, client, slices, monkeypatch):
    monkeypatch.setattr(store, "HANDED_OVER", 1 << 20)
    monkeypatch.setattr("node.reception.IN_MEMORY", 3 << 20)
    large = slices[0]
    large.Rows = large.Columns = 2048
    large.PixelData = np.arange(2048 * 2048, dtype=np.uint16).tobytes()
    assert send(client, [large, slices[1]]).status_code == 200
    stored = of_study(node, large.StudyInstanceUID)
    assert len(stored) == 2
    found = next(dcmread(path) for path in stored if path.stem == large.SOPInstanceUID)
    assert found == large
    assert not left_half_written(node)


def test_a_full_disk_is_told_before_the_body_is_read(tmp_path, slices):
    config = configure(tmp_path, min_free_gb=10**6)
    with dicomweb_server(config) as settings, http_client(settings) as client:
        response = send(client, slices)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "min_free_gb" in response.text


def test_a_disk_that_takes_no_more_is_told_for_each_instance(node, client, slices, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Partial, "write", full)
        response = send(client, slices)
    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert [one.FailureReason for one in answered(response)[1]] == [0xA700] * 5
    assert not of_study(node, slices[0].StudyInstanceUID)
    assert not left_half_written(node)
    assert send(client, slices).status_code == 200  # it recovers by itself


def test_a_result_of_ours_that_comes_back_is_no_part_of_its_study(node, client, slices):
    own = slices[0]
    own.SOPClassUID = own.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    own.SoftwareVersions = ["1", "Overread 0.1.0"]
    assert send(client, [own]).status_code == 200
    assert not of_study(node, own.StudyInstanceUID)
    assert len(list((node.spool_dir / ".returned" / own.StudyInstanceUID).rglob("*.dcm"))) == 1


def test_the_urls_of_the_answer_are_those_that_clients_call(tmp_path, slices):
    config = configure(tmp_path, dicomweb='url = "https://overread.hospital/pacs"')
    with dicomweb_server(config) as settings, http_client(settings) as client:
        ((stored,), _, _) = answered(send(client, slices[:1]))
    assert stored.RetrieveURL.startswith("https://overread.hospital/pacs/studies/")
    assert stored.ReferencedSOPClassUID == CTImageStorage
