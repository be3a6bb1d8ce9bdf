"""A disk that fails, turns read-only or is over its quota: refused, told, and over by itself."""

import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from pydicom import dcmread
from starlette.testclient import TestClient

from node.catalogue import Catalogue
from node.check_result import Outcome
from node.listener import Listener
from node.preflight import preflight
from node.settings import load_settings
from node.web.application import create_app
from tests.node.configuration import write_config
from tests.node.test_listener import associate, spooled
from tests.slices import grid_affine, write_slices
from tests.system.peers import REPOSITORY, await_true

DISK_FAILS = "see the kernel's log, and replace it"
FAULTS = {  # and what is said to do about each
    "create EIO": DISK_FAILS,
    "write EIO": DISK_FAILS,
    "write EDQUOT": "quota",
    "write ENOSPC": "room",
    "fsync EIO": DISK_FAILS,
    "fsync LOST": DISK_FAILS,
    "fsyncdir EIO": DISK_FAILS,
    "link EIO": DISK_FAILS,
    "mkdir EIO": DISK_FAILS,
    "all EROFS": "mount it for writing",
}


class Faults:
    """What is to fail; the file system reads it."""

    def __init__(self, path):
        self._path = path

    def be(self, *lines):
        """Have these faults from now on, and no others."""
        new = self._path.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.replace(self._path)


