"""The command line: serve, check, send, status and demo; other commands are in `cli_*.py`."""

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.exc import OperationalError

from node import cli_deliveries, cli_models, cli_validate, cli_volume, store_scu
from node.catalogue import Catalogue
from node.check_result import Outcome
from node.command_line import DEFAULT_CONFIG, ConfigOption, console, fail, files_of, settings_of
from node.database import SchemaError
from node.dicomweb.access import digest_of, new_token
from node.dicomweb.settings import DicomwebClient, Permission
from node.observe import configure_logging
from node.preflight import preflight
from node.settings import Peer, TLSSettings
from node.status import as_table, study_rows
from node.supervisor import die_with_parent, supervise

app = typer.Typer(
    help="Overread: a DICOM-native AI node. Every result is an unverified second opinion.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app, name="models")
app.command()(cli_volume.volume)
app.command()(cli_validate.validate)
app.command()(cli_deliveries.deliveries)
app.command()(cli_deliveries.retry)


class Role(StrEnum):
    """What one process of the node does; the supervisor starts one of each."""

    listener = "listener"
    worker = "worker"
    web = "web"
    dicomweb = "dicomweb"


def main() -> None:
    """Entry point of the `overread` command."""
    try:
        app()
    except (SchemaError, OperationalError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        Console(stderr=True).print(f"database: {reason}", style="red", markup=False)
        sys.exit(1)


@app.command()
def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[Role | None, typer.Option(help="only this role, not all of them")] = None,
) -> None:
    """Run the node: DICOM listener, worker, status page, and DICOMweb where it is configured."""
    settings = settings_of(config)
    configure_logging(role or "supervisor")
    try:
        settings.node.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(
            f"node.state_dir {settings.node.state_dir} cannot be made: {error.strerror}; "
            "make it, and give it to the user that the node runs as"
        )
    die_with_parent()
    match role:
        case None:
            supervise(
                config, [one for one in Role if one is not Role.dicomweb or settings.dicomweb]
            )
        case Role.listener:
            from node.listener import run_listener  # noqa: PLC0415  # a role loads what it needs

            run_listener(settings)
        case Role.worker:
            from node.worker import run_worker  # noqa: PLC0415

            run_worker(settings)
        case Role.web:
            from node.web.application import run_web  # noqa: PLC0415

            run_web(settings)
        case Role.dicomweb:
            from node.dicomweb.server import run_dicomweb  # noqa: PLC0415

            run_dicomweb(settings)


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Say before going live whether it would work; exit code 0 only if all is well."""
    results = preflight(config)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps([result.as_dict() for result in results]) + b"\n")
    else:
        marks = {
            Outcome.OK: "[green]ok     [/]",
            Outcome.WARNING: "[yellow]warning[/]",
            Outcome.FAILED: "[red]FAILED [/]",
        }
        for result in results:
            console.print(
                f"{marks[result.outcome]} [bold]{result.subject}[/]: {result.text}", soft_wrap=True
            )
            if result.remedy:
                console.print(f"        -> {result.remedy}", soft_wrap=True)
    raise typer.Exit(any(result.outcome is Outcome.FAILED for result in results))


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="files, or folders with files", exists=True)],
    to: Annotated[str, typer.Option(help="name of a configured peer, or AE@HOST:PORT")],
    config: ConfigOption = DEFAULT_CONFIG,
    calling: Annotated[str | None, typer.Option(help="AE title to call as")] = None,
) -> None:
    """Send files as a modality would (C-STORE)."""
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


@app.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Show studies and where each stands."""
    settings = settings_of(config)
    catalogue = Catalogue(settings.database_url)
    rows = study_rows(catalogue.worklist())
    if as_json:
        sys.stdout.buffer.write(orjson.dumps([row.as_dict() for row in rows]) + b"\n")
        return
    console.print(as_table(rows))


@app.command()
def token(
    client: Annotated[str, typer.Argument(help="name of a DICOMweb client, up to 16 characters")],
    may: Annotated[list[Permission], typer.Option(help="what it may do")] = list(Permission),  # noqa: B006
) -> None:
    """Make a bearer token for a DICOMweb client, and what the configuration is to say of it."""
    secret = new_token()
    try:
        made = DicomwebClient(name=client, token_sha256=digest_of(secret), may=tuple(may))
    except ValidationError:
        fail("a client's name has up to 16 letters, digits, '.', '_' and '-'")
    console.print(f"# Give this to the client; it is shown only here:\n# {secret}", highlight=False)
    sys.stdout.write(
        f'[[dicomweb.clients]]\nname = "{made.name}"\ntoken_sha256 = "{made.token_sha256}"\n'
        f"may = {orjson.dumps(made.may).decode()}\n"
    )


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="leave the node and its status page up")] = False,
    out: Annotated[Path, typer.Option(help="where the results go")] = Path("demo"),
) -> None:
    """Play a PACS that routes a CT head study to a node, and show what comes back."""
    from node.demo import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(out, keep=keep))


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
