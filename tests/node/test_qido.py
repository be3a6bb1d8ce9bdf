"""QIDO-RS finds what is held by its attributes, and says what it cannot look for."""

import pytest
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from requests import Session

from node.settings import load_settings
from tests.node.dicomweb_server import TOKEN, configure, dicomweb_server, http_client
from tests.node.held_files import SLICES, hold, key_of, write_all
from tests.node.native_model import SEVERAL_XML, documents_of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("files"))


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


@pytest.fixture(scope="module")
def study(files):
    return key_of(files["ct"][0]).study


def values(answers, tag):
    return [answer[tag]["Value"][0] for answer in answers]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, True),
        ({"PatientID": "T100"}, True),
        ({"00100020": "T100"}, True),
        ({"PatientName": "m?ller*"}, True),
        ({"PatientName": "Müller^Jörg"}, True),
        ({"PatientName": "Mueller"}, False),
        ({"StudyDate": "20260101-20260131"}, True),
        ({"StudyDate": "20260103-"}, False),
        ({"ModalitiesInStudy": "CT"}, True),
        ({"ModalitiesInStudy": "US"}, False),
    ],
)
def test_studies_are_found_by_keyword_and_by_tag(client, study, filters, found):
    answers = client.search_for_studies(search_filters=filters)
    assert values(answers, "0020000D") == ([study] if found else [])


