"""Files that a power cut cannot take back."""

import os
from pathlib import Path


def write_new(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file that must not exist yet, and return when its bytes are on the disk.

    Its name is durable only after `fsync_folder` on the folder that holds it.
    """
    with path.open("xb") as file:  # BufferedWriter completes short writes or raises
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Give `path` this content in one step: a reader finds the old or the new, whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    write_new(partial, content)
    partial.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
