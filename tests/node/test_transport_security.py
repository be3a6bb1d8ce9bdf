"""Associations over TLS with DCMTK and pynetdicom as peers, and who is let in."""

import os
import shutil
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import trustme
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move
from pynetdicom.sop_class import Verification

from node import store_scu
from node.catalogue import Catalogue
from node.check_result import Outcome
from node.listener import Listener
from node.preflight import _certificates, preflight
from node.settings import Peer, SettingsError, load_settings
from node.transport_security import CertificateError
from node.web.health import health_of
from tests.node.configuration import free_ports, write_config
from tests.node.test_listener import DCMTK, ENVIRONMENT, associate, spooled
from tests.slices import grid_affine, write_slices
from tests.system.peers import await_true

AUTHORITY = trustme.CA()


def certificate(folder, name, *, authority=AUTHORITY, not_after=None):
    """The files (certificate, key) of somebody called `name`."""
    issued = authority.issue_cert(name, not_after=not_after)
    folder.mkdir(exist_ok=True)
    chain, key = folder / f"{name}.crt", folder / f"{name}.key"
    chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key


def configure(folder, *, peer=""):
    """A node with a TLS port; `peer` has further keys of the peer PACS."""
    authorities = folder / "ca.crt"
    AUTHORITY.cert_pem.write_to_path(authorities)
    chain, key = certificate(folder, "node.hospital")
    config = write_config(folder)
    (port,) = free_ports(1)
    text = config.read_text().replace('ae_title = "PACS"\n', f'ae_title = "PACS"\n{peer}\n')
    text += f'\n[tls]\nport = {port}\ncertificate = "{chain}"\nkey = "{key}"\n'
    config.write_text(text + f'authorities = "{authorities}"\n')
    return config


@pytest.fixture
def listening(tmp_path):
    """Starts a node; stops it at the end."""
    started = []

    def start(**keywords):
        listener = Listener(load_settings(configure(tmp_path, **keywords)))
        listener.start()
        started.append(listener)
        return listener._settings

    yield start
    for listener in started:
        listener.stop()


@pytest.fixture
def image(tmp_path):
    pixels = np.arange(512 * 512, dtype=np.int16).reshape(1, 512, 512)
    return write_slices(tmp_path / "scan", pixels, grid_affine())[0]


