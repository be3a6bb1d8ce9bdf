"""A model that misbehaves under its step: tried again, failed with a remedy, or stopped."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from inference.phantom import HeadPhantom
from inference.process import ModelProcess
from inference.providers import Limits, SessionSettings
from node import steps
from node.resident_model import ResidentModel
from node.settings import load_settings
from node.steps import RunFailedError, Workbench, WorkerStoppingError
from tests.inference.conftest import scan
from tests.inference.misbehaving import HERE
from tests.node.configuration import write_config

RUN = SimpleNamespace(id="run", route="head")


@pytest.fixture(scope="module")
def assembled():
    head = scan(HeadPhantom(1, haemorrhage=False), (10, 32, 32), (5.0, 7.0, 7.0))
    return SimpleNamespace(volume=head.volume)


@pytest.fixture
def bench_with(tmp_path):
    benches = []

    def make(factory, seconds=60.0):
        class Misbehaving(ResidentModel):
            def of(self, _folder, settings, _limits, cancelled):
                self._process = ModelProcess(
                    tmp_path / "crashed",
                    SessionSettings(),
                    Limits(seconds, 0),
                    cancelled=cancelled,
                    factory=f"{HERE}:{factory}",
                )
                return self._process

        bench = Workbench(load_settings(write_config(tmp_path)), None, resident=Misbehaving())
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.resident.close()


def test_a_model_that_crashes_once_is_tried_again_and_the_log_says_so(bench_with, assembled):
    bench = bench_with("load_aborting_once")
    with capture_logs() as logs:
        assert steps._assessment(bench, RUN, assembled).record.completed
    ended = [entry for entry in logs if entry["event"] == "model.ended"]
    assert [(entry["attempt"], entry["log_level"]) for entry in ended] == [(1, "warning")]
    assert "SIGABRT" in ended[0]["reason"]
    assert [entry["reason"] for entry in logs if entry["event"] == "model.degraded"] == ["slower"]


@pytest.mark.parametrize(
    ("factory", "seconds", "reason", "remedy"),
    [
        ("load_aborting", 60, "after 2 of 2 tries: .* SIGABRT", "overread check"),
        ("load_hanging", 0.3, r"2 of 2 tries: .* within 0\.3 s", "inference.timeout_seconds"),
        (
            "load_raising",
            60,
            "after 1 of 2 tries: .* KeyError at misb",
            "report a defect",
        ),
    ],
)
def test_a_model_that_gives_no_answer_fails_the_run_with_a_remedy(
    bench_with, assembled, factory, seconds, reason, remedy
):
    with pytest.raises(RunFailedError, match=reason) as failed:
        steps._assessment(bench_with(factory, seconds), RUN, assembled)
    assert remedy in failed.value.remedy
    assert "overread retry" in failed.value.remedy


def test_a_worker_that_is_told_to_stop_does_not_wait_for_the_model(bench_with, assembled):
    bench = bench_with("load_hanging")
    bench.resident.of(None, None, None, None).close()  # imports are cached by the file system now
    threading.Timer(0.5, bench.stopping.set).start()
    began = time.monotonic()
    with pytest.raises(WorkerStoppingError):
        steps._assessment(bench, RUN, assembled)
    assert time.monotonic() - began < 2


def test_one_model_is_resident_and_another_replaces_it(monkeypatch):
    started = []

    class Started:
        def __init__(self, folder, *_, **__):
            self.folder, self.closed = folder, False
            started.append(self)

        def close(self):
            self.closed = True

    monkeypatch.setattr("node.resident_model.ModelProcess", Started)
    resident, settings, limits = ResidentModel(), SessionSettings(), Limits(1, 0)

    def ask(name):
        return resident.of(Path(name), settings, limits, lambda: False)

    assert ask("a") is ask("a")
    assert ask("b").folder == Path("b")
    assert [one.closed for one in started] == [True, False]
    resident.close()
    assert [one.closed for one in started] == [True, True]
