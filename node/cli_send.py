"""`overread send`: files on disk to a peer, as a modality would send them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer
from rich.progress import Progress

from node import store_scu
from node.command_line import console, fail, files_of, settings_of
from node.settings import Peer, TLSSettings


def send_files(paths: Sequence[Path], to: str, config: Path, calling: str | None) -> NoReturn:
    """Send what of the files is DICOM, say what was not taken, and end the command."""
    peer, own_title, tls = _destination(to, config)
    files = [file for path in paths for file in files_of(path)]
    instances, unreadable = [], []
    for file in files:
        try:
            instances.append(store_scu.read_instance(file))
        except ValueError as error:
            unreadable.append(str(error))
    for line in unreadable:
        console.print(f"[yellow]skipped[/] {line}")
    if not instances:
        fail("nothing to send: no DICOM Part 10 file among what was given")
    with Progress(console=console) as progress:
        task = progress.add_task(f"to {peer.name}", total=len(instances))
        try:
            answers = store_scu.send(
                instances,
                peer,
                calling or own_title,
                lambda _answer: progress.advance(task),
                tls=tls,
            )
        except store_scu.PeerError as error:
            fail(f"{error}; {error.remedy}")
    refused = [answer for answer in answers if not answer.taken]
    for answer in refused:
        console.print(f"[red]{answer.status:04X}[/] {answer.instance.path.name} {answer.comment}")
    console.print(f"{len(answers) - len(refused)} of {len(answers)} taken by {peer.name}")
    raise typer.Exit(bool(refused))


def _destination(to: str, config: Path) -> tuple[Peer, str, TLSSettings | None]:
    """The peer to send to, the AE title to call as, and what TLS needs."""
    written_out = re.fullmatch(r"(?P<title>[^@]{1,16})@(?P<host>[^@]+):(?P<port>\d{1,5})", to)
    if written_out and 0 < (port := int(written_out["port"])) < 65536:
        title = written_out["title"]
        peer = Peer(name=title, ae_title=title, host=written_out["host"], port=port)
        return peer, "OVERREAD", None
    settings = settings_of(config)
    try:
        return settings.peer(to), settings.node.ae_title, settings.tls
    except KeyError as error:
        fail(f"{error.args[0]}; or give AE@HOST:PORT")
