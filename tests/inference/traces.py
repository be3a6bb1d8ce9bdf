"""What a file says of the machine that it was made on."""

import re
from pathlib import Path

_ROOTS = b"builds|data|home|mnt|opt|private|root|srv|tmp|usr|Users|var|work|workspace"
_PLACE = re.compile(rb"/(?:%s)/[\w.-]{3,}|[\w/-]{4,}\.py\b|site-packages" % _ROOTS)
_TRACE = re.compile(rb"Traceback|stack_trace|File \"")


def traces_in(path: Path) -> list[bytes]:
    """Absolute paths and stack traces in a graph; nodes may have names such as /model/layers."""
    content = path.read_bytes()
    return [found.group() for pattern in (_PLACE, _TRACE) for found in pattern.finditer(content)]
