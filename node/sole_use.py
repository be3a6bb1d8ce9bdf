"""That a node is the only one here: its state folder and its ports are nobody else's."""

import fcntl
import os
import socket
from pathlib import Path

import structlog

from node.addresses import bracketed
from node.settings import Settings

log = structlog.get_logger()


def conflict(settings: Settings) -> str | None:
    """Take the state folder until this process ends; returns what is in the way of a node."""
    node = settings.node
    ports = [node.port] if settings.tls is None else [node.port, settings.tls.port]
    if not _take(node.state_dir):
        return (
            f"node.state_dir {node.state_dir} is another running node's; stop that one, "
            "or give this one a folder, a database and ports of its own"
        )
    if node.listener_processes > 1:  # the kernel tells one that is alone, but not those that share
        for reason in (port_refusal(node.host, port) for port in ports):
            if reason is not None:
                return f"{reason}; stop what uses it, or choose another port"
    return None


def port_refusal(host: str, port: int) -> str | None:
    """Return why a port of this machine cannot be bound anew; None where it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return f"{bracketed(host)}:{port} cannot be bound: {error.strerror}"
    return None


def _take(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)  # left open: the kernel closes it, however this ends
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError as error:  # some network file systems lock no folder
        remedy = "see to it that no other node uses node.state_dir"
        log.warning("state_dir.not_locked", reason=error.strerror, remedy=remedy)
    return True
