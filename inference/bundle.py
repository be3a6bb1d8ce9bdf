"""A model bundle on disk: one folder with a manifest, ONNX graphs and a tokenizer, all checksummed.

A bundle that is not exactly what its manifest says is refused, with the file and what to do.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from inference.assessment import ModelIdentity
from inference.manifest import Manifest, mistakes_of, scored_by

MANIFEST = "manifest.json"
VISION, EMBED, SEGMENT, TOKENIZER = "vision.onnx", "embed.onnx", "seg.onnx", "tokenizer.json"
PACKAGED = Path(__file__).parent / "builtin"
PACKAGED_PREFIX = "builtin/"
BUILTIN = "builtin/head_ct"


class BundleError(Exception):
    """A bundle that cannot be used: which file, what is wrong, what to do."""


def decoder_file(precision: str) -> str:
    """Name of the decoder graph of a precision."""
    return f"decoder.{precision}.onnx"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked against its manifest."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def identity(self) -> ModelIdentity:
        """Who speaks; the digest covers the manifest and every file."""
        manifest = self.manifest
        return ModelIdentity(
            name=manifest.name,
            version=manifest.version,
            manufacturer=manifest.manufacturer,
            digest=self.digest,
            demonstration=manifest.demonstration,
            intended_use=manifest.intended_use,
        )

    def file(self, name: str) -> Path:
        """Path of a file of the bundle."""
        return self.folder / name


def load_bundle(folder: Path) -> Bundle:
    """Read and verify the bundle in `folder`; raises BundleError."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}). Give the folder of a model bundle."
        ) from error
    try:
        manifest = Manifest.model_validate(json.loads(content))
    except ValidationError as error:
        raise BundleError(
            f"{path}: not a valid manifest: {mistakes_of(error)}. Correct it, or the card and add "
            "the model again."
        ) from error
    except ValueError as error:
        raise BundleError(f"{path}: not a valid manifest: {error}. Add the model again.") from error
    digest = hashlib.sha256(content)
    required = (VISION, EMBED, decoder_file(manifest.decoder.precision), TOKENIZER)
    missing = [name for name in required if name not in manifest.files]
    if missing:
        raise BundleError(f"{path}: lists no {', '.join(missing)}. Export the bundle again.")
    for name in sorted(manifest.files):
        digest.update(_verified(folder, name, manifest.files[name]).encode())
    _check_calibration(path, manifest)
    return Bundle(folder=folder, manifest=manifest, digest=digest.hexdigest())


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json`; the digest of the bundle covers these very bytes."""
    text = manifest.model_dump_json(indent=1, exclude_none=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a bundle but its manifest."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def find_bundle(name: str, search_paths: Sequence[Path] = ()) -> Path:
    """Folder of the bundle `name`: packaged ("builtin/head_ct"), or under one of `search_paths`."""
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise BundleError(f"{name!r} is not a bundle's name; give a name such as {BUILTIN!r}.")
    if name.startswith(PACKAGED_PREFIX):
        candidates = [PACKAGED / name.removeprefix(PACKAGED_PREFIX)]
    else:
        candidates = [path / name for path in search_paths]
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return folder
    looked = ", ".join(str(folder) for folder in candidates) or "nowhere: no search path is set"
    raise BundleError(
        f"no bundle {name!r} (looked in {looked}). Use {BUILTIN!r} or add its folder."
    )


def _verified(folder: Path, name: str, expected: str) -> str:
    """The file's SHA-256 once it is known to be as expected and a plain file in the folder."""
    path = folder / name
    if name != Path(name).name or "\\" in name or name in {"", ".", "..", MANIFEST}:
        raise BundleError(
            f"{folder / MANIFEST}: file name {name!r} leads out of the bundle. "
            "Do not use this bundle; get it again from its source."
        )
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path}: missing or not a plain file. Copy the whole bundle again.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.lower():
        raise BundleError(
            f"{path}: SHA-256 is {found}, the manifest says {expected}: damaged or changed. "
            "Copy the whole bundle again."
        )
    return found


def _check_calibration(path: Path, manifest: Manifest) -> None:
    for finding in manifest.findings:
        calibration = finding.calibration
        if calibration is not None and calibration.scored_by != scored_by(manifest, finding):
            raise BundleError(
                f"{path}: the calibration of {finding.name} was fitted on another model, prompt or "
                "preprocessing. Calibrate this bundle again, or take the calibration out."
            )
