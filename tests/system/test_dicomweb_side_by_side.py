"""The node's DICOMweb and Orthanc's answer the same about the same instances.

Where they differ, the difference is named here, with the reason.
"""

import io

import httpx2
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
)

from node.settings import load_settings
from tests.node.configuration import free_ports
from tests.node.dicomweb_server import configure, dicomweb_server, http_client
from tests.node.held_files import hold, key_of, write_all
from tests.node.native_model import SEVERAL_XML, documents_of
from tests.system.peers import DICOMWEB_PLUGIN, Orthanc, needs_orthanc, running

pytestmark = [
    pytest.mark.peers,
    needs_orthanc,
    pytest.mark.skipif(not DICOMWEB_PLUGIN.exists(), reason="Orthanc has no DICOMweb plug-in"),
]

CHARACTER_SET = "00080005"
"""JSON is in UTF-8 (PS3.18 F.2.1); we say so, Orthanc says what the file was in."""

OFFSET_TABLES = {"7FE00001", "7FE00002"}
"""DCMTK of Debian 12 does not know them."""

PIXEL_DATA = "7FE00010"
"""Its URL is of the server; Orthanc leaves out its VR, and all of it where it is compressed."""

OF_THE_SERVER = {CHARACTER_SET, "00081190"}
"""RetrieveURL is of the server."""

OCTETS = 'multipart/related; type="application/octet-stream"'
NOT_DECODED_BY_ORTHANC = {JPEG2000Lossless.name, HTJ2KLossless.name}
"""Orthanc 1.10 answers frames of JPEG 2000 with 500, and HTJ2K with bytes that are no frame."""