def test_a_study_is_described_and_says_where_it_is(client, http, study, files):
    (answer,) = client.search_for_studies()
    assert answer["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]}
    assert answer["00080061"]["Value"] == ["CT", "OT"]
    assert answer["00201206"]["Value"] == [len(files)]
    assert answer["00201208"]["Value"] == [sum(map(len, files.values()))]
    assert answer["00080056"]["Value"] == ["ONLINE"]
    assert answer["00081190"]["vr"] == "UR"
    place = answer["00081190"]["Value"][0]
    assert place.endswith(f"/dicom-web/studies/{study}")
    assert http.get(f"{place}/metadata").status_code == 200


def test_lists_of_uids_match_any_of_them(http, study):
    for separator in (",", "%5C"):
        got = http.get(f"/studies?StudyInstanceUID=1.2.3{separator}{study}")
        assert values(got.json(), "0020000D") == [study]
    assert http.get("/studies?StudyInstanceUID=1.2.3,1.2.4").json() == []


def test_nothing_found_is_an_empty_list(http):
    got = http.get("/studies?PatientID=NOBODY")
    assert (got.status_code, got.json()) == (200, [])
    assert got.headers["Content-Type"] == "application/dicom+json"


def test_series_are_found_within_a_study_and_across_studies(client, study, files):
    within = client.search_for_series(study, search_filters={"Modality": "CT"})
    across = client.search_for_series(search_filters={"Modality": "CT"})
    assert sorted(values(within, "0020000E")) == sorted(values(across, "0020000E"))
    assert len(within) == sum(1 for name in files if "colour" not in name) - 4
    assert "00100010" not in within[0]
    assert across[0]["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]


def test_instances_are_found_at_each_place(client, study, files):
    series = key_of(files["ct"][0]).series
    uids = sorted(key_of(path).instance for path in files["ct"])
    answers = client.search_for_instances(study, series)
    assert sorted(values(answers, "00080018")) == uids
    assert values(answers, "00280010") == [40] * SLICES
    assert answers[0]["00081190"]["Value"][0].endswith(answers[0]["00080018"]["Value"][0])
    assert "00080060" not in answers[0]
    assert "00080060" in client.search_for_instances(study, limit=1)[0]
    found = client.search_for_instances(search_filters={"SOPInstanceUID": uids[2]})
    assert values(found, "0020000D") == [study]


def test_pages_follow_each_other(client, study, files):
    series = key_of(files["ct"][0]).series
    whole = values(client.search_for_instances(study, series), "00080018")
    pages = [
        values(client.search_for_instances(study, series, limit=2, offset=at), "00080018")
        for at in range(0, SLICES, 2)
    ]
    assert [uid for page in pages for uid in page] == whole


def test_fields_are_included_when_asked_for(http, study, files):
    series = key_of(files["ct"][0]).series
    path = f"/studies/{study}/series/{series}/instances"
    plain = http.get(path).json()[0]
    more = http.get(f"{path}?includefield=ImagePositionPatient,00200037&includefield=KVP").json()[0]
    assert plain.keys() < more.keys()
    assert more["00200032"]["Value"][:2] == [-10, -20]
    assert more["00200037"]["Value"] == [1, 0, 0, 0, 1, 0]
    assert http.get("/studies?includefield=all").json()[0].keys() > {"0020000D", "00081030"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("offset=1.5", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("fuzzymatching=perhaps", "fuzzymatching"),
        ("StudyDate=yesterday", "StudyDate"),
        ("includefield=NoSuchThing", "NoSuchThing"),
        ("NoSuchThing=1", "NoSuchThing"),
        ("<script>=1", "attribute"),
        ("PatientID.PatientName=1", "PatientID.PatientName"),
        ("InstitutionName=here", "InstitutionName"),
        ("Modality=CT", "Modality"),
        ("Rows=forty", "Rows"),
        ("accept=nothing", "Accept"),
    ],
)
def test_what_cannot_be_searched_is_said(http, query, said):
    path = "/instances" if "Rows" in query else "/studies"
    got = http.get(f"{path}?{query}")
    assert got.status_code == 400, got.text
    assert said in got.text
    assert "<" not in got.text
    assert "yesterday" not in got.text


def test_names_are_matched_literally_and_the_client_is_told(http, study):
    got = http.get("/studies?PatientName=Müller*&fuzzymatching=true")
    assert values(got.json(), "0020000D") == [study]
    assert got.headers["Warning"].startswith("299 ")


def test_the_path_goes_before_the_query(http, study):
    got = http.get(f"/studies/{study}/series?StudyInstanceUID=1.2.3")
    assert len(got.json()) > 1


def test_answers_come_as_xml_where_that_is_asked_for(http, study):
    got = http.get("/instances?includefield=all", headers={"Accept": SEVERAL_XML})
    by_json = http.get("/instances?includefield=all").json()
    assert got.headers["Content-Type"].startswith(f"{SEVERAL_XML}; boundary=")
    documents = documents_of(got)
    assert len(documents) == len(by_json) > 1
    for one, attributes in zip(documents, by_json, strict=True):
        assert {tag: said[0] for (tag, _), said in one.items()} == {
            tag: said["vr"] for tag, said in attributes.items()
        }
        assert one["0020000D", ""][2] == [study]
        assert one["00081190", ""][2] == attributes["00081190"]["Value"]


def test_no_answers_in_xml_are_no_content(http):
    path = "/studies?PatientID=nobody&fuzzymatching=true"
    got = http.get(path, headers={"Accept": SEVERAL_XML})
    assert (got.status_code, got.content) == (204, b"")
    assert got.headers["Warning"].startswith("299 ")


def test_a_name_in_a_list_may_be_empty(tmp_path, files):
    dataset = dcmread(files["ct"][0])
    dataset.OtherPatientNames = ["A^B", "", "=X"]
    config, path = configure(tmp_path), tmp_path / "names.dcm"
    dataset.save_as(path)
    hold(load_settings(config), [path])
    with dicomweb_server(config) as settings, http_client(settings) as client:
        (one,) = client.get("/instances?includefield=OtherPatientNames").json()
    assert one["00101001"]["Value"] == [{"Alphabetic": "A^B"}, None, {"Ideographic": "X"}]


def test_several_answers_are_not_one_document(http):
    got = http.get("/studies", headers={"Accept": "application/dicom+xml"})
    assert got.status_code == 406
    assert "application/dicom+xml" in got.text
