"""What STOW-RS acknowledges is there, whole, whatever kills the server.

OVERREAD_ROUNDS says how many rounds; each kills it at a random moment while four clients send:

    OVERREAD_ROUNDS=200 python -m pytest -s tests/system/test_stow_crashes.py
"""

import os
import random
import signal
import subprocess
import sys
import threading
from hashlib import sha256

import httpx2
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.settings import load_settings
from tests.node.dicomweb_server import MULTIPART, configure, http_client, multipart
from tests.slices import grid_affine, write_slices
from tests.system.peers import REPOSITORY, await_true

ROUNDS = int(os.environ.get("OVERREAD_ROUNDS", "2"))
IMAGES, CLIENTS, AT_ONCE = 96, 4, 4
PATIENCE = 300  # seconds for what takes two on an idle machine

pytestmark = pytest.mark.timeout(600 + 60 * ROUNDS)


class DicomwebProcess:
    def __init__(self, config):
        self.settings = load_settings(config)
        self._command = [sys.executable, "-m", "node", "serve", "--config", str(config)]
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            [*self._command, "--role", "dicomweb"],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await_true(self._answers, PATIENCE, "the server to start")

    def _answers(self):
        with http_client(self.settings) as client:
            try:
                return client.put("/studies").status_code == 405
            except httpx2.HTTPError:
                return False

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self):
        self._process.terminate()
        return self._process.wait(PATIENCE)


def send(images, settings, acknowledged):
    """Send images in requests of a few, over as many connections as there are clients."""

    def send_share(uids):
        try:
            with http_client(settings) as client:
                for at in range(0, len(uids), AT_ONCE):
                    files = [images[uid].read_bytes() for uid in uids[at : at + AT_ONCE]]
                    headers = {"Content-Type": MULTIPART}
                    answer = client.post("/studies", content=multipart(files), headers=headers)
                    module = Dataset.from_json(answer.text)
                    for one in module.get("ReferencedSOPSequence", []):
                        acknowledged.add(str(one.ReferencedSOPInstanceUID))
        except httpx2.HTTPError:
            return  # the server is dead

    uids = [uid for uid in images if uid not in acknowledged]
    threads = [
        threading.Thread(target=send_share, args=[uids[start::CLIENTS]]) for start in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    return threads


def held(settings):
    """SOP Instance UID -> digest of the pixel data of what lies under a final name."""
    paths = settings.spool_dir.glob("[0-9]*/*/*.dcm")
    return {path.stem: sha256(dcmread(path).PixelData).digest() for path in paths}


def test_what_was_acknowledged_survives_kill_and_a_retransmission_completes_it(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 4000, (IMAGES, 192, 192), np.int16)
    server = DicomwebProcess(configure(tmp_path))
    killed = 0
    for number in range(ROUNDS):
        paths = write_slices(tmp_path / f"scan{number}", pixels, grid_affine())
        images = {str(dcmread(path).SOPInstanceUID): path for path in paths}
        sent = {uid: sha256(dcmread(path).PixelData).digest() for uid, path in images.items()}
        acknowledged = set()
        threads = send(images, server.settings, acknowledged)
        share = random.random() * IMAGES
        while len(acknowledged) < share and any(thread.is_alive() for thread in threads):
            threads[0].join(0.001)
        server.kill()
        for thread in threads:
            thread.join()
        found = held(server.settings)
        assert acknowledged <= set(found)
        assert all(found[uid] == sent[uid] for uid in sent if uid in found)
        killed += len(acknowledged) < IMAGES
        server.start()
        assert not list((server.settings.spool_dir / ".incoming-dicomweb").iterdir())
        for thread in send(images, server.settings, acknowledged):
            thread.join()
        assert acknowledged == set(images)
        found = held(server.settings)
        assert {uid: found[uid] for uid in images} == sent
        print(f"{number + 1} rounds, {killed} of them killed while it was sent to", flush=True)
    assert not list((server.settings.spool_dir / ".aside").rglob("*.dcm"))
    assert server.stop() == 0
