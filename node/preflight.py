"""Would it work: the checks of `overread check`, each with what to do where it would not."""

import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from inference.bundle import find_bundle
from inference.installation import installation, lacks
from inference.process import ModelProcess
from inference.providers import SHOWN
from node.addresses import bracketed
from node.catalogue import Catalogue
from node.certificate_validity import EXPIRES_SOON, days_left
from node.check_result import Outcome, Result
from node.database import SchemaError
from node.dicomweb.access import REALM
from node.dicomweb.settings import DicomwebSettings
from node.disk import Disk
from node.durable import write_new
from node.peer_check import check_peer
from node.resident_model import MODEL_ERRORS
from node.settings import Peer, Settings, SettingsError, load_settings
from node.sole_use import port_refusal
from node.store_scu import PeerError, echo
from node.transport_security import CertificateError, check_files
from sr_writer.fonts import FontMissingError, report_font
from sr_writer.kinds import Kind


def preflight(config: Path) -> list[Result]:
    """All checks; where the configuration cannot be used, its mistakes and nothing else."""
    try:
        settings = load_settings(config)
    except SettingsError as error:
        return [
            Result("configuration", Outcome.FAILED, mistake, f"mend {config}")
            for mistake in error.mistakes
        ]
    results = [Result("configuration", Outcome.OK, f"{config} is valid")]
    results.extend(_upper_layer(settings))
    results.extend(_ports(settings))
    results.extend(_certificates(settings))
    results.extend(_disk(settings))
    results.extend(_database(settings))
    results.extend(_provider(settings))
    results.extend(_models(settings))
    results.extend(_report_font(settings))
    for peer in settings.peers:
        results.extend(check_peer(peer, settings))
    return results


def _upper_layer(settings: Settings) -> Iterator[Result]:
    if settings.node.upper_layer == "pynetdicom":
        yield Result(
            "upper layer",
            Outcome.WARNING,
            "pynetdicom's own bounds neither PDUs nor messages nor silent connections",
            'take node.upper_layer = "waiting", unless you compare the two',
        )


def _ports(settings: Settings) -> Iterator[Result]:
    node, web = settings.node, settings.web
    yield _port("DICOM port", node.host, node.port, runs=_node_answers(settings))
    yield _port("status page port", web.host, web.port, runs=_page_answers(web.host, web.port))
    dicomweb = settings.dicomweb
    if dicomweb is not None:
        runs = _dicomweb_answers(dicomweb)
        yield _port("DICOMweb port", dicomweb.host, dicomweb.port, runs=runs)


def _certificates(settings: Settings) -> Iterator[Result]:
    tls = settings.tls
    if tls is None:
        return
    yield _port("TLS port", settings.node.host, tls.port, runs=_node_answers(settings))
    try:
        check_files(tls)
        left = days_left(tls)
    except CertificateError as error:
        yield Result("certificates", Outcome.FAILED, str(error), "mend the file, or its rights")
        return
    text = f"{tls.certificate} and its key belong together; valid for {left:.0f} more days"
    if left > EXPIRES_SOON:
        yield Result("certificates", Outcome.OK, text)
    else:
        yield Result("certificates", Outcome.WARNING, text, "have it renewed; no restart is needed")


def _port(subject: str, host: str, port: int, *, runs: bool) -> Result:
    if runs:
        return Result(
            subject, Outcome.OK, f"{bracketed(host)}:{port} is answered by the node, which runs"
        )
    reason = port_refusal(host, port)
    if reason is not None:
        return Result(subject, Outcome.FAILED, reason, "stop what uses it, or choose another")
    return Result(subject, Outcome.OK, f"{bracketed(host)}:{port} is free")


def _node_answers(settings: Settings) -> bool:
    """Whether this very node listens already: its AE title answers one of its peers."""
    node = settings.node
    host = "127.0.0.1" if node.host in ("0.0.0.0", "::") else node.host  # noqa: S104  # compared
    itself = Peer(name="node", ae_title=node.ae_title, host=host, port=node.port)
    let_in = [peer for peer in settings.peers if not peer.tls and not peer.addresses]
    if not let_in:  # nobody that this check could call as would be let in from here
        return _page_answers(settings.web.host, settings.web.port)
    try:
        echo(itself, let_in[0].ae_title)
    except PeerError:
        return False
    return True


