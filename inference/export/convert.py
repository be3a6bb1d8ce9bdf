"""A checkpoint and its card to a bundle that has been read back, verified and run once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal

from pydantic import ValidationError

from inference.bundle import Bundle, digests, load_bundle, write_manifest
from inference.export import llava, m3d_lamed
from inference.export.card import Card
from inference.export.checkpoint import Checkpoint
from inference.export.converted import Converted
from inference.export.graphs import ExportError
from inference.manifest import Manifest, Origin, Precision, Preprocessing
from inference.model import load_model
from inference.providers import SessionSettings

EXPORTERS: tuple[ModuleType, ...] = (llava, m3d_lamed)
"""Each has `recognises(config)` and `convert(checkpoint, out, precision, device, tell)`."""

PARTIAL = ".partial"


def convert_checkpoint(
    checkpoint: Checkpoint,
    card: Card,
    out: Path,
    *,
    precision: Precision,
    device: Literal["cpu", "cuda"],
    tell: Callable[[str], None],
) -> Bundle:
    """Write the bundle `out`, which appears only when it is whole; raises ExportError."""
    if out.exists():
        raise ExportError(f"{out}: is there already. Remove it first, or give another name.")
    exporter = _exporter(checkpoint)
    partial = out.with_name(f".{out.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        converted: Converted = exporter.convert(checkpoint, partial, precision, device, tell)
        tell("digest of the checkpoint")
        manifest = _manifest(card, converted, checkpoint, partial)
        write_manifest(manifest, partial)
        tell("reading the bundle back")
        load_bundle(partial)
        if device == "cpu":
            load_model(partial, SessionSettings())
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_bundle(out)


def _exporter(checkpoint: Checkpoint) -> ModuleType:
    for exporter in EXPORTERS:
        if exporter.recognises(checkpoint.config):
            return exporter
    kind = checkpoint.config.get("model_type", "no model_type")
    raise ExportError(
        f"{checkpoint.folder}: {kind} is of no known family. Known are the published layouts in "
        "docs/models.md, which also says how to add one."
    )


def _manifest(card: Card, converted: Converted, checkpoint: Checkpoint, folder: Path) -> Manifest:
    return Manifest(
        format=2,
        family=converted.family,
        name=card.name,
        version=card.version,
        manufacturer=card.manufacturer,
        licence=card.licence,
        demonstration=card.demonstration,
        intended_use=card.intended_use,
        statement=card.statement,
        files=digests(folder),
        preprocessing=_preprocessing(card, converted),
        splice=converted.splice,
        prompts=converted.prompts,
        decoder=converted.decoder,
        findings=card.findings,
        origin=Origin(
            source=f"{checkpoint.folder.name}, SHA-256 {checkpoint.digest()}",
            tools=converted.tools,
            parity_error=converted.parity_error,
        ),
    )


def _preprocessing(card: Card, converted: Converted) -> Preprocessing:
    preprocessing = converted.preprocessing
    try:
        return type(preprocessing).model_validate(preprocessing.model_dump() | card.preprocessing)
    except ValidationError as error:
        raise ExportError(f"the card's preprocessing is not right: {error}") from error
