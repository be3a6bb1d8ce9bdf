"""`overread check`: what would not work is found before going live, with what to do."""

import json
import socket

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    Verification,
)
from sqlalchemy import update
from typer.testing import CliRunner

from inference.installation import Installation
from node import preflight
from node.catalogue import Catalogue
from node.check_result import Outcome
from node.cli import app
from node.listener import Listener
from node.settings import load_settings
from node.tables import Schema
from sr_writer import fonts
from tests.node.configuration import write_config

PICTURES_AND_TEXT = (SecondaryCaptureImageStorage, BasicTextSRStorage)
NO_GPU = Installation(
    packages=frozenset({"onnxruntime"}),
    providers=frozenset({"CPUExecutionProvider"}),
    driver=0,
    devices=0,
    missing=frozenset(),
)


def check(config, *options):
    return CliRunner().invoke(app, ["check", "--config", str(config), *options])


def results(config):
    return {one["subject"]: one for one in json.loads(check(config, "--json").output)}


@pytest.fixture
def pacs(tmp_path):
    """A config whose peer runs, and accepts what the test says."""
    started = []

    def start(*sop_classes, status=0x0000, syntaxes=None, **node):
        config = write_config(tmp_path, **node)
        entity = AE(ae_title="PACS")
        entity.add_supported_context(Verification)
        for sop_class in sop_classes:
            entity.add_supported_context(sop_class, syntaxes)
        handlers = [(evt.EVT_C_ECHO, lambda _event: status)]
        port = load_settings(config).peers[0].port
        entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        started.append(entity)
        return config

    yield start
    for entity in started:
        entity.shutdown()


def test_all_well_is_exit_code_0_and_says_what_will_run(pacs):
    config = pacs(Comprehensive3DSRStorage, SegmentationStorage, *PICTURES_AND_TEXT)
    done = check(config)
    assert done.exit_code == 0, done.output
    found = results(config)
    assert "CPUExecutionProvider" in found["model builtin/head_ct"]["text"]
    assert found["model builtin/head_ct"]["outcome"] == "warning"
    assert "demonstration" in found["model builtin/head_ct"]["text"]
    assert found["execution provider"]["text"] == "CPU has what it needs"
    assert found["peer pacs"]["text"].endswith("answers C-ECHO")
    assert found["peer pacs, segmentation"]["text"] == "Segmentation Storage (deflated)"
    report = found["peer pacs, report"]
    assert report["text"] == "Comprehensive 3D SR Storage (Explicit VR Little Endian)"
    assert report["outcome"] == "ok"


def test_what_a_peer_would_get_in_place_of_the_best_is_shown(pacs):
    config = pacs(ComprehensiveSRStorage, *PICTURES_AND_TEXT, syntaxes=[ImplicitVRLittleEndian])
    assert check(config).exit_code == 0
    found = results(config)
    segmentation, report = found["peer pacs, segmentation"], found["peer pacs, report"]
    assert segmentation["outcome"] == report["outcome"] == "warning"
    assert segmentation["text"] == (
        "secondary capture instead: does not accept Segmentation Storage "
        "(Implicit VR Little Endian)"
    )
    assert "Comprehensive SR Storage: does not accept Comprehensive 3D SR Storage" in report["text"]


def test_a_peer_that_takes_neither_a_kind_nor_what_stands_in_is_found(pacs):
    config = pacs(Comprehensive3DSRStorage, BasicTextSRStorage)
    assert check(config).exit_code == 1
    result = results(config)["peer pacs, segmentation"]
    assert result["outcome"] == "failed"
    assert result["text"] == (
        "not sent: does not accept Segmentation Storage, Secondary Capture Image Storage"
    )
    assert result["remedy"] == (
        "enable it at the peer, or take 'segmentation' out of its 'objects'"
    )


def test_a_peer_is_asked_for_what_it_is_configured_for_only(pacs):
    config = pacs(Comprehensive3DSRStorage, syntaxes=[DeflatedExplicitVRLittleEndian])
    config.write_text(config.read_text().replace("[[routes]]", 'objects = ["report"]\n[[routes]]'))
    found = results(config)
    assert "accepts nothing" in found["peer pacs, results"]["text"]  # a report goes native
    assert "peer pacs, segmentation" not in found


def test_a_label_map_has_a_class_of_its_own(pacs):
    config = pacs(Comprehensive3DSRStorage, SegmentationStorage, *PICTURES_AND_TEXT)
    text = config.read_text().replace("results_to", 'segmentation = "labelmap"\nresults_to')
    config.write_text(text)
    result = results(config)["peer pacs, segmentation"]
    assert "does not accept Label Map Segmentation Storage" in result["text"]


@pytest.mark.parametrize("accepts", [True, False])
def test_whether_a_peer_can_be_asked_to_commit_is_found(pacs, accepts):
    config = pacs(*([StorageCommitmentPushModel] if accepts else []))
    config.write_text(config.read_text().replace("[[routes]]", "commitment = true\n[[routes]]"))
    found = results(config)["peer pacs, storage commitment"]
    assert found["outcome"] == ("ok" if accepts else "failed")
    assert ("OVERREAD" in found["text"]) is accepts
    assert ("commitment" in found["remedy"]) is not accepts


def test_a_peer_that_does_not_answer_is_found(tmp_path):
    config = write_config(tmp_path)
    assert check(config).exit_code == 1
    result = results(config)["peer pacs"]
    assert "does not answer" in result["text"]
    assert "firewall" in result["remedy"]