NO_STORED_FRAMES_IN_ORTHANC = {
    *(ExplicitVRBigEndian.name, DeflatedExplicitVRLittleEndian.name),
    HTJ2KLossless.name,
}
"""Of these it answers `transfer-syntax=*` with 500."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def both(tmp_path_factory, files):
    """Clients of the node and of Orthanc, which hold the same."""
    paths = [path for several in files.values() for path in several]
    config = configure(tmp_path_factory.mktemp("node"))
    hold(load_settings(config), paths)
    ports = free_ports(2)
    orthanc = Orthanc(
        tmp_path_factory.mktemp("peer") / "orthanc", node_port=ports[0], dicom_port=ports[1]
    )
    url = f"http://127.0.0.1:{orthanc.http_port}"
    with (
        running(orthanc),
        dicomweb_server(config) as settings,
        http_client(settings) as ours,
        httpx2.Client(base_url=f"{url}/dicom-web", trust_env=False, timeout=60) as theirs,
    ):
        for path in paths:
            theirs.post(f"{url}/instances", content=path.read_bytes()).raise_for_status()
        yield ours, theirs


def ask(both, path, **keywords):
    return [client.get(path, **keywords) for client in both]


def by(tag, answer):
    return {one[tag]["Value"][0]: one for one in answer.raise_for_status().json()}


def url_of(path):
    key = key_of(path)
    return f"/studies/{key.study}/series/{key.series}/instances/{key.instance}"


def test_metadata_are_the_same_attribute_by_attribute(both, files):
    study = key_of(files["ct"][0]).study
    ours, theirs = (by("00080018", one) for one in ask(both, f"/studies/{study}/metadata"))
    assert ours.keys() == theirs.keys()
    assert len(ours) == sum(map(len, files.values()))
    for uid, attributes in ours.items():
        common = attributes.keys() - OFFSET_TABLES - {PIXEL_DATA, CHARACTER_SET}
        assert common == theirs[uid].keys() - {PIXEL_DATA, CHARACTER_SET}
        for tag in common:
            assert attributes[tag] == theirs[uid][tag], tag


def test_metadata_in_xml_are_the_same_attribute_by_attribute(both, files):
    study = key_of(files["ct"][0]).study
    ours, theirs = (
        {one["00080018", ""][2][0]: one for one in documents_of(answer)}
        for answer in ask(both, f"/studies/{study}/metadata", headers={"Accept": SEVERAL_XML})
    )
    assert ours.keys() == theirs.keys()
    assert len(ours) == sum(map(len, files.values()))
    for uid, attributes in ours.items():
        different = {(tag, "") for tag in (*OFFSET_TABLES, PIXEL_DATA, CHARACTER_SET)}
        common = attributes.keys() - different
        assert common == theirs[uid].keys() - different
        for key in common:
            assert attributes[key] == theirs[uid][key], key


@pytest.mark.parametrize(
    ("path", "tag"),
    [
        ("/studies", "0020000D"),
        ("/studies?PatientName=m*&includefield=00081030", "0020000D"),
        ("/studies?StudyDate=20260103-", "0020000D"),
        ("/studies/{study}/series", "0020000E"),
        ("/studies/{study}/series?Modality=CT", "0020000E"),
        ("/series?Modality=OT", "0020000E"),
        ("/studies/{study}/instances", "00080018"),
        ("/studies/{study}/series/{series}/instances", "00080018"),
        ("/instances?SOPInstanceUID={instance}", "00080018"),
    ],
)
def test_searches_find_the_same_and_say_the_same_of_it(both, files, path, tag):
    key = key_of(files["ct"][1])
    path = path.format(study=key.study, series=key.series, instance=key.instance)
    ours, theirs = (by(tag, one) for one in ask(both, path))
    assert ours.keys() == theirs.keys()
    for uid, attributes in ours.items():
        common = attributes.keys() & theirs[uid].keys() - OF_THE_SERVER
        assert tag in common
        for one in common:
            assert attributes[one] == theirs[uid][one], one


def test_searches_in_xml_say_the_same(both, files):
    path = f"/studies/{key_of(files['ct'][0]).study}/series"
    ours, theirs = (
        {one["0020000E", ""][2][0]: one for one in documents_of(answer)}
        for client, accept in zip(both, (SEVERAL_XML, "application/dicom+xml"), strict=True)
        for answer in [client.get(path, headers={"Accept": accept})]
    )  # Orthanc answers searches in XML of several parts where XML of one is asked for
    assert ours.keys() == theirs.keys()
    for uid, attributes in ours.items():
        common = attributes.keys() & theirs[uid].keys() - {(tag, "") for tag in OF_THE_SERVER}
        assert ("00080060", "") in common
        for key in common:
            assert attributes[key] == theirs[uid][key], key


def first_part(answer):
    assert answer.status_code == 200, answer.text
    head, _, rest = answer.content.partition(b"\r\n\r\n")
    boundary = head.splitlines()[0]
    return rest[: rest.index(b"\r\n" + boundary)]


def test_frames_have_the_same_bytes(both, files):
    compared = 0
    for name, paths in files.items():
        for accept, unknown in (
            (OCTETS, NOT_DECODED_BY_ORTHANC),
            (f"{OCTETS}; transfer-syntax=*", NO_STORED_FRAMES_IN_ORTHANC),
        ):
            if name not in unknown:
                answers = ask(both, f"{url_of(paths[0])}/frames/1", headers={"Accept": accept})
                ours, theirs = map(first_part, answers)
                assert ours == theirs, (name, accept)
                compared += 1
    assert compared > 20


def test_pictures_are_the_same(both, files):
    for name, paths in files.items():
        if name in NOT_DECODED_BY_ORTHANC:
            continue
        # Without a window Orthanc shows the whole range, whatever window the image has.
        path = f"{url_of(paths[0])}/frames/1/rendered?window=300,600,linear"
        ours, theirs = (
            np.asarray(Image.open(io.BytesIO(one.raise_for_status().content))).astype(int)
            for one in ask(both, path, headers={"Accept": "image/png"})
        )
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1, name


def test_instances_come_as_they_are_stored(both, files):
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    for paths in files.values():
        for answer in ask(both, url_of(paths[0]), headers=accept):
            assert first_part(answer) == paths[0].read_bytes()
