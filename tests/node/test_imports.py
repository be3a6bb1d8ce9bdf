"""What a process of the node loads: each role what it runs, a command what it needs."""

import subprocess
import sys

import pytest

from tests.system.peers import REPOSITORY

OF_MODELS = {"imagecodecs", "llguidance", "nibabel", "onnxruntime", "scipy.optimize", "tokenizers"}
OF_OBJECTS = {"fontTools", "fpdf", "highdicom", "pydicom.sr", "scipy"}
OF_HTTP = {"starlette", "uvicorn"}
LEFT_OUT = {
    "--help": {"numpy", "pydicom", "pynetdicom", "sqlalchemy", *OF_HTTP},
    "listener": {"dbos", "jinja2", *OF_MODELS, *OF_OBJECTS, *OF_HTTP},
    "worker": {"fpdf", "jinja2", *OF_MODELS, *OF_HTTP},
    "web": {"dbos", "pynetdicom", *OF_MODELS, *OF_OBJECTS},
    "dicomweb": {"dbos", "jinja2", "pynetdicom", *OF_MODELS, *OF_OBJECTS},
}
LOADED = """
import sys
from node.cli import Role, app, runner_of
if sys.argv[1] == "--help":
    app(["--help"], standalone_mode=False)
else:
    runner_of(Role(sys.argv[1]))
print(*sys.modules)
"""


@pytest.mark.parametrize("what", LEFT_OUT)
def test_a_role_or_command_loads_nothing_that_another_runs(what):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, what],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert f"node.{'command_line' if what == '--help' else 'catalogue'}" in loaded
    assert not loaded & LEFT_OUT[what]
