"""The status pages show what the node knows, say what to do, and give nothing else away."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from html import unescape
from io import BytesIO

import httpx2
import pytest
from PIL import Image
from pydicom import dcmread
from starlette.testclient import TestClient

from node.catalogue import Catalogue
from node.run_folder import RunFolder
from node.spool import InstanceKey, Spool
from node.tables import DeliveryState, RunState
from node.web.application import create_app
from sr_writer.plain_report import report_text
from tests.node.studies import (
    HEAD,
    PACS,
    deliver,
    fill_run_folder,
    make_settings,
    open_run,
    receive,
)
from tests.sr_writer.series import NARRATIVE, on_slices, undetermined

STUDY = "1.2.3"
RUN = "a" * 32


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


@pytest.fixture
def catalogue(settings):
    made = Catalogue(settings.database_url)
    yield made
    made.close()


@pytest.fixture
def client(settings, catalogue):
    app = create_app(settings, catalogue)
    return TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """What a run with a finding has written, once for all tests."""
    state_dir = tmp_path_factory.mktemp("results")
    fill_run_folder(make_settings(state_dir), RUN)
    return RunFolder(state_dir / "runs" / RUN)


@pytest.fixture
def delivered(settings, catalogue, results):
    """A study with a finding that the PACS has taken."""
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED, until="delivered", outcome="all is said")
    deliver(catalogue, RUN, DeliveryState.DELIVERED)
    shutil.copytree(results.path, settings.runs_dir / RUN)
    return results.record()


def text(response):
    """The page as a reader sees it: no tags, one space between words."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", response.text)))


# Worklist


def test_an_empty_worklist_says_how_to_begin(client):
    assert "No study yet. Send one to AE title OVERREAD" in text(client.get("/"))


def test_the_worklist_shows_where_each_study_stands(client, catalogue, delivered):
    receive(catalogue, "1.2.4")
    page = client.get("/")
    assert page.status_code == 200
    assert "✓ delivered CT 2026-11-21 1.2.3 1 series, 24 instances all is said" in text(page)
    assert "receiving CT 2026-11-21 1.2.4" in text(page)
    assert 'href="/studies/1.2.3"' in page.text


def test_the_worklist_shows_errors_with_what_to_do(client, catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.FAILED, error="the model broke", remedy="mend it")
    assert "Error: the model broke What to do: mend it" in text(client.get("/"))


def test_every_page_says_that_results_are_unverified_and_of_a_demonstration(client, delivered):
    for path in ("/", "/studies/1.2.3"):
        page = text(client.get(path))
        assert "Unverified second opinion" in page
        assert "未经核实" in page
        assert "Demonstration model, not for clinical use." in page


def test_instances_kept_aside_are_shown(client, settings):
    spool = Spool(settings.spool_dir)
    spool.prepare()
    head = b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0" + (12).to_bytes(4, "little")
    syntax = b"\2\0\x10\0UI\4\0" + b"1.2\0"
    for content in (b"one", b"other"):
        spool.store(InstanceKey("1.2", "1.3", "1.4"), head + syntax + content)
    assert "1 instance kept aside:" in text(client.get("/"))
    assert client.get("/healthz").json()["instances_kept_aside"] == 1


# Study view


def test_the_study_view_shows_findings_with_probability_threshold_side_and_size(client, delivered):
    page = text(client.get("/studies/1.2.3"))
    assert "Intracranial hemorrhage 颅内出血 present, left" in page
    assert "97.3%, decision threshold 62.0%" in page
    assert "Volume 11.5 mL" in page


def test_the_study_view_shows_the_report_in_both_languages(client, delivered):
    page = unescape(client.get("/studies/1.2.3").text)
    report = report_text(delivered)
    assert f'<pre lang="en">{report.en}</pre>' in page
    assert f'<pre lang="zh-CN">{report.zh}</pre>' in page


def test_the_study_view_says_whose_the_narrative_is(client, delivered):
    page = text(client.get("/studies/1.2.3"))
    assert f"Text written by the model, not verified: {NARRATIVE.en}" in page
    assert f"模型生成文本，未经核实：{NARRATIVE.zh}" in page


def test_the_study_view_names_the_slices_of_a_finding_without_outline(client, settings, catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED)
    fill_run_folder(settings, RUN, on_slices)
    page = text(client.get("/studies/1.2.3"))
    assert "Midline shift 中线移位 present, left" in page
    assert "Seen on slices 5, 10 to 11 (best on 10), without outline 第5、10至11层" in page
    assert "Slice 10" in page


def test_the_study_view_shows_its_pictures(client, delivered):
    sources = re.findall(r'<img src="([^"]+)"', client.get("/studies/1.2.3").text)
    assert len(sources) == len(delivered.key_slices)
    picture = client.get(sources[0])
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(picture.content)).size[1] > 700
    assert f"Slice {delivered.key_slices[0] + 1}" in text(client.get("/studies/1.2.3"))


def test_the_study_view_shows_the_timeline_and_what_the_peer_answered(client, delivered):
    page = text(client.get("/studies/1.2.3"))
    assert re.search(r"complete 30,000 .* assembled 250 .* assessed 750 ", page)
    assert "To pacs ✓ delivered 1 attempt" in page
    assert "Segmentation Storage 1.9.1 0000 success" in page


