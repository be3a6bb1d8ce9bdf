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


def test_what_pydicom_says_of_a_value_is_not_repeated_whenever_it_is_imported():
    code = """
from node.observe import configure_logging
configure_logging("listener")
from pydicom import Dataset
asked = Dataset()
asked.TransactionUID = "SECRET^NAME"
str(asked)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SECRET" not in done.stderr + done.stdout


def test_dbos_logs_as_all_others_do_and_without_the_values_of_its_statements():
    code = """
from node.observe import configure_logging
configure_logging("worker")
import logging, dbos
log = logging.getLogger("dbos")
log.info("said every second")
log.warning("database is locked\\n[parameters: ('SECRET^NAME',)]")
try:
    raise ValueError("SECRET^NAME")
except ValueError:
    log.exception("a step failed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SECRET" not in done.stderr + done.stdout
    locked, failed = (json.loads(line) for line in done.stderr.splitlines())
    assert (locked["event"], locked["logger"]) == ("database is locked", "dbos")
    assert failed["exception"][0]["type"] == "ValueError"
