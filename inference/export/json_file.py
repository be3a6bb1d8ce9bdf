"""The JSON files of a checkpoint, read with an error that says what to do."""

import json
from pathlib import Path
from typing import Any

from inference.export.graphs import ExportError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file of a checkpoint; raises ExportError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{path} is missing. Download the whole checkpoint folder.") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read ({error}). Download it again.") from error
    if not isinstance(found, dict):
        raise ExportError(f"{path} does not hold a JSON object. Download it again.")
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a file that a checkpoint may leave out; empty where it does."""
    return read_json(path) if path.is_file() else {}