def test_a_delivery_that_waits_shows_its_error_and_what_to_do(client, catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERING)
    deliver(catalogue, RUN, DeliveryState.WAITING, error="no answer", remedy="start the peer")
    page = text(client.get("/studies/1.2.3"))
    assert "1 attempt, the next at 20" in page
    assert "Error: no answer What to do: start the peer" in page


def test_what_a_peer_got_in_the_place_of_something_is_shown(client, catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED)
    deliver(catalogue, RUN, DeliveryState.DELIVERED, note="report: text report instead: ...")
    assert "Lesser forms: report: text report instead" in text(client.get(f"/studies/{STUDY}"))


def test_objects_in_quarantine_are_not_served_and_the_page_says_why(
    client, settings, catalogue, delivered
):
    folder = RunFolder(settings.runs_dir / RUN)
    folder.quarantine(["SR: PatientID is not the source's", "SEG: <b>broken"])
    page = client.get(f"/studies/{STUDY}")
    assert f"never to be, runs/{RUN}/quarantine: SR: PatientID is not the source's" in text(page)
    assert "SEG: <b>broken" in text(page)
    assert "Objects written" not in page.text
    assert client.get(f"/runs/{RUN}/objects/report.dcm").status_code == 404


def test_an_abstention_says_why(client, settings, catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.DELIVERED)
    fill_run_folder(settings, RUN, undetermined)
    page = text(client.get("/studies/1.2.3"))
    assert "undetermined" in page
    assert "The model could not decide. 模型无法判定。" in page


def test_superseded_runs_are_folded_away(client, catalogue, delivered):
    open_run(catalogue, STUDY, "b" * 32, RunState.DELIVERED, supersedes=RUN)
    page = client.get("/studies/1.2.3").text
    assert f'<details id="run-{RUN}">' in page
    assert "Superseded: an earlier content of the study" in page


def test_a_study_that_no_route_takes_says_what_to_do(client, catalogue):
    receive(catalogue, STUDY)
    catalogue.consider(STUDY, at=datetime.now(UTC), revision="x", note="no route matches")
    page = text(client.get("/studies/1.2.3"))
    assert "no route matches What to do: if it should have one: add a route" in page


def test_a_damaged_assessment_does_not_take_the_page_away(client, settings, catalogue, delivered):
    other = RunFolder(settings.runs_dir / ("b" * 32))
    other.path.mkdir()
    (other.path / "assessment.json").write_text("{")
    (other.path / "report.dcm").write_bytes(b"not DICOM")
    open_run(catalogue, STUDY, other.path.name, RunState.DELIVERED, route="other")
    page = client.get("/studies/1.2.3")
    assert page.status_code == 200
    assert "all is said" in page.text
    assert "Error: what this run has written cannot be read" in text(page)


def test_hostile_attributes_are_shown_as_text(client, catalogue):
    receive(catalogue, STUDY, description="<script>alert(1)</script>")
    open_run(catalogue, STUDY, RUN, RunState.FAILED, error="<img src=x>", remedy="'\"><b>")
    for path in ("/", "/studies/1.2.3"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "><b>" not in page
    assert "<script>alert(1)</script>" in unescape(client.get("/studies/1.2.3").text)


# Files


def test_objects_can_be_downloaded(client, delivered):
    answer = client.get(f"/runs/{RUN}/objects/report.dcm")
    assert answer.headers["content-type"] == "application/dicom"
    assert "attachment" in answer.headers["content-disposition"]
    assert dcmread(BytesIO(answer.content)).Modality == "SR"


@pytest.mark.parametrize(
    "path",
    [
        "/runs/{run}/pictures/slice_9999.png",
        "/runs/{run}/pictures/assessment.json",
        "/runs/{run}/pictures/report.dcm",
        "/runs/{run}/objects/assessment.json",
        "/runs/{run}/objects/masks.npz",
        "/runs/{run}/pictures/..%2f..%2foverread.sqlite",
        "/runs/{run}/pictures/%2e%2e%2f%2e%2e%2foverread.sqlite",
        "/runs/{run}/pictures/..%5c..%5coverread.sqlite",
        "/runs/{run}/objects/..%2fassessment.json",
        "/runs/{run}/objects/%2fetc%2fpasswd",
        "/runs/..%2f{run}/pictures/slice_0013.png",
        "/runs/{run}%00/pictures/slice_0013.png",
        "/runs/{run}%0a/pictures/slice_0013.png",
        "/runs/../overread.sqlite",
        "/runs/" + "b" * 32 + "/pictures/slice_0013.png",
        "/runs/" + "A" * 32 + "/pictures/slice_0013.png",
        "/static/..%2fapplication.py",
        "/static/%2e%2e/application.py",
        "/studies/..%2f..%2fetc",
        "/studies/1.2.3'--",
        "/nothing",
    ],
)
def test_what_is_not_listed_is_not_found(client, delivered, path):
    answer = client.get(path.format(run=RUN))
    assert answer.status_code == 404
    assert "What to do" in answer.text
    assert "Unverified second opinion" in answer.text


def test_a_folder_without_a_run_is_not_served(client, settings, results):
    shutil.copytree(results.path, settings.runs_dir / RUN)
    assert client.get(f"/runs/{RUN}/objects/report.dcm").status_code == 404


# Who may ask, and what a browser may do with the answer


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "LOCALHOST"])
def test_loopback_names_are_answered(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5:8080", ""])
def test_other_hosts_are_refused(client, delivered, host):
    for path in ("/", "/studies/1.2.3", "/healthz", f"/runs/{RUN}/pictures/slice_0013.png"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert STUDY not in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/studies/1.2.3", "/nothing", "/healthz", "/static/refresh.js"]
)
def test_every_answer_has_the_security_headers(client, delivered, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/studies/1.2.3", "/nothing"])
def test_pages_keep_to_their_own_policy_and_machine(client, delivered, path):
    page = client.get(path).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?! src=\"/static/)", page)
    assert not re.search(r"(src|href)=\"(?!/)", page)


def test_pages_can_only_be_read(client):
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, "/").status_code == 405


