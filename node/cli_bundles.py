"""`overread models add`, `list`, `show` and `remove`: bundles as they lie in their folders."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import orjson
from rich.table import Table

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
from inference.manifest import Manifest
from node.command_line import console, fail
from node.settings import Settings

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
EXPORT_PACKAGES = ("torch", "transformers", "onnxscript", "onnxruntime_genai", "safetensors")


def add_bundle(
    settings: Settings,
    name: str,
    checkpoint: Path,
    card: Path,
    vision_tower: Path | None,
    *,
    precision: str,
    device: str,
) -> None:
    """Export a checkpoint into the folder of bundles; what torch and ONNX say is compared there."""
    out = settings.models_dir / _valid(name)
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
    print_codes(load_bundle(out).manifest)
    console.print(f"{name} is in {out}. Name it in a route, or try it: overread models ask {name}")


def print_bundles(settings: Settings, *, as_json: bool) -> None:
    """Print a line for each bundle that routes can name."""
    rows = [_row(name, folder) for name, folder in _bundles(settings)]
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(rows) + b"\n")
        return
    table = Table("name", "model", "family", "precision", "findings", "MB", "state")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


def print_bundle(settings: Settings, name: str) -> None:
    """Print digest and manifest."""
    bundle = _bundle(name, settings)
    shown = {"digest": bundle.digest} | bundle.manifest.model_dump(mode="json", exclude_none=True)
    sys.stdout.buffer.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2) + b"\n")


def remove_bundle(settings: Settings, name: str) -> None:
    """Delete a bundle; ends the command where a route names it, or it is none."""
    routes = [route.name for route in settings.routes if route.model == name]
    if routes:
        fail(f"{name} is the model of route {', '.join(routes)}; give that another model first")
    folder = settings.models_dir / _valid(name)
    if not (folder / MANIFEST).is_file():
        fail(f"{folder} is no bundle; only bundles that 'overread models add' made are removed")
    shutil.rmtree(folder)
    console.print(f"{name} is removed")


def print_codes(manifest: Manifest) -> None:
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
