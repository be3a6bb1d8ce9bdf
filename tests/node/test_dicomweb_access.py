"""The DICOMweb server is for those who hold a token, and says nothing to others."""

import json
import socket
import subprocess
import sys
import tomllib

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from typer.testing import CliRunner

from node.cli import app
from node.dicomweb.application import create_app
from node.dicomweb.server import bound
from node.dicomweb.settings import DicomwebClient, DicomwebSettings
from node.dicomweb.tokens import digest_of
from node.preflight import preflight
from node.settings import SettingsError, load_settings
from tests.node.configuration import free_ports, write_config

CLIENTS = (
    DicomwebClient(name="viewer", token_sha256=digest_of("sight"), may=("read",)),
    DicomwebClient(name="router", token_sha256=digest_of("freight"), may=("store",)),
)


@pytest.fixture(scope="module")
def client():
    settings = DicomwebSettings(clients=CLIENTS)
    routes = [
        Route("/studies", lambda request: PlainTextResponse(request.state.client.name)),
        Route("/studies", lambda _request: PlainTextResponse("stored"), methods=["POST"]),
        Route("/broken", lambda _request: 1 / 0),
    ]
    return TestClient(
        create_app(settings, routes),
        base_url="http://127.0.0.1:8042/dicom-web",
        raise_server_exceptions=False,
    )


def shows(token):
    return {"Authorization": f"Bearer {token}"}


def test_a_client_does_what_it_may(client):
    assert client.get("/studies", headers=shows("sight")).text == "viewer"
    assert client.post("/studies", headers=shows("freight")).text == "stored"


def test_a_client_does_nothing_that_it_may_not(client):
    for answer in (
        client.post("/studies", headers=shows("sight")),
        client.get("/studies", headers=shows("freight")),
    ):
        assert answer.status_code == 403
        assert "'may'" in answer.text


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic sight", "sight", f"Bearer {'x' * 9999}"],
)
@pytest.mark.parametrize("path", ["/studies", "/broken", "/nowhere"])
def test_without_a_token_all_paths_look_the_same(client, authorization, path):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Overread"'


def test_what_is_not_served_is_said_in_words(client):
    answers = {
        405: client.put("/studies", headers=shows("sight")),
        404: client.get("/nowhere", headers=shows("sight")),
        500: client.get("/broken", headers=shows("sight")),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.headers["Cache-Control"] == "no-store"


def configure(folder, section):
    config = write_config(folder)
    config.write_text(f"{config.read_text()}\n{section}\n")
    return config


SIGHT = digest_of("sight")


def section(keys="", digest=SIGHT):
    return f"""
        [dicomweb]
        {keys}
        [[dicomweb.clients]]
        name = "viewer"
        token_sha256 = "{digest}"
        may = ["read"]
    """


@pytest.mark.parametrize(
    ("written", "mistake"),
    [
        (section('host = "0.0.0.0"'), "use 127.0.0.1 or ::1"),
        (section("tls = true"), r"dicomweb\.tls: there is no \[tls\] section"),
        (section('path = "dicom-web/"'), "a path begins with /"),
        (section('url = "pacs.hospital"'), "use https://NAME/PATH"),
        (section(digest="sight"), "'overread token' prints the line"),
        (section() + section().split("[dicomweb]")[1], "'viewer' is used twice"),
        ("[dicomweb]", r"dicomweb\.clients: is missing"),
    ],
)
def test_mistakes_in_the_section_are_named(tmp_path, written, mistake):
    with pytest.raises(SettingsError, match=mistake):
        load_settings(configure(tmp_path, written))


def test_a_token_comes_with_the_lines_of_the_configuration(tmp_path):
    done = CliRunner().invoke(app, ["token", "viewer", "--may", "read"])
    assert done.exit_code == 0, done.output
    secret = done.output.splitlines()[1].removeprefix("# ")
    written = tomllib.loads(done.output)["dicomweb"]["clients"]
    assert written == [{"name": "viewer", "token_sha256": digest_of(secret), "may": ["read"]}]
    settings = load_settings(configure(tmp_path, f"[dicomweb]\n{done.output}"))
    assert settings.dicomweb.clients[0].name == "viewer"


def test_a_token_needs_a_name_that_can_be_an_ae_title():
    done = CliRunner().invoke(app, ["token", "a name that is too long"])
    assert done.exit_code == 1
    assert "up to 16" in done.output


def test_a_server_that_cannot_start_says_why(tmp_path):
    command = [sys.executable, "-m", "node", "serve", "--role", "dicomweb", "--config"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = configure(tmp_path, section(f"port = {taken.getsockname()[1]}"))
        done = subprocess.run([*command, config], capture_output=True, check=False, timeout=120)
    assert done.returncode == 1
    (event,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert event["event"] == "dicomweb.cannot_start"
    assert "Address already in use" in event["reason"]
    assert "overread check" in event["remedy"]


def test_check_says_whether_the_port_is_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = configure(tmp_path, section(f"port = {taken.getsockname()[1]}"))
        (found,) = [one for one in preflight(config) if one.subject == "DICOMweb port"]
    assert found.outcome == "failed"
    (found,) = [one for one in preflight(config) if one.subject == "DICOMweb port"]
    assert found.outcome == "ok"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_server_of_both_protocols_is_reached_by_both():
    (port,) = free_ports(1)
    with bound(DicomwebSettings(host="::", port=port, tls=True, clients=CLIENTS)):
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


def test_pages_of_other_origins_may_read_where_they_are_let(client):
    preflight = {
        "Origin": "https://viewer.hospital",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    assert client.options("/studies", headers=preflight).status_code >= 400
    answer = client.get("/studies", headers={**shows("sight"), "Origin": preflight["Origin"]})
    assert "Access-Control-Allow-Origin" not in answer.headers
    settings = DicomwebSettings(clients=CLIENTS, origins=[preflight["Origin"]])
    routes = [Route("/studies", lambda _request: PlainTextResponse("read"))]
    open_one = TestClient(create_app(settings, routes), base_url="http://127.0.0.1:8042/dicom-web")
    for answer in (
        open_one.options("/studies", headers=preflight),
        open_one.get("/studies", headers={**shows("sight"), "Origin": preflight["Origin"]}),
        open_one.get("/studies", headers={"Origin": preflight["Origin"]}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == preflight["Origin"]
    assert answer.status_code == 401
    preflight["Origin"] = "https://elsewhere"
    assert open_one.options("/studies", headers=preflight).status_code == 400


@pytest.mark.parametrize(
    "origin", ["*", "viewer.hospital", "https://Viewer", "https://viewer/", ""]
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValueError, match="an origin is"):
        DicomwebSettings(clients=CLIENTS, origins=[origin])
