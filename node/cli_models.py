"""`overread models`: convert a checkpoint to a bundle, look at bundles, try them on a series."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.table import Table

from inference.assessment import NotForThisModel, Text
from inference.bundle import (
    MANIFEST,
    PACKAGED,
    PACKAGED_PREFIX,
    Bundle,
    BundleError,
    find_bundle,
    load_bundle,
)
from inference.coding import is_checked
from inference.decoder import SequenceTooLongError
from inference.manifest import Manifest
from inference.model import Model, load_model
from inference.runtime import ModelMemoryError, RuntimeProviderError
from inference.volume import Volume
from node.assembly import assemble
from node.command_line import DEFAULT_CONFIG, ConfigOption, console, fail, files_of, settings_of
from node.settings import Settings
from sr_writer.wording import finding_line, percentage

app = typer.Typer(help="Model bundles: add, list, show, check, remove, ask.", no_args_is_help=True)

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
NameArgument = Annotated[str, typer.Argument(help="the bundle's name, as a route gives it")]
EXPORT_PACKAGES = ("torch", "transformers", "onnxscript", "onnxruntime_genai", "safetensors")
MODEL_ERRORS = (BundleError, ModelMemoryError, RuntimeProviderError, SequenceTooLongError)


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
    out = settings_of(config).models_dir / _valid(name)
    missing = [package for package in EXPORT_PACKAGES if find_spec(package) is None]
    if missing:
        fail(
            f"converting needs {', '.join(missing)}, which the node itself does not: "
            "pip install 'overread[export]', here or on another machine, and copy the bundle's "
            f"folder to {out.parent}"
        )
    # In a process of its own: it may need all the memory there is, and torch is not ours to load.
    command = [sys.executable, "-m", "inference.export", "--from", str(checkpoint)]
    command += ["--card", str(card), "--out", str(out)]
    command += ["--precision", precision, "--device", device]
    command += ["--vision-tower", str(vision_tower)] if vision_tower else []
    if subprocess.run(command, check=False).returncode:
        fail(f"{name} was not added")
    _print_codes(load_bundle(out).manifest)
    console.print(f"{name} is in {out}. Name it in a route, or try it: overread models ask {name}")


@app.command("list")
def list_bundles(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """List the bundles that routes can name."""
    settings = settings_of(config)
    rows = [_row(name, folder) for name, folder in _bundles(settings)]
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(rows) + b"\n")
        return
    table = Table("name", "model", "family", "precision", "findings", "MB", "state")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


@app.command()
def show(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print a bundle's manifest and digest as JSON."""
    bundle = _bundle(name, settings_of(config))
    shown = {"digest": bundle.digest} | bundle.manifest.model_dump(mode="json", exclude_none=True)
    sys.stdout.buffer.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2) + b"\n")


@app.command()
def check(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Verify a bundle's checksums and codes, and start its graphs as the worker would."""
    settings = settings_of(config)
    model = _model(name, settings)
    _print_codes(model.manifest)
    console.print(f"{name} is intact and runs on {model.provider}; digest {model.identity.digest}")
    for degraded in model.degraded:
        console.print(f"[yellow]degraded[/] {degraded.en}")


@app.command()
def remove(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Delete a bundle that was added and that no route names."""
    settings = settings_of(config)
    routes = [route.name for route in settings.routes if route.model == name]
    if routes:
        fail(f"{name} is the model of route {', '.join(routes)}; give that another model first")
    folder = settings.models_dir / _valid(name)
    if not (folder / MANIFEST).is_file():
        fail(f"{folder} is no bundle; only bundles that 'overread models add' made are removed")
    shutil.rmtree(folder)
    console.print(f"{name} is removed")


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
    volume = _volume(paths)
    priors = [_volume([path]) for path in prior or ()]
    model = _model(name, settings_of(config))
    try:
        if question:
            _free_questions(model, volume, priors, context, question)
            return
        assessment = model.assess(volume, at=datetime.now(UTC), context=context, priors=priors)
    except NotForThisModel as refusal:
        fail(refusal.reason.en)
    except MODEL_ERRORS as error:
        fail(str(error))
    record = assessment.record
    for finding in record.findings:
        console.print(finding_line(finding).en, highlight=False)
    if record.narrative is not None:
        console.print(f"model text, not verified: {record.narrative.en}", highlight=False)
    for limitation in record.limitations:
        console.print(f"limitation: {limitation.en}", style="yellow", highlight=False)


def _free_questions(
    model: Model, volume: Volume, priors: Sequence[Volume], context: str, questions: list[str]
) -> None:
    for reply in model.ask(volume, questions, context=context, priors=priors):
        share = percentage(reply.probability)
        console.print(f"{reply.question}\n  yes {share} (not calibrated); text: {reply.text}")


def _print_codes(manifest: Manifest) -> None:
    """Show what each label is called in the objects, and what is only the card's word."""
    for finding in manifest.findings:
        named = {"finding": finding.code, "site": finding.site}
        if finding.segment is not None:
            named |= {"category": finding.segment.category, "segment": finding.segment.type}
        for role, code in named.items():
            doubt = "" if is_checked(code) else " - [yellow]only by the card: check it[/]"
            what = f"{code.meaning} ({code.value}, {code.scheme})"
            console.print(f"{finding.name}, {role}: {what}{doubt}", highlight=False)


def _valid(name: str) -> str:
    if not re.match(NAME, name):
        fail(f"{name!r} is no name for a bundle: letters, digits, '.', '_' and '-', 64 at most")
    return name


def _bundles(settings: Settings) -> list[tuple[str, Path]]:
    found = [
        (PACKAGED_PREFIX + path.parent.name, path.parent) for path in PACKAGED.glob(f"*/{MANIFEST}")
    ]
    for folder in settings.bundle_dirs:
        found += [(path.parent.name, path.parent) for path in folder.glob(f"*/{MANIFEST}")]
    return sorted(found)


def _row(name: str, folder: Path) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "model": "", "family": "", "precision": ""}
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    row |= {"findings": 0, "mb": round(size, 1)}
    try:
        manifest = load_bundle(folder).manifest
    except BundleError as error:
        return row | {"state": str(error)}
    calibrated = all(finding.calibration for finding in manifest.findings)
    state = "demonstration" if manifest.demonstration else "intact"
    return row | {
        "model": f"{manifest.name} {manifest.version}",
        "family": manifest.family,
        "precision": manifest.decoder.precision,
        "findings": len(manifest.findings),
        "state": state if calibrated else f"{state}, not calibrated",
    }


def _bundle(name: str, settings: Settings) -> Bundle:
    try:
        return load_bundle(find_bundle(name, settings.bundle_dirs))
    except BundleError as error:
        fail(str(error))


def _model(name: str, settings: Settings) -> Model:
    try:
        return load_model(find_bundle(name, settings.bundle_dirs), settings.session)
    except MODEL_ERRORS as error:
        fail(str(error))


def _volume(paths: Sequence[Path]) -> Volume:
    assembled = assemble(tuple(file for path in paths for file in files_of(path)))
    if assembled.volume is None:
        reason = assembled.verdict.reason or Text(en="no volume", zh="")
        fail(f"{', '.join(map(str, paths))}: {reason.en}")
    return assembled.volume
