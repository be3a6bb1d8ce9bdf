"""The outside judges of what we write, as the node's `overread validate` asks them."""

import subprocess
from pathlib import Path

from node.outside_validators import DCIODVFY, DSRDUMP, PIXELMED, program


def dciodvfy_missing() -> str | None:
    """Say what has to be installed, if anything."""
    return DCIODVFY.missing()


def dsrdump_missing() -> str | None:
    """Say what has to be installed, if anything."""
    return DSRDUMP.missing()


def pixelmed_missing() -> str | None:
    """Say what has to be installed, if anything."""
    return PIXELMED.missing()


def dciodvfy(path: Path) -> list[str]:
    """Return what dciodvfy says that is not argued, errors and warnings."""
    return list(DCIODVFY.opinion([path]).problems)


def pixelmed_errors(path: Path) -> list[str]:
    """Return the errors of PixelMed's SR validator that are not known to be false, in 7 s."""
    return [line for line in PIXELMED.opinion([path]).problems if line.startswith("Error")]


def dsrdump(path: Path) -> str:
    """Return the document as DCMTK reads it; raises CalledProcessError where it does not."""
    done = subprocess.run(
        [program("dsrdump") or "dsrdump", "+Pc", "+Pl", "+U8", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr
