"""What all commands share: the configuration option, the console, how a command gives up."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from node.settings import Settings, SettingsError, load_settings

DEFAULT_CONFIG = Path("/etc/overread/overread.toml")
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="the TOML file", envvar="OVERREAD_CONFIG")
]
JsonOption = Annotated[bool, typer.Option("--json", help="for machines")]
console = Console()


def settings_of(config: Path) -> Settings:
    """The configuration; ends the command where it has mistakes."""
    try:
        return load_settings(config)
    except SettingsError as error:
        fail(str(error))


def fail(text: str) -> NoReturn:
    """End the command with exit code 1 and the reason."""
    Console(stderr=True).print(text, style="red", markup=False, highlight=False)
    raise typer.Exit(1)


def files_of(path: Path) -> list[Path]:
    """The file, or all files in the folder."""
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
