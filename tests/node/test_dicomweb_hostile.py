"""What strangers, broken clients and slow ones do to the DICOMweb server: it answers the others."""

import os
import shutil
import socket
import ssl
import threading
import time
from io import BytesIO

import h11
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from node.dicomweb import connections, limits, server
from tests.node.dicomweb_server import (
    MULTIPART,
    TOKEN,
    as_file,
    configure,
    dicomweb_server,
    http_client,
    multipart,
)
from tests.node.test_listener import spooled
from tests.node.test_transport_security import AUTHORITY, certificate
from tests.slices import grid_affine, write_slices

PATIENT = 60


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    config = configure(tmp_path_factory.mktemp("node"), dicomweb="max_requests = 8")
    with dicomweb_server(config) as settings:
        yield settings


@pytest.fixture
def file(tmp_path):
    pixels = np.arange(32 * 32, dtype=np.int16).reshape(1, 32, 32)
    return as_file(dcmread(write_slices(tmp_path / "scan", pixels, grid_affine())[0]))


def opened(settings):
    return socket.create_connection(("127.0.0.1", settings.dicomweb.port), timeout=PATIENT)


def head(token=TOKEN, *, length=None, more=()):
    """Request line and headers of a request to store."""
    lines = [
        "POST /dicom-web/studies HTTP/1.1",
        "Host: node",
        f"Authorization: Bearer {token}",
        f"Content-Type: {MULTIPART}",
        *([] if length is None else [f"Content-Length: {length}"]),
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def until_closed(connection):
    """Everything that comes before the server closes, or resets."""
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        return found
    return found


def status(connection):
    return int(connection.recv(65536).split()[1])


def is_served(settings, file):
    with http_client(settings) as client:
        answer = client.post(
            "/studies", content=multipart([file]), headers={"Content-Type": MULTIPART}
        )
    return answer.status_code == 200


def dribble(connection):
    """Send a byte now and then, until the server has had enough."""
    deadline = time.monotonic() + PATIENT
    while time.monotonic() < deadline:
        try:
            connection.sendall(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return
        time.sleep(0.05)
    pytest.fail("the server let it")


def left_half_written(settings):
    return list((settings.spool_dir / ".incoming-dicomweb").iterdir())


def await_true(condition):
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("said", [b"", b"POST /dicom-web/stu", head()[:-10]])
def test_a_connection_that_says_too_little_is_closed(node, file, monkeypatch, said):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    with opened(node) as connection:
        connection.sendall(said)
        assert until_closed(connection) == b""
    assert is_served(node, file)


def test_headers_that_come_a_byte_at_a_time_are_not_waited_for(node, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 1.0)
    with opened(node) as connection:
        dribble(connection)


def test_connections_that_say_nothing_keep_no_other_out(node, file, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    silent = [opened(node) for _ in range(100)]
    assert is_served(node, file)
    for one in silent[:60]:
        assert until_closed(one) == b""
    for one in silent:
        one.close()


def test_one_request_too_many_is_told_to_come_back(node, file):
    waiting = [opened(node) for _ in range(8)]
    for connection in waiting:
        connection.sendall(head(length=10**6, more=["Expect: 100-continue"]))
        assert status(connection) == 100
    with opened(node) as connection:
        connection.sendall(head(length=10))
        assert status(connection) == 503
    for connection in waiting:
        connection.close()
    await_true(lambda: is_served(node, file))


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00" + b"\0" * 500,
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(20_000)) + b"\r\n",
        head(more=["Content-Length: 5", "Content-Length: 6"]),
        head(length="-1"),
        head(length="1e3"),
        head(more=["Transfer-Encoding: gzip, chunked"]),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["tls", "long header", "many headers", "two lengths", "minus", "float", "gzip", "http2"],
)
def test_what_is_no_request_is_refused(node, file, sent):
    with opened(node) as connection:
        try:
            connection.sendall(sent)
            answer = until_closed(connection)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert answer[:10] in (b"", b"HTTP/1.1 4", b"HTTP/1.1 5")
    assert is_served(node, file)


@pytest.mark.parametrize(
    "body", [b"zz\r\nabc\r\n", b"-5\r\nabc\r\n", b"5\r\nabcdefgh\r\n", b"f" * 100 + b"\r\n"]
)
def test_chunks_that_lie_about_their_length_end_the_request(node, file, body):
    with opened(node) as connection:
        connection.sendall(head(more=["Transfer-Encoding: chunked"]) + body)
        assert b"HTTP/1.1 200" not in until_closed(connection)
    assert is_served(node, file)
    assert not left_half_written(node)


def test_a_body_in_tiny_chunks_is_stored(node, file):
    body = multipart([file])
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with opened(node) as connection:
        connection.sendall(head(more=["Transfer-Encoding: chunked"]) + chunks + b"0\r\n\r\n")
        assert status(connection) == 200


@pytest.mark.parametrize("cut", [10, 1000, 2500])
def test_a_client_that_breaks_off_leaves_nothing_behind(node, file, cut):
    before = spooled(node)
    body = multipart([file])
    with opened(node) as connection:
        connection.sendall(head(length=len(body)) + body[:cut])
    assert is_served(node, file)
    await_true(lambda: not left_half_written(node))
    assert len(spooled(node)) == len(before) + 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_body_is_the_same_as_it_was_sent(node, file, monkeypatch, framing):
    through_h11 = []
    receive_data = h11.Connection.receive_data
    monkeypatch.setattr(
        h11.Connection,
        "receive_data",
        lambda self, data: through_h11.append(len(data)) or receive_data(self, data),
    )
    dataset = dcmread(BytesIO(file))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Rows = dataset.Columns = 2048
    dataset.PixelData = np.random.default_rng(1).bytes(2 * 2048 * 2048)
    body = multipart([file, as_file(dataset), file])
    with opened(node) as connection:
        if framing == "length":
            connection.sendall(head(length=len(body)) + body)
        else:
            chunked = b"".join(
                b"%x\r\n%s\r\n" % (len(body[at : at + 70_000]), body[at : at + 70_000])
                for at in range(0, len(body), 70_000)
            )
            connection.sendall(head(more=["Transfer-Encoding: chunked"]) + chunked + b"0\r\n\r\n")
        assert status(connection) == 200
    kept = next(path for path in spooled(node) if path.stem == dataset.SOPInstanceUID)
    assert dcmread(kept).PixelData == dataset.PixelData
    assert (sum(through_h11) < 1000) == (framing == "length")


def test_requests_one_after_the_other_on_a_connection_are_all_answered(node, file):
    body = multipart([file])
    with opened(node) as connection:
        connection.sendall((head(length=len(body)) + body) * 5)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 5:
            piece = connection.recv(65536)
            assert piece, answers
            answers += piece


def test_a_length_beyond_any_study_is_refused_at_once(node):
    with opened(node) as connection:
        connection.sendall(head(length=10**15))
        assert status(connection) == 413


def test_a_body_that_falls_silent_is_given_up(node, file, monkeypatch):
    monkeypatch.setattr(limits, "SILENCE_SECONDS", 0.5)
    with opened(node) as connection:
        connection.sendall(head(length=10**6) + multipart([file])[:1000])
        assert status(connection) == 408
    assert not left_half_written(node)


def test_a_body_that_dribbles_is_given_up(node, file, monkeypatch):
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    with opened(node) as connection:
        connection.sendall(head(length=10**6) + multipart([file])[:200])
        sender = threading.Thread(target=dribble, args=[connection])
        sender.start()
        assert status(connection) == 408
        sender.join()


def test_a_stranger_is_refused_before_the_body_and_gets_to_see_it(node, file, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 2.0)
    with opened(node) as connection:
        connection.sendall(head("wrong", length=50 << 20))
        for _ in range(50):
            connection.sendall(bytes(1 << 20))  # as many clients do before they look
        assert status(connection) == 401
    with opened(node) as connection:
        connection.sendall(head("wrong", length=50 << 20, more=["Expect: 100-continue"]))
        assert status(connection) == 401
        dribble(connection)
    assert is_served(node, file)


@pytest.mark.parametrize("size", [50_000, 50 << 20])
def test_an_answer_that_is_not_read_is_given_up(monkeypatch, size):
    monkeypatch.setattr(connections, "READING_SECONDS", 0.5)
    ended = threading.Event()

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})
        ended.set()

    listening = socket.create_server(("127.0.0.1", 0))
    serving = server.http_server(app, None)
    serving.config.timeout_keep_alive = 1
    thread = threading.Thread(target=serving.run, args=[[listening]])
    thread.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listening.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
        assert ended.wait(PATIENT)
        await_true(lambda: not serving.server_state.connections)
    serving.should_exit = True
    thread.join()


