"""A model that does what `context` says, for tests of the process that it runs in."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from inference.assessment import Assessment, AssessmentRecord, Code, ModelIdentity, Segment, Text

HERE = "tests.inference.misbehaving"
POSITIVE = Code(value="1", scheme="99OVERREAD", meaning="positive")
IDENTITY = ModelIdentity(
    name="misbehaving",
    version="1",
    manufacturer="Overread",
    digest="0" * 64,
    demonstration=True,
    intended_use=Text(en="tests", zh="测试"),
)


def load_model(bundle_dir, settings):
    return Model()


def load_and_crash(bundle_dir, settings):
    os.abort()


def load_aborting(bundle_dir, settings):
    return Model("abort")


def load_hanging(bundle_dir, settings):
    return Model("hang")


def load_raising(bundle_dir, settings):
    return Model("raise")


def load_aborting_once(bundle_dir, settings):
    """`bundle_dir` is a file that is there once it has crashed."""
    if bundle_dir.exists():
        return Model()
    bundle_dir.touch()
    return Model("abort")


class Model:
    identity = IDENTITY
    provider = "CPUExecutionProvider"
    degraded = (Text(en="slower", zh="较慢"),)

    def __init__(self, usual="answer"):
        self.usual = usual

    def warm(self):
        pass

    def assess(self, volume, *, at, progress=None, context="", priors=(), with_probabilities=False):
        progress("looking")
        behaviour, _, argument = (context or self.usual).partition(" ")
        BEHAVIOURS[behaviour](argument)
        progress("writing")
        segment = Segment(number=1, label="positive", category=POSITIVE, type=POSITIVE)
        record = AssessmentRecord(
            model=IDENTITY, completed=True, segments=(segment,), assessed_at=at
        )
        if any(source for one in (volume, *priors) for source in one.sources):
            raise ValueError("a header came over")
        base = priors[0].grid.array if priors else 0
        return Assessment(record, {1: volume.grid.array > base})


def eat(_):
    eaten = []
    while True:
        eaten.append(np.ones(20_000_000))


def hang_with_a_child(path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    note(path, child.pid)
    time.sleep(1000)


def hang(path):
    if path:
        note(path, os.getpid())
    time.sleep(1000)


def hang_in_native_code(path):
    """As a library does that never returns and keeps the interpreter's lock."""
    note(path, os.getpid())
    ctypes.PyDLL(None).sleep(1000)


def note(path, number):
    part = Path(f"{path}.part")
    part.write_text(str(number))
    part.rename(path)


BEHAVIOURS = {
    "answer": lambda _: None,
    "abort": lambda _: os.abort(),
    "exit": lambda _: sys.exit(3),
    "hang": hang,
    "hang_with_a_child": hang_with_a_child,
    "hang_in_native_code": hang_in_native_code,
    "eat": eat,
    "raise": lambda name: {}[name],
}
