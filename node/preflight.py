"""Would it work: the checks of `overread check`, each with what to do where it would not."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom import build_context
from sqlalchemy.exc import SQLAlchemyError

from inference.bundle import find_bundle
from inference.installation import installation, lacks
from inference.process import ModelProcess
from inference.providers import SHOWN
from node.catalogue import Catalogue
from node.database import SchemaError
from node.durable import write_new
from node.resident_model import MODEL_ERRORS
from node.settings import Peer, Settings, SettingsError, load_settings
from node.store_scu import PeerError, accepted_contexts, echo

RESULT_CLASSES: tuple[UID, ...] = (SegmentationStorage, Comprehensive3DSRStorage)


class Outcome(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """One check: what was looked at, what was found, and what to do about it."""

    subject: str
    outcome: Outcome
    text: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return {
            "subject": self.subject,
            "outcome": self.outcome,
            "text": self.text,
            "remedy": self.remedy,
        }


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
    results.extend(_ports(settings))
    results.extend(_disk(settings))
    results.extend(_database(settings))
    results.extend(_provider(settings))
    results.extend(_models(settings))
    for peer in settings.peers:
        results.extend(_peer(peer, settings))
    return results


def _ports(settings: Settings) -> Iterator[Result]:
    node, web = settings.node, settings.web
    yield _port("DICOM port", node.host, node.port, runs=_node_answers(settings))
    yield _port("status page port", web.host, web.port, runs=_page_answers(web.host, web.port))


def _port(subject: str, host: str, port: int, *, runs: bool) -> Result:
    if runs:
        return Result(subject, Outcome.OK, f"{host}:{port} is answered by the node, which runs")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return Result(
            subject,
            Outcome.FAILED,
            f"{host}:{port} cannot be bound: {error.strerror}",
            "stop what uses it, or choose another",
        )
    return Result(subject, Outcome.OK, f"{host}:{port} is free")


def _node_answers(settings: Settings) -> bool:
    """Whether this very node listens already: its AE title answers one of its peers."""
    node = settings.node
    host = "127.0.0.1" if node.host in ("0.0.0.0", "::") else node.host  # noqa: S104  # compared
    itself = Peer(name="node", ae_title=node.ae_title, host=host, port=node.port)
    try:
        echo(itself, settings.peers[0].ae_title)
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
    free = shutil.disk_usage(folder).free / 1e9
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


def _peer(peer: Peer, settings: Settings) -> Iterator[Result]:
    subject = f"peer {peer.name}"
    if not _host_resolves(peer.host):
        yield Result(
            subject,
            Outcome.FAILED,
            f"host {peer.host} is not known to this machine",
            "correct peers.host, or the name service",
        )
        return
    try:
        echo(peer, settings.node.ae_title)
    except PeerError as error:
        yield Result(subject, Outcome.FAILED, f"C-ECHO: {error}", error.remedy)
        return
    yield Result(subject, Outcome.OK, f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO")
    if any(peer.name in route.results_to for route in settings.routes):
        yield _acceptance(peer, settings)


def _host_resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _acceptance(peer: Peer, settings: Settings) -> Result:
    """Whether the peer takes what we send: SEG and Comprehensive 3D SR, Explicit VR LE."""
    subject = f"peer {peer.name}, results"
    contexts = [build_context(one, ExplicitVRLittleEndian) for one in RESULT_CLASSES]
    try:
        accepted = accepted_contexts(peer, settings.node.ae_title, contexts)
    except PeerError as error:
        return Result(subject, Outcome.FAILED, str(error), error.remedy)
    taken = {context.abstract_syntax for context in accepted}
    names = ", ".join(one.name for one in RESULT_CLASSES if one in taken)
    missing = ", ".join(one.name for one in RESULT_CLASSES if one not in taken)
    if missing:
        return Result(
            subject, Outcome.FAILED, f"does not accept {missing}", "enable it at the peer"
        )
    return Result(subject, Outcome.OK, f"accepts {names}, Explicit VR Little Endian")