def test_a_peer_that_may_ask_and_is_known_by_its_title_alone_is_found(tmp_path):
    config = write_config(tmp_path)
    text = config.read_text()
    config.write_text(text.replace("[[routes]]", "query = true\n[[routes]]"))
    (found,) = [one for one in preflight.preflight(config) if "queries" in one.subject]
    assert found.outcome is Outcome.WARNING
    assert "'addresses'" in found.remedy
    known = 'query = true\naddresses = ["127.0.0.0/8"]\n[[routes]]'
    config.write_text(text.replace("[[routes]]", known))
    assert not [one for one in preflight.preflight(config) if "queries" in one.subject]


def test_a_port_that_is_taken_is_found(tmp_path):
    config = write_config(tmp_path)
    with socket.create_server(("127.0.0.1", load_settings(config).node.port)):
        result = results(config)["DICOM port"]
    assert result["outcome"] == "failed"
    assert "choose another" in result["remedy"]


def test_a_database_of_another_version_is_found(tmp_path):
    config = write_config(tmp_path)
    url = load_settings(config).database_url
    catalogue = Catalogue(url)
    with catalogue.session() as session:
        session.execute(update(Schema).values(version=0))
    result = results(config)["database"]
    assert result["outcome"] == "failed"
    assert "listed again" in result["text"]


def test_the_node_that_runs_already_is_no_mistake(tmp_path):
    config = write_config(tmp_path)
    listener = Listener(load_settings(config))
    listener.start()
    try:
        assert results(config)["DICOM port"]["outcome"] == "ok"
    finally:
        listener.stop()


def test_the_node_that_runs_is_found_though_its_first_peer_is_let_in_from_elsewhere_only(tmp_path):
    config = write_config(tmp_path)
    elsewhere = 'name = "ct"\nae_title = "CT"\nhost = "127.0.0.1"\nport = 4\n'
    first = f'[[peers]]\n{elsewhere}addresses = ["192.0.2.0/24"]\n[[peers]]'
    config.write_text(config.read_text().replace("[[peers]]", first))
    listener = Listener(load_settings(config))
    listener.start()
    try:
        assert results(config)["DICOM port"]["outcome"] == "ok"
    finally:
        listener.stop()


def test_a_font_that_pdf_reports_need_is_found_missing(pacs, tmp_path, monkeypatch):
    config = pacs()
    assert "font of PDF reports" not in results(config)
    objects = 'port = 11113\nobjects = ["report", "pdf"]'
    port = load_settings(config).peers[0].port
    said = config.read_text()
    config.write_text(said.replace(f"port = {port}", objects.replace("11113", str(port))))
    monkeypatch.setattr(fonts, "FOLDERS", (tmp_path,))
    fonts.report_font.cache_clear()  # FontMissingError is not kept
    found = results(config)["font of PDF reports"]
    assert found["outcome"] == "failed"
    assert "install fonts-noto-cjk" in found["text"]


def test_a_model_that_is_not_there_is_found(tmp_path):
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("builtin/head_ct", "builtin/nothing"))
    assert results(config)["model builtin/nothing"]["outcome"] == "failed"


def test_a_state_folder_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(preflight, "write_new", refuse)
    result = results(write_config(tmp_path))["state folder"]
    assert result["outcome"] == "failed"
    assert "Read-only file system" in result["text"]


def test_a_nearly_full_disk_is_found(tmp_path):
    result = results(write_config(tmp_path, min_free_gb=1e6))["state folder"]
    assert result["outcome"] == "failed"
    assert "instances will be refused" in result["remedy"]


def test_a_database_that_does_not_answer_is_found(tmp_path):
    url = "postgresql://nobody@127.0.0.1:1/overread"
    result = results(write_config(tmp_path, database_url=url))["database"]
    assert result["outcome"] == "failed"
    assert "database_url" in result["remedy"]


def test_mistakes_in_the_file_come_first_and_alone(tmp_path):
    config = write_config(tmp_path, prot=1, quite_seconds=3)
    done = check(config, "--json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert [one["subject"] for one in found] == ["configuration", "configuration"]
    assert "did you mean 'port'" in found[0]["text"]


@pytest.mark.parametrize(("on_missing", "outcome"), [("refuse", "failed"), ("degrade", "warning")])
def test_a_provider_that_is_missing_is_found_with_what_to_install(
    tmp_path, monkeypatch, on_missing, outcome
):
    monkeypatch.setenv("OVERREAD_INFERENCE__PROVIDER", "cuda")
    monkeypatch.setenv("OVERREAD_INFERENCE__ON_MISSING", on_missing)
    monkeypatch.setattr(preflight, "installation", lambda: NO_GPU)
    found = list(preflight._provider(load_settings(write_config(tmp_path))))
    assert {one.outcome for one in found} == {outcome}
    assert "the installed ONNX Runtime has no CUDA provider" in found[0].text
    assert "overread[gpu]" in found[0].remedy
    assert "no NVIDIA driver" in found[1].text


def test_a_model_whose_provider_is_missing_is_refused_or_stated(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERREAD_INFERENCE__PROVIDER", "cuda")
    settings = load_settings(write_config(tmp_path))
    (refused,) = preflight._models(settings)
    assert refused.outcome == "failed"
    assert "CUDA cannot be used" in refused.text
    monkeypatch.setenv("OVERREAD_INFERENCE__ON_MISSING", "degrade")
    degraded, demonstration = preflight._models(load_settings(write_config(tmp_path)))
    assert degraded.outcome == demonstration.outcome == "warning"
    assert degraded.text.startswith("Computed on CPU, not on CUDA as configured")
    assert "runs on CPUExecutionProvider" in demonstration.text


def test_the_upper_layer_without_bounds_is_a_warning(tmp_path):
    slower = load_settings(write_config(tmp_path, upper_layer="pynetdicom"))
    assert [one.outcome for one in preflight._upper_layer(slower)] == [Outcome.WARNING]
    assert not list(preflight._upper_layer(load_settings(write_config(tmp_path))))
