import gc
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.bundle import BUILTIN, BundleError, find_bundle
from inference.model_errors import ModelMemoryError, RuntimeProviderError
from inference.process import (
    ModelCancelledError,
    ModelCrashedError,
    ModelFailedError,
    ModelProcess,
    ModelTimeoutError,
)
from inference.providers import Limits, SessionSettings
from tests.inference.conftest import AT
from tests.inference.misbehaving import HERE, IDENTITY

ONE_THREAD = SessionSettings(threads=1)
NOWHERE = Path("/nowhere")
UNBOUNDED = Limits(seconds=60, memory_gb=0)


def start(factory="load_model", *, seconds=60.0, memory_gb=0.0):
    limits = Limits(seconds, memory_gb)
    return ModelProcess(NOWHERE, ONE_THREAD, limits, factory=f"{HERE}:{factory}")


@pytest.fixture(scope="module")
def process():
    with closing(start()) as process:
        yield process


def gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # dead, and not yet waited for


def await_true(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def open_files():
    gc.collect()  # what earlier tests left open
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_built_in_model_says_the_same_as_in_this_process(bleeding, bleeding_assessment):
    doing = []
    with closing(ModelProcess(find_bundle(BUILTIN), ONE_THREAD, UNBOUNDED)) as process:
        found = process.assess(
            bleeding.volume, at=AT, with_probabilities=True, progress=doing.append
        )
        assert found.record == bleeding_assessment.record
        assert process.identity == found.record.model
        assert process.provider == found.record.provider
    assert (doing[0], doing[-1]) == ("looking", "writing")
    for number, mask in bleeding_assessment.masks.items():
        np.testing.assert_array_equal(found.masks[number], mask)
        np.testing.assert_array_equal(found.probabilities[number] > 127, mask)
    assert not bleeding_assessment.probabilities


def test_volume_and_context_go_over_and_progress_and_masks_come_back(process, bleeding):
    doing = []
    found = process.assess(bleeding.volume, at=AT, progress=doing.append, context="answer")
    np.testing.assert_array_equal(found.masks[1], bleeding.volume.grid.array > 0)
    assert doing == ["looking", "writing"]
    assert (process.identity, found.record.assessed_at) == (IDENTITY, AT)
    assert process.degraded[0].en == "slower"


def test_priors_go_over_and_no_header_does(process, bleeding):
    bleeding.volume.sources[0].PatientName = "Mustermann^Erika"
    grid = bleeding.volume.grid
    prior = replace(bleeding.volume, grid=grid.with_array(np.full_like(grid.array, 50)))
    found = process.assess(bleeding.volume, at=AT, priors=[prior])
    np.testing.assert_array_equal(found.masks[1], grid.array > 50)
    assert bleeding.volume.sources[0].PatientName == "Mustermann^Erika"


@pytest.mark.parametrize(
    ("context", "error", "text"),
    [
        ("abort", ModelCrashedError, "SIGABRT"),
        ("exit", ModelCrashedError, "exit status 3"),
        ("raise Mustermann^Erika", ModelFailedError, "KeyError at misbehaving.py:"),
    ],
)
def test_a_model_that_ends_costs_one_try(process, bleeding, context, error, text):
    process.assess(bleeding.volume, at=AT)
    before = open_files()
    with pytest.raises(error, match=text) as raised:
        process.assess(bleeding.volume, at=AT, context=context)
    assert "Mustermann" not in str(raised.value)
    assert open_files() < before  # the connection; the volume's memory is not kept either
    assert process.assess(bleeding.volume, at=AT).record.completed
    assert open_files() == before


def test_a_model_that_hangs_is_killed_with_its_children(bleeding, tmp_path):
    note = tmp_path / "pid"
    with closing(start(seconds=0.5)) as process:
        began = time.monotonic()
        with pytest.raises(ModelTimeoutError, match=r"within 0\.5 s"):
            process.assess(bleeding.volume, at=AT, context=f"hang_with_a_child {note}")
        assert time.monotonic() - began < 1.5
        await_true(lambda: gone(int(note.read_text())), 2)
        assert process.assess(bleeding.volume, at=AT).record.completed


def test_an_assessment_that_is_not_wanted_any_more_ends_at_once(process, bleeding, tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(ModelCancelledError):
        process.assess(bleeding.volume, at=AT, cancelled=note.exists, context=f"hang {note}")
    assert gone(int(note.read_text()))


def test_a_model_that_eats_memory_is_stopped_at_its_limit(bleeding):
    with closing(start(memory_gb=1)) as process:
        with pytest.raises(ModelMemoryError, match=r"at \w+\.py:.*Raise inference\.memory_gb"):
            process.assess(bleeding.volume, at=AT, context="eat")
        assert process.assess(bleeding.volume, at=AT).record.completed


def test_a_model_that_does_not_fit_is_refused_when_it_is_loaded():
    with pytest.raises(ModelMemoryError, match=r"Raise inference\.memory_gb"):
        ModelProcess(find_bundle(BUILTIN), ONE_THREAD, Limits(60, 0.1))


def test_a_model_that_crashes_while_it_is_loaded_says_so():
    with pytest.raises(ModelCrashedError, match="SIGABRT"):
        start("load_and_crash")


def test_what_is_wrong_with_a_bundle_comes_over_as_it_is():
    with pytest.raises(BundleError, match=r"/nowhere/manifest\.json: cannot be read"):
        ModelProcess(NOWHERE, ONE_THREAD, UNBOUNDED)


def test_a_provider_that_is_missing_comes_over_as_it_is():
    with pytest.raises(RuntimeProviderError, match="CUDA cannot be used") as raised:
        ModelProcess(find_bundle(BUILTIN), SessionSettings(provider="cuda"), UNBOUNDED)
    assert raised.value.remedy.startswith("pip install")


PARENT = f"""
import sys
from pathlib import Path
from inference.process import ModelProcess
from inference.providers import Limits, SessionSettings
from tests.inference.conftest import AT, scan, HeadPhantom
process = ModelProcess(
    Path("/nowhere"), SessionSettings(), Limits(60, 0), factory="{HERE}:load_model"
)
volume = scan(HeadPhantom(1, haemorrhage=False), (10, 32, 32), (5.0, 7.0, 7.0)).volume
process.assess(volume, at=AT, context=sys.argv[1])
"""


@pytest.mark.parametrize("hang", ["hang", "hang_in_native_code"])
def test_the_process_ends_with_a_parent_that_is_killed(tmp_path, hang):
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, f"{hang} {note}"])
    try:
        await_true(note.exists, 60)
        child = int(note.read_text())
        assert not gone(child)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    await_true(lambda: gone(child), 2)
