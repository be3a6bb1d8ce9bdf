"""Logs: what happened and where, and no patient data from libraries' messages."""

import json
import subprocess
import sys

CODE = """
import logging, warnings
from node.observe import configure_logging
import structlog
configure_logging("worker")
log = structlog.get_logger()
def read():
    raise ValueError("invalid value for PatientName: SECRET^NAME")
try:
    try:
        read()
    except ValueError as error:
        raise RuntimeError("while reading SECRET^NAME") from error
except RuntimeError:
    log.exception("run.failed", run="abc")
    logging.getLogger("library").exception("library.failed")
warnings.warn("SECRET^NAME is unlikely to be a name")
logging.getLogger("pydicom").warning("SECRET^NAME")
"""


def test_tracebacks_say_what_and_where_but_not_whose():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert "SECRET" not in done.stderr
    assert "SECRET" not in done.stdout
    ours, library = (json.loads(line) for line in done.stderr.splitlines())
    assert ours["event"] == "run.failed"
    assert [one["type"] for one in ours["exception"]] == ["RuntimeError", "ValueError"]
    assert "read" in ours["exception"][1]["where"][-1]
    assert ours["role"] == library["role"] == "worker"
    assert library["logger"] == "library"