def _page_answers(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return b"checked_at" in connection.getresponse().read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _dicomweb_answers(dicomweb: DicomwebSettings) -> bool:
    """Whether this very server runs already: asked without a token it says who it is."""
    host = "127.0.0.1" if dicomweb.host in ("0.0.0.0", "::") else dicomweb.host  # noqa: S104
    connection = HTTPConnection(host, dicomweb.port, timeout=2)
    if dicomweb.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is entrusted
        connection = HTTPSConnection(host, dicomweb.port, timeout=2, context=context)
    try:
        connection.request("GET", dicomweb.path)
        return connection.getresponse().getheader("WWW-Authenticate") == REALM
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _disk(settings: Settings) -> Iterator[Result]:
    folder = settings.node.state_dir
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.unlink(missing_ok=True)
        write_new(probe, b"overread")
        probe.unlink()
    except OSError as error:
        yield Result(
            "state folder",
            Outcome.FAILED,
            f"{folder} cannot be written: {error.strerror}",
            "make it, and give it to the user that the node runs as",
        )
        return
    disk = Disk(settings)
    trouble = disk.trouble()
    if trouble is not None:
        text = f"{settings.spool_dir} does not take what is received: {trouble.reason}"
        yield Result("spool", Outcome.FAILED, text, trouble.remedy)
    free = disk.free_bytes() / 1e9
    if free < settings.node.min_free_gb:
        yield Result(
            "state folder",
            Outcome.FAILED,
            f"{folder}: {free:.1f} GB free, below node.min_free_gb = {settings.node.min_free_gb:g}",
            "make room, or instances will be refused",
        )
    else:
        studies = int((free - settings.node.min_free_gb) / 0.25)
        yield Result(
            "state folder",
            Outcome.OK,
            f"{folder} is writable, {free:.1f} GB free: about {studies} studies of 250 MB",
        )


def _database(settings: Settings) -> Iterator[Result]:
    try:
        Catalogue(settings.database_url).close()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        yield Result(
            "database", Outcome.FAILED, reason, "check node.database_url and that it is running"
        )
    except SchemaError as error:
        yield Result("database", Outcome.FAILED, str(error), "see docs/install.md, Upgrade")
    else:
        kind = settings.database_url.split(":", 1)[0].split("+")[0]
        yield Result("database", Outcome.OK, f"{kind} answers")


def _provider(settings: Settings) -> Iterator[Result]:
    subject, inference = "execution provider", settings.inference
    shown = SHOWN[inference.provider]
    missing = lacks(inference.provider, installation())
    refuses = inference.on_missing == "refuse"
    for lack in missing:
        outcome = Outcome.FAILED if refuses else Outcome.WARNING
        yield Result(subject, outcome, f"{shown} cannot be used: {lack.reason.en}", lack.remedy)
    if not missing:
        yield Result(subject, Outcome.OK, f"{shown} has what it needs")


def _models(settings: Settings) -> Iterator[Result]:
    for name in sorted({route.model for route in settings.routes}):
        subject = f"model {name}"
        try:
            folder = find_bundle(name, settings.bundle_dirs)
            model = ModelProcess(folder, settings.session, settings.limits)
        except MODEL_ERRORS as error:
            yield Result(subject, Outcome.FAILED, str(error), "mend that, or change the route")
            continue
        model.close()
        identity = model.identity
        text = f"{identity.name} {identity.version} is intact, runs on {model.provider}"
        for degraded in model.degraded:
            yield Result(subject, Outcome.WARNING, degraded.en, "see the execution provider above")
        if identity.demonstration:
            yield Result(
                subject,
                Outcome.WARNING,
                f"{text}; a demonstration model, not for clinical use",
                "use it to try the way of a study, nothing else",
            )
        else:
            yield Result(subject, Outcome.OK, text)


def _report_font(settings: Settings) -> Iterator[Result]:
    """Where a peer is to get PDFs: without their font the runs would fail."""
    if not any(Kind.PDF in peer.objects for peer in settings.peers):
        return
    subject = "font of PDF reports"
    try:
        font = report_font()
    except FontMissingError as error:
        remedy = "do that, or take 'pdf' out of the 'objects' of the peers"
        yield Result(subject, Outcome.FAILED, str(error), remedy)
    else:
        yield Result(subject, Outcome.OK, f"{font.path} has the Chinese and the Latin letters")
