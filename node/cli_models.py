"""`overread models`: convert a checkpoint to a bundle, look at bundles, try them on a series."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from node.command_line import DEFAULT_CONFIG, ConfigOption, JsonOption, settings_of

app = typer.Typer(help="Model bundles: add, list, show, check, remove, ask.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="the bundle's name, as a route gives it")]


class Device(StrEnum):
    """What the bundle's graphs are made for."""

    cpu = "cpu"
    cuda = "cuda"


class Weights(StrEnum):
    """How the decoder's weights are stored."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    int4 = "int4"


@app.command()
def add(
    name: NameArgument,
    checkpoint: Annotated[
        Path, typer.Option("--from", help="folder of the published checkpoint", exists=True)
    ],
    card: Annotated[Path, typer.Option(help="what to ask it: see config/models", exists=True)],
    vision_tower: Annotated[
        Path | None, typer.Option(help="folder of the image encoder, if published apart")
    ] = None,
    precision: Annotated[Weights, typer.Option(help="of the decoder's weights")] = Weights.int4,
    device: Annotated[Device, typer.Option(help="what the graphs are made for")] = Device.cpu,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Convert a checkpoint in its published layout to a bundle, and check it against torch."""
    from node.cli_bundles import add_bundle

    add_bundle(
        settings_of(config),
        name,
        checkpoint,
        card,
        vision_tower,
        precision=precision,
        device=device,
    )


@app.command("list")
def list_bundles(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """List the bundles that routes can name."""
    from node.cli_bundles import print_bundles

    print_bundles(settings_of(config), as_json=as_json)


@app.command()
def show(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print a bundle's manifest and digest as JSON."""
    from node.cli_bundles import print_bundle

    print_bundle(settings_of(config), name)


@app.command()
def check(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Verify a bundle's checksums and codes, and start its graphs as the worker would."""
    from node.cli_ask import check_model

    check_model(settings_of(config), name)


@app.command()
def remove(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Delete a bundle that was added and that no route names."""
    from node.cli_bundles import remove_bundle

    remove_bundle(settings_of(config), name)


@app.command()
def ask(
    name: NameArgument,
    paths: Annotated[list[Path], typer.Argument(help="the series' files or folder", exists=True)],
    question: Annotated[
        list[str] | None, typer.Option(help="free question; may be repeated")
    ] = None,
    prior: Annotated[
        list[Path] | None, typer.Option(help="folder of an earlier series, oldest first")
    ] = None,
    context: Annotated[str, typer.Option(help="indication and history, as text")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Ask a model about one series: its findings, or free questions."""
    from node.cli_ask import ask_model

    ask_model(settings_of(config), name, paths, question or (), prior or (), context=context)
