"""What the listener acknowledges is there, whole, whatever kills it or fills its disk.

OVERREAD_ROUNDS says how many rounds; each kills the listener, or fills its disk, at a random moment
while four associations send. Every other time it is started as two processes. With pytest's -s each
round tells its counts:

    OVERREAD_ROUNDS=200 python -m pytest -s tests/system/test_intake_crashes.py
"""

import os
import random
import subprocess
import threading
import time
from collections import Counter
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import pytest
from pydicom import dcmread

from node import store_scu
from tests.node.configuration import write_config
from tests.node.listener_process import SupervisedListeners
from tests.slices import grid_affine, write_slices
from tests.system.peers import await_true

ROUNDS = int(os.environ.get("OVERREAD_ROUNDS", "4"))
IMAGES, SENDERS = 160, 4
PATIENCE = 300  # seconds for what takes two on an idle machine

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
    pytest.mark.timeout(600 + 60 * ROUNDS),
]


@contextmanager
def small_disk(folder, megabytes):
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def send(instances, peer):
    """Begin to send over four associations; returns the threads, and a set of what was taken."""
    acknowledged = set()

    def note(answer):
        if answer.status == 0:
            acknowledged.add(answer.instance.instance_uid)

    def send_share(share):
        try:
            store_scu.send(share, peer, "PACS", note)
        except (store_scu.PeerError, RuntimeError, OSError):
            return  # the listener is dead

    threads = [
        threading.Thread(target=send_share, args=[instances[start::SENDERS]])
        for start in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    return threads, acknowledged


def retransmit(instances, peer):
    """Send what was not acknowledged until all of it is, as any sender does."""
    left = instances

    def is_taken():
        nonlocal left
        threads, acknowledged = send(left, peer)
        for thread in threads:
            thread.join()
        left = [one for one in left if one.instance_uid not in acknowledged]
        return not left

    await_true(is_taken, PATIENCE, "the retransmission to be taken")


def await_share(share, threads, acknowledged):
    """Return when this share of the images is acknowledged, or nobody sends any more."""
    while len(acknowledged) < share * IMAGES and any(thread.is_alive() for thread in threads):
        time.sleep(0.001)


def held(settings):
    """SOP Instance UID -> digest of the pixel data of what lies under a final name."""
    found = {}
    for path in settings.spool_dir.glob("[0-9]*/*/*.dcm"):
        assert path.stem not in found
        found[path.stem] = sha256(dcmread(path).PixelData).hexdigest()
    return found


def test_what_is_acknowledged_is_held_whatever_happens(tmp_path):
    draw = random.Random(ROUNDS)
    pixels = np.random.default_rng(1).integers(-1000, 1000, (IMAGES, 128, 128), np.int16)
    paths = write_slices(tmp_path / "scan", pixels, grid_affine())
    instances = [store_scu.read_instance(path) for path in paths]
    sent = {
        header.SOPInstanceUID: sha256(header.PixelData).hexdigest()
        for header in map(dcmread, paths)
    }
    with small_disk(tmp_path / "state", 40) as disk:
        config = write_config(tmp_path, min_free_gb=0)
        listener = SupervisedListeners(config)
        counts = Counter()
        for number in range(ROUNDS):
            fault = "ENOSPC" if number % 2 else "kill -9"
            threads, acknowledged = send(instances, listener.peer)
            await_share(draw.random(), threads, acknowledged)
            under_load = any(thread.is_alive() for thread in threads)
            if number % 2:
                fill(disk)
            else:
                listener.kill()
            for thread in threads:
                thread.join()
            (disk / "ballast").unlink(missing_ok=True)
            now = held(listener.settings)
            lost = acknowledged - set(now)
            damaged = now.items() - sent.items()
            counts[fault] += 1
            counts["while sending"] += under_load
            counts["images"] += len(instances)
            counts["acknowledged before the fault hit"] += len(acknowledged)
            counts["acknowledged and lost"] += len(lost)
            counts["damaged under a final name"] += len(damaged)
            print(f"round {number + 1}, {fault}: {dict(counts)}", flush=True)
            assert not lost
            assert not damaged
            counts[f"with {listener.count} processes"] += 1
            if not number % 2:
                listener.start(3 - listener.count)
            retransmit(instances, listener.peer)
            assert held(listener.settings) == sent
            assert not list(listener.settings.spool_dir.glob(".incoming*/*"))
            for path in listener.settings.spool_dir.glob("[0-9]*/*/*.dcm"):
                path.unlink()  # so that the next round stores again
        listener.stop()


def fill(disk):
    """Leave next to no space."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"\0" * 65536)
        except OSError:
            return