# Health


def test_a_node_without_trouble_is_well(client, delivered):
    answer = client.get("/healthz")
    assert answer.status_code == 200
    health = answer.json()
    assert health["ok"] is True
    assert health["database_reachable"] is True
    assert health["free_gb"] > 0
    assert health["troubled_runs"] == 0
    assert "Alarm" not in client.get("/").text


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.UNDELIVERABLE])
def test_a_run_that_ended_badly_is_an_alarm_on_every_page(client, catalogue, delivered, state):
    receive(catalogue, "1.2.4")
    open_run(catalogue, "1.2.4", "b" * 32, state)
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["alarms"][0]["studies"] == ["1.2.4"]
    for path in ("/", "/studies/1.2.3", "/nothing"):
        page = client.get(path)
        assert "Alarm: One result failed or could not be delivered" in text(page)
        assert 'href="/studies/1.2.4"' in page.text


def test_an_alarm_ends_when_the_study_is_superseded(client, catalogue, delivered):
    catalogue.update_run(RUN, state=RunState.FAILED)
    open_run(catalogue, STUDY, "b" * 32, RunState.DELIVERED, supersedes=RUN)
    assert client.get("/healthz").status_code == 200


def test_an_old_failure_is_counted_but_no_alarm(client, catalogue):
    receive(catalogue, STUDY)
    open_run(catalogue, STUDY, RUN, RunState.FAILED)
    long_ago = datetime.now(UTC) - timedelta(days=3)
    with catalogue.session() as session:
        run = session.merge(catalogue.run(RUN))
        run.opened_at = long_ago
        for milestone in run.milestones:
            milestone.at = long_ago
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["troubled_runs"] == 1


def test_a_full_disk_is_an_alarm(settings, catalogue):
    node = settings.node.model_copy(update={"min_free_gb": 1e9})
    app = create_app(settings.model_copy(update={"node": node}), catalogue)
    client = TestClient(app, base_url="http://localhost")
    assert client.get("/healthz").status_code == 503
    assert "Disk nearly full" in text(client.get("/"))
    assert "Make room, or lower node.retention_days." in text(client.get("/"))


def test_a_missing_state_folder_is_an_alarm(settings, catalogue, tmp_path):
    node = settings.node.model_copy(update={"state_dir": tmp_path / "unmounted"})
    app = create_app(settings.model_copy(update={"node": node}), catalogue)
    health = TestClient(app, base_url="http://localhost").get("/healthz")
    assert health.status_code == 503
    assert health.json()["free_gb"] is None


def test_a_database_that_fails_gives_pages_that_say_so(client, catalogue, delivered):
    with catalogue.session() as session:
        session.connection().exec_driver_sql("ALTER TABLE runs RENAME TO lost")
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["database_reachable"] is False
    page = client.get("/")
    assert page.status_code == 503
    assert "The database of the node does not answer." in page.text
    assert "What to do" in page.text


def test_a_defect_of_ours_gives_a_page_without_its_details(settings, catalogue, monkeypatch):
    app = create_app(settings, catalogue)
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    monkeypatch.setattr(catalogue, "worklist", lambda: 1 / 0)
    page = client.get("/")
    assert page.status_code == 500
    assert "division" not in page.text
    assert "What to do" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")


# The role


def test_the_role_serves_and_stops_in_order(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    content = {
        "node": {"state_dir": str(tmp_path), "min_free_gb": 0},
        "web": {"port": port},
        "peers": [PACS],
        "routes": [HEAD],
    }
    program = (
        "import json, sys; from node.settings import Settings; "
        "from node.web.application import run_web; run_web(Settings(**json.loads(sys.argv[1])))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, json.dumps(content)])
    try:
        health = _eventually(f"http://127.0.0.1:{port}/healthz")
        assert health.json()["ok"] is True
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()


def _eventually(url):
    for _ in range(100):
        try:
            return httpx2.get(url, trust_env=False)
        except httpx2.ConnectError:
            time.sleep(0.2)
    raise TimeoutError(url)