def secured(settings, folder, name, *, contexts=(), proposed=None, **shown):
    """An association over TLS by somebody with a certificate on `name`."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    AUTHORITY.configure_trust(context)
    context.load_cert_chain(*certificate(folder, name, **shown))
    entity = AE(ae_title="PACS")
    return entity.associate(
        "127.0.0.1",
        settings.tls.port,
        contexts=list(contexts) or [build_context(CTImageStorage)],
        ae_title="OVERREAD",
        tls_args=(context, "node.hospital"),
        **(proposed or {}),
    )


def test_an_image_arrives_over_tls(listening, tmp_path, image):
    settings = listening()
    association = secured(settings, tmp_path, "pacs.hospital")
    assert association.send_c_store(dcmread(image)).Status == 0
    association.release()
    assert dcmread(spooled(settings)[0]).PixelData == dcmread(image).PixelData


@DCMTK
def test_dcmtk_sends_over_tls_with_the_bcp_195_profile(listening, tmp_path, image):
    settings = listening()
    chain, key = certificate(tmp_path, "pacs.hospital")
    done = subprocess.run(
        [
            "/usr/bin/storescu",
            *("--enable-tls", key, chain, "--add-cert-file", tmp_path / "ca.crt"),
            *("--profile-bcp195", "-aet", "PACS", "-aec", "OVERREAD"),
            *("127.0.0.1", str(settings.tls.port), image),
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(spooled(settings)) == 1


@DCMTK
@pytest.mark.parametrize(("shown", "is_taken"), [("localhost", True), ("other.hospital", False)])
def test_results_go_to_dcmtk_over_tls_if_it_is_who_it_should_be(tmp_path, image, shown, is_taken):
    settings = load_settings(configure(tmp_path, peer="tls = true"))
    peer = settings.peers[0].model_copy(update={"host": "localhost"})
    chain, key = certificate(tmp_path, shown)
    place = tmp_path / "pacs"
    place.mkdir()
    receiver = subprocess.Popen(
        [
            "/usr/bin/storescp",
            *("--enable-tls", key, chain, "--add-cert-file", tmp_path / "ca.crt"),
            *("-aet", "PACS", "-od", place, str(peer.port)),
        ],
        env=ENVIRONMENT,
    )
    try:
        await_listening(peer.port)
        instances = [store_scu.read_instance(image)]
        if is_taken:
            (answer,) = store_scu.send(instances, peer, "OVERREAD", tls=settings.tls)
            assert answer.taken
        else:
            with pytest.raises(store_scu.PeerError):
                store_scu.send(instances, peer, "OVERREAD", tls=settings.tls)
    finally:
        receiver.terminate()
        receiver.wait(10)
    assert len(list(place.iterdir())) == is_taken


def await_listening(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the receiver did not start")


def test_check_names_a_certificate_that_is_none(tmp_path):
    config = configure(tmp_path)
    assert {one.outcome for one in preflight(config) if one.subject == "certificates"} == {"ok"}
    (tmp_path / "node.hospital.key").write_text("no key")
    (found,) = [one for one in preflight(config) if one.subject == "certificates"]
    assert found.outcome == "failed"
    assert "node.hospital" in found.text


def test_a_certificate_of_another_authority_is_not_served(listening, tmp_path):
    settings = listening()
    stranger = secured(settings, tmp_path, "pacs.hospital", authority=trustme.CA())
    assert not stranger.is_established


def test_one_without_certificate_is_not_served(listening):
    settings = listening()
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    AUTHORITY.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # then the handshake itself tells
    plain = socket.create_connection(("127.0.0.1", settings.tls.port))
    with pytest.raises(OSError, match=r"(?i)handshake failure|reset|certificate"):
        context.wrap_socket(plain, server_hostname="node.hospital")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
def test_tls_older_than_1_2_is_not_served(listening, tmp_path):
    settings = listening()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    context.load_cert_chain(*certificate(tmp_path, "pacs.hospital"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection(("127.0.0.1", settings.tls.port))
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="node.hospital")


def test_one_silent_client_keeps_no_other_waiting(listening, tmp_path, image):
    settings = listening()
    silent = [socket.create_connection(("127.0.0.1", settings.tls.port)) for _ in range(5)]
    started = time.monotonic()
    association = secured(settings, tmp_path, "pacs.hospital")
    assert association.is_established
    assert time.monotonic() - started < 5  # the handshake of the silent is given 10 s
    association.release()
    for one in silent:
        one.close()


def test_a_renewed_certificate_is_shown_without_a_restart(listening, tmp_path):
    settings = listening()

    def serial():
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        AUTHORITY.configure_trust(context)
        context.load_cert_chain(*certificate(tmp_path, "pacs.hospital"))
        plain = socket.create_connection(("127.0.0.1", settings.tls.port))
        with context.wrap_socket(plain, server_hostname="node.hospital") as connection:
            return connection.getpeercert()["serialNumber"]

    before = serial()
    assert serial() == before
    renewed = certificate(tmp_path / "renewed", "node.hospital")
    for new, old in zip(renewed, (settings.tls.certificate, settings.tls.key), strict=True):
        shutil.copy(new, old)
        os.utime(old, (time.time() + 5, time.time() + 5))
    assert serial() != before


def test_a_peer_that_speaks_tls_is_not_taken_for_one_that_does_not(listening, tmp_path):
    settings = listening(peer='tls = true\ntls_name = "pacs.hospital"')
    assert associate(settings).is_rejected
    assert secured(settings, tmp_path, "ct.hospital").is_rejected
    association = secured(settings, tmp_path, "pacs.hospital")
    assert association.is_established
    association.release()


@pytest.mark.parametrize(
    ("peer", "remedy"),
    [
        ('addresses = ["10.0.0.0/8"]', "add it to 'addresses'"),
        ("tls = true", "have it send to the port of [tls]"),
    ],
)
def test_who_is_turned_away_is_told_with_what_would_let_it_in(listening, capsys, peer, remedy):
    assert associate(listening(peer=peer)).is_rejected
    assert remedy in logged(capsys, "association.rejected")


def test_a_node_of_both_protocols_knows_addresses_as_they_are_written(listening, capsys, tmp_path):
    config = configure(tmp_path, peer='addresses = ["127.0.0.1/32"]')
    config.write_text(config.read_text().replace('host = "127.0.0.1"', 'host = "::"', 1))
    listener = Listener(load_settings(config))
    try:
        listener.start()
    except OSError:
        pytest.skip("this machine has no IPv6")
    associate(listener._settings).release()
    assert associate(listener._settings, calling="NOBODY").is_rejected
    assert "address=127.0.0.1 " in logged(capsys, "association.rejected")
    over_ipv6 = AE(ae_title="PACS").associate(
        "::1", listener._settings.node.port, [build_context(CTImageStorage)], ae_title="OVERREAD"
    )
    assert over_ipv6.is_rejected
    listener.stop()


def test_tls_at_the_port_without_is_told(listening, capsys):
    settings = listening()
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", settings.node.port)) as plain,
        pytest.raises(OSError),  # noqa: PT011  # whatever it makes of an abort
    ):
        context.wrap_socket(plain, server_hostname="node.hospital")
    logged(capsys, "beginning of TLS")


@pytest.mark.parametrize(("addresses", "is_let_in"), [("127.0.0.0/8", True), ("10.0.0.0/8", False)])
def test_a_peer_is_let_in_from_its_addresses_only(listening, addresses, is_let_in):
    association = associate(listening(peer=f'addresses = ["{addresses}"]'))
    assert association.is_rejected is not is_let_in
    if is_let_in:
        association.release()


def test_a_certificate_that_is_none_is_named_at_the_start(tmp_path):
    config = configure(tmp_path)
    (tmp_path / "node.hospital.crt").write_text("no certificate")
    with pytest.raises(CertificateError, match=r"node\.hospital\.crt"):
        Listener(load_settings(config)).start()


@pytest.mark.parametrize("peer", ["tls = true", 'tls_name = "pacs"'])
def test_tls_of_a_peer_needs_certificates_of_ours(tmp_path, peer):
    config = configure(tmp_path, peer=peer)
    text = config.read_text()
    config.write_text(text[: text.index("[tls]")])
    with pytest.raises(SettingsError, match=r"\[tls\]"):
        load_settings(config)


def test_what_a_peer_may_ask_for_is_sent_to_it_over_tls(listening, tmp_path, image):
    settings = listening(peer='query = true\ntls = true\ntls_name = "pacs.hospital"')
    pacs = settings.peers[0]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.configure_trust(context)
    context.load_cert_chain(*certificate(tmp_path, "pacs.hospital"))
    came = []
    entity = AE(ae_title="PACS")
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(
        ("127.0.0.1", pacs.port),
        block=False,
        ssl_context=context,
        evt_handlers=[(evt.EVT_C_STORE, lambda event: came.append(event.dataset) or 0x0000)],
    )
    contexts = [build_context(CTImageStorage), build_context(Move)]
    association = secured(settings, tmp_path, "pacs.hospital", contexts=contexts)
    sent = dcmread(image)
    assert association.send_c_store(sent).Status == 0x0000
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", sent.StudyInstanceUID

    def moved():
        *_, (last, _) = association.send_c_move(query, "PACS", Move)
        return last.get("NumberOfCompletedSuboperations")  # none until it is listed

    await_true(moved, 60, "the image to be listed and sent")
    association.release()
    server.shutdown()
    assert came[0].PixelData == sent.PixelData
    came.clear()
    association = secured(
        settings,
        tmp_path,
        "pacs.hospital",
        contexts=[build_context(CTImageStorage), build_context(Get)],
        proposed={
            "ext_neg": [build_role(CTImageStorage, scp_role=True)],
            "evt_handlers": [(evt.EVT_C_STORE, lambda event: came.append(event.dataset) or 0)],
        },
    )
    *_, (last, _) = association.send_c_get(query, Get)
    association.release()
    assert (last.Status, came[0].PixelData) == (0x0000, sent.PixelData)
    assert not secured(settings, tmp_path, "other.hospital", contexts=contexts).is_established


def test_a_renewal_that_is_half_done_turns_nobody_away_and_is_told(listening, tmp_path, capsys):
    settings = listening()
    contexts = [build_context(CTImageStorage)]
    chain, _ = certificate(tmp_path / "renewed", "node.hospital")
    shutil.copy(chain, settings.tls.certificate)  # and its key not yet
    for _ in range(2):
        association = secured(settings, tmp_path, "pacs.hospital", contexts=contexts)
        assert association.is_established
        association.release()
    logged = capsys.readouterr().out
    assert logged.count("certificate.broken") == 1
    assert "KEY_VALUES_MISMATCH" in logged
    results = _certificates(settings)
    assert [one.outcome for one in results if one.subject == "certificates"] == [Outcome.FAILED]


@pytest.mark.parametrize(
    ("shown", "reason", "remedy"),
    [
        ({"authority": trustme.CA()}, "unable to get local issuer", "tls.authorities"),
        ({"not_after": datetime(2020, 1, 1, tzinfo=UTC)}, "has expired", "renewed there"),
    ],
)
def test_why_a_certificate_is_not_believed_is_told(
    listening, tmp_path, capsys, shown, reason, remedy
):
    settings = listening()
    assert not secured(settings, tmp_path, "ct.hospital", **shown).is_established
    said = logged(capsys, "connection.not_secured")
    assert reason in said
    assert remedy in said


def logged(capsys, text):
    """What was logged until `text` was."""
    said = []

    def is_logged():
        said.append(capsys.readouterr().out)
        return text in "".join(said)

    await_true(is_logged, 60, text)
    return "".join(said)


@pytest.mark.parametrize(
    ("kept", "expected", "alarms"),
    [
        (300, Outcome.OK, 0),
        (20, Outcome.WARNING, 0),
        (3, Outcome.WARNING, 1),
        (-1, Outcome.FAILED, 1),
    ],
)
def test_a_certificate_that_expires_is_told_in_time(tmp_path, kept, expected, alarms):
    config = configure(tmp_path)
    settings = load_settings(config)
    certificate(tmp_path, "node.hospital", not_after=datetime.now(UTC) + timedelta(days=kept))
    found = [one for one in _certificates(settings) if one.subject == "certificates"]
    assert [one.outcome for one in found] == [expected]
    catalogue = Catalogue(settings.database_url)
    told = [one for one in health_of(settings, catalogue).alarms if "TLS" in one.text]
    catalogue.close()
    assert len(told) == alarms


@pytest.mark.parametrize(
    ("speaks_tls", "name", "reason"),
    [
        (True, "another.hospital", "Hostname mismatch"),
        (False, "127.0.0.1", "TLS: it"),
    ],
)
def test_why_a_peer_cannot_be_reached_over_tls_is_told(tmp_path, speaks_tls, name, reason):
    entity = AE(ae_title="PACS")
    entity.add_supported_context(Verification)
    (port,) = free_ports(1)
    settings = load_settings(configure(tmp_path, peer="tls = true"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(tmp_path, "pacs.hospital"))
    server = entity.start_server(
        ("127.0.0.1", port), block=False, ssl_context=context if speaks_tls else None
    )
    called = Peer(
        name="pacs", ae_title="PACS", host="127.0.0.1", port=port, tls=True, tls_name=name
    )
    with pytest.raises(store_scu.PeerError, match=reason):
        store_scu.echo(called, "OVERREAD", tls=settings.tls)
    server.shutdown()
