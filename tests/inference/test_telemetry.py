"""Patient data stay home, and so does everything else: ONNX Runtime reports nothing."""

import os
import subprocess
import sys

CODE = """
from inference.bundle import find_bundle
from inference.model import load_model
from inference.providers import SessionSettings
load_model(find_bundle("builtin/head_ct"), SessionSettings())
"""


def test_loading_a_model_leaves_no_record_of_its_use(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", CODE], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
