"""The command line: which commands there are, and what they are given.

Each imports what it runs when it is run: the node's roles are started by this too, and what one of
them needs would be paid for by all, and by every command.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console

from node import cli_models
from node.command_line import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    console,
    fail,
    settings_of,
)
from node.dicomweb.settings import DicomwebClient, Permission
from node.dicomweb.tokens import digest_of, new_token
from node.settings import Settings

app = typer.Typer(
    help="Overread: a DICOM-native AI node. Every result is an unverified second opinion.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app, name="models")

PathsArgument = Annotated[
    list[Path], typer.Argument(help="files, or folders with files", exists=True)
]
PeerOption = Annotated[str | None, typer.Option(help="only those to this peer")]


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
    except Exception as error:
        from sqlalchemy.exc import OperationalError

        from node.database import SchemaError

        if not isinstance(error, (SchemaError, OperationalError)):
            raise
        Console(stderr=True).print(f"database: {_first_line_of(error)}", style="red", markup=False)
        sys.exit(1)


@app.command()
def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[Role | None, typer.Option(help="only this role, not all of them")] = None,
) -> None:
    """Run the node: DICOM listener, worker, status page, and DICOMweb where it is configured."""
    from node.observe import configure_logging
    from node.sole_use import conflict
    from node.supervisor import die_with_parent, supervise

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
    if role is None:
        reason = conflict(settings)
        if reason is not None:
            fail(reason)
        supervise(config, _roles(settings))
        return
    gc.disable()  # importing leaves no garbage behind
    run = runner_of(role)
    gc.freeze()  # what was imported stays: no collection need look at it, the one at exit neither
    gc.enable()
    with _telling_of_the_database():
        run(settings)


@contextmanager
def _telling_of_the_database() -> Iterator[None]:
    """Have a role end with a line in the log where its database is not what it needs."""
    import structlog
    from sqlalchemy.exc import OperationalError

    from node.database import SchemaError
    from node.remedies import CHECK_DATABASE

    try:
        yield
    except (SchemaError, OperationalError) as error:
        reason = _first_line_of(error)
        structlog.get_logger().error("role.without_database", reason=reason, remedy=CHECK_DATABASE)
        sys.exit(1)


def _first_line_of(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().splitlines()[0]


def runner_of(role: Role) -> Callable[[Settings], None]:
    """The function of a role, imported with all that it needs."""
    match role:
        case Role.listener:
            from node.listener import run_listener

            return run_listener
        case Role.worker:
            from node.worker import run_worker

            return run_worker
        case Role.web:
            from node.web.application import run_web

            return run_web
        case Role.dicomweb:
            from node.dicomweb.server import run_dicomweb

            return run_dicomweb


def _roles(settings: Settings) -> list[Role]:
    further = [Role.listener] * (settings.node.listener_processes - 1)
    return [one for one in Role if one is not Role.dicomweb or settings.dicomweb] + further


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say before going live whether it would work; exit code 0 only if all is well."""
    from node.check_result import Outcome
    from node.preflight import preflight

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
    paths: PathsArgument,
    to: Annotated[str, typer.Option(help="name of a configured peer, or AE@HOST:PORT")],
    config: ConfigOption = DEFAULT_CONFIG,
    calling: Annotated[str | None, typer.Option(help="AE title to call as")] = None,
) -> None:
    """Send files as a modality would (C-STORE)."""
    from node.cli_send import send_files

    send_files(paths, to, config, calling)


@app.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show studies and where each stands."""
    from node.catalogue import Catalogue
    from node.status import as_table, study_rows

    settings = settings_of(config)
    catalogue = Catalogue(settings.database_url)
    rows = study_rows(catalogue.worklist())
    if as_json:
        sys.stdout.buffer.write(orjson.dumps([row.as_dict() for row in rows]) + b"\n")
        return
    console.print(as_table(rows))


@app.command()
def deliveries(
    config: ConfigOption = DEFAULT_CONFIG,
    peer: PeerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what peers do not have yet, or have not committed: what waits and what was given up."""
    from node.cli_deliveries import show_deliveries

    show_deliveries(settings_of(config), peer, as_json=as_json)


@app.command()
def retry(
    study: Annotated[
        str | None, typer.Argument(help="Study Instance UID, as 'overread status' shows it")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    peer: PeerOption = None,
    all_deliveries: Annotated[
        bool, typer.Option("--all", help="whatever waits or was given up")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="send anew also what the peers have taken")
    ] = False,
) -> None:
    """Have deliveries tried again at once; with a study, have it looked at again as well."""
    from node.cli_deliveries import retry_deliveries

    retry_deliveries(settings_of(config), study, peer, all_deliveries=all_deliveries, again=again)


@app.command()
def volume(
    paths: PathsArgument,
    nifti: Annotated[
        Path | None, typer.Option(help="write the volume to this .nii or .nii.gz")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="draw three planes of it into this .png")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="point of the planes: X,Y,Z in mm, LPS; else the middle")
    ] = None,
    series: Annotated[str | None, typer.Option(help="only this Series Instance UID")] = None,
    stack: Annotated[
        str, typer.Option(help="which of several images at each position, as a route's stack rule")
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", envvar="OVERREAD_CONFIG", help=f"TOML file; {DEFAULT_CONFIG} if there"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what becomes of CT and MR series; write the volume as NIfTI, or a picture of it."""
    from node.cli_volume import assemble_files

    assemble_files(
        paths,
        nifti=nifti,
        picture=picture,
        at=at,
        series=series,
        stack=stack,
        config=config,
        as_json=as_json,
    )


@app.command()
def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="results and the CT or MR images that they are of: files, or folders with files",
            exists=True,
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check results as the gate does before sending, and by dciodvfy, DCMTK and PixelMed."""
    from node.cli_validate import validate_files

    validate_files(paths, as_json=as_json)


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
    from node.demo import run_demo

    raise typer.Exit(run_demo(out, keep=keep))