@contextmanager
def failing_file_system(folder):
    """The spool of the node in `folder` lies on it; skips the test where that cannot be."""
    mounted, kept, told = folder / "state" / "spool", folder / "disk", folder / "faults"
    mounted.mkdir(parents=True, exist_ok=True)
    kept.mkdir()
    faults = Faults(told)
    faults.be()
    command = [sys.executable, "-m", "tests.system.failing_file_system"]
    process = subprocess.Popen(
        [*command, str(kept), str(mounted), str(told)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await_true(lambda: mounted.is_mount() or process.poll(), 60, "the file system")
        if process.poll() is not None:
            reason = process.stderr.read().strip().splitlines()[-1:]
            pytest.skip(f"no file system by FUSE (needs root, libfuse3-3, /dev/fuse): {reason}")
        yield faults
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=False, capture_output=True)
        process.wait(30)
        process.stderr.close()


class Node:
    def __init__(self, folder, faults):
        self.config = folder / "overread.toml"
        self.settings = load_settings(self.config)
        self.faults = faults
        self.listener = Listener(self.settings)
        self.listener.start()
        pages = create_app(self.settings, Catalogue(self.settings.database_url))
        self._pages = TestClient(pages, base_url="http://localhost")

    def alarms(self):
        health = self._pages.get("/healthz")
        alarms = health.json()["alarms"]
        assert health.status_code == (503 if alarms else 200)
        page = self._pages.get("/").text
        assert ("Alarm:" in page) == bool(alarms)
        return [f"{alarm['text']} {alarm['remedy']}" for alarm in alarms]

    def incoming(self):
        return list((self.settings.spool_dir / ".incoming").iterdir())


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    write_config(folder, min_free_gb=0)
    with failing_file_system(folder) as faults:
        node = Node(folder, faults)
        yield node
        node.listener.stop()


@pytest.fixture
def images(tmp_path):
    """Three images, of a study of their own."""
    pixels = np.random.default_rng(1).integers(-1000, 1000, (3, 96, 96), np.int16)
    return [dcmread(path) for path in write_slices(tmp_path / "scan", pixels, grid_affine())]


@pytest.fixture(autouse=True)
def is_mended(request):
    yield
    if "node" in request.fixturenames:
        request.getfixturevalue("node").faults.be()


def held(settings):
    return {path.stem: dcmread(path).PixelData for path in spooled(settings)}


def expect_whole(settings, images):
    sent = {image.SOPInstanceUID: image.PixelData for image in images}
    assert held(settings).items() <= sent.items()


@pytest.mark.parametrize("in_memory", [False, True], ids=["written as it comes", "in memory"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_answered_told_and_over_by_itself(node, images, fault, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr("node.reception.IN_MEMORY", 4000)
    for path in spooled(node.settings):
        path.unlink()
    association = associate(node.settings)
    node.faults.be(fault)
    for image in images[:2]:
        assert association.send_c_store(image).Status == 0xA700
    (alarm,) = node.alarms()
    assert FAULTS[fault] in alarm.lower()
    node.faults.be()
    expect_whole(node.settings, images)
    assert fault == "all EROFS" or not node.incoming()
    for image in images:
        assert association.send_c_store(image).Status == 0
    association.release()
    assert node.alarms() == []
    assert held(node.settings) == {image.SOPInstanceUID: image.PixelData for image in images}


def test_short_writes_are_completed(node, images):
    node.faults.be("write SHORT")
    association = associate(node.settings)
    for image in images:
        assert association.send_c_store(image).Status == 0
    association.release()
    assert (
        held(node.settings).items()
        >= {image.SOPInstanceUID: image.PixelData for image in images}.items()
    )


def test_a_fault_that_no_probe_meets_is_an_alarm_all_the_same(node, images, monkeypatch):
    association = associate(node.settings)
    node.faults.be("fsync LOST")
    assert association.send_c_store(images[0]).Status == 0xA700
    node.faults.be()
    (alarm,) = node.alarms()
    assert "Instances are refused" in alarm
    monkeypatch.setattr("node.disk.WORD_LASTS", 0.01)
    time.sleep(0.02)
    assert node.alarms() == []
    association.release()


def test_what_the_folder_lost_is_named_anew_by_the_retransmission(node, images):
    """The name was given before the folder's fsync failed; no later fsync is believed of it."""

    def place():
        (found,) = (node.config.parent / "disk").rglob(f"{images[0].SOPInstanceUID}.dcm")
        return found.stat().st_ino

    association = associate(node.settings)
    assert association.send_c_store(images[1]).Status == 0  # the folders are there
    node.faults.be("fsyncdir EIO")
    assert association.send_c_store(images[0]).Status == 0xA700
    before = place()
    node.faults.be()
    assert association.send_c_store(images[0]).Status == 0
    association.release()
    assert place() != before
    assert not node.incoming()


def test_what_could_not_be_listed_is_listed_when_it_can_be(tmp_path, images, monkeypatch):
    monkeypatch.setattr("node.bookkeeper._AFTER_TROUBLE", 0.1)
    write_config(tmp_path, min_free_gb=0)
    with failing_file_system(tmp_path) as faults:
        faults.be("readdir EIO")
        node = Node(tmp_path, faults)
        association = associate(node.settings)
        assert association.send_c_store(images[0]).Status == 0
        association.release()
        time.sleep(1)
        faults.be()
        catalogue = Catalogue(node.settings.database_url)
        await_true(catalogue.worklist, 60, "the study to be listed")
        node.listener.stop()


def test_a_listener_on_a_read_only_disk_says_so_when_it_starts(tmp_path, images, capsys):
    write_config(tmp_path, min_free_gb=0)
    with failing_file_system(tmp_path) as faults:
        node = Node(tmp_path, faults)
        node.listener.stop()
        faults.be("all EROFS")
        capsys.readouterr()
        node = Node(tmp_path, faults)
        said = "".join(capsys.readouterr())
        assert "spool.cannot_write" in said
        assert "Read-only file system" in said
        assert "mount it for writing" in said
        found = [one for one in preflight(node.config) if one.subject == "spool"]
        assert [(one.outcome, one.remedy) for one in found] == [
            (Outcome.FAILED, "mount it for writing; the kernel's log says why it is read-only now")
        ]
        association = associate(node.settings)
        assert association.send_c_store(images[0]).Status == 0xA700
        faults.be()
        assert association.send_c_store(images[0]).Status == 0
        association.release()
        assert node.alarms() == []
        node.listener.stop()