def secured_server(folder):
    authorities = folder / "ca.crt"
    AUTHORITY.cert_pem.write_to_path(authorities)
    chain, key = certificate(folder, "node.hospital")
    files = f'certificate = "{chain}"\nkey = "{key}"\nauthorities = "{authorities}"\n'
    return dicomweb_server(configure(folder, dicomweb="tls = true", extra=f"[tls]\n{files}"))


def trusting():
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.check_hostname = False  # the certificate is on a name, the test calls an address
    return context


def serial(settings):
    with (
        opened(settings) as plain,
        trusting().wrap_socket(plain, server_hostname="node.hospital") as connection,
    ):
        return connection.getpeercert()["serialNumber"]


def test_over_tls_a_renewed_certificate_is_shown_and_a_broken_one_is_not(tmp_path, file):
    with secured_server(tmp_path) as settings:
        with http_client(settings, verify=trusting()) as client:
            answer = client.post(
                "/studies", content=multipart([file]), headers={"Content-Type": MULTIPART}
            )
            assert answer.status_code == 200
            assert '"https://127.0.0.1' in answer.text
        before = serial(settings)
        renewed = certificate(tmp_path / "renewed", "node.hospital")
        for new, old in zip(renewed, (settings.tls.certificate, settings.tls.key), strict=True):
            shutil.copy(new, old)
            os.utime(old, (time.time() + 5, time.time() + 5))
        after = serial(settings)
        assert after != before
        settings.tls.key.write_text("no key")
        os.utime(settings.tls.key, (time.time() + 10, time.time() + 10))
        assert serial(settings) == after


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
def test_over_tls_the_old_and_the_silent_are_not_served(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 1.0)
    with secured_server(tmp_path) as settings:
        silent = [opened(settings) for _ in range(20)]
        old = trusting()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with opened(settings) as plain, pytest.raises((ssl.SSLError, ConnectionResetError)):
            old.wrap_socket(plain)
        assert serial(settings)
        for one in silent:
            assert until_closed(one) == b""
            one.close()
