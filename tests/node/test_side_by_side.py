"""Several listener processes are one listener to peers: one port, one limit, one pace."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from pydicom import dcmread
from sqlalchemy import select

from node.admission import Seats
from node.catalogue import Catalogue
from node.settings import SettingsError, load_settings
from node.side_by_side import Share
from node.sole_use import conflict
from node.tables import Instance
from tests.node.configuration import write_config
from tests.node.listener_process import SupervisedListeners
from tests.node.test_listener import associate
from tests.slices import grid_affine, write_slices
from tests.system.peers import REPOSITORY, await_true

PROCESSES, MOST, OF_PEER = 2, 12, 3


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    config = write_config(
        folder, accept_unknown_peers=True, listener_processes=PROCESSES, max_associations=MOST
    )
    lines = f"max_associations = {OF_PEER}\nmax_mb_per_second = 1\n[[routes]]"
    config.write_text(config.read_text().replace("[[routes]]", lines))
    node = SupervisedListeners(config)
    yield node
    node.stop()


def opened(node, calling, count):
    """The associations that are let in of so many that are asked for."""
    asked = [associate(node.settings, calling=calling) for _ in range(count)]
    for one in asked:
        assert one.is_established or one.is_rejected
    return [one for one in asked if one.is_established]


def release(associations):
    for one in associations:
        one.release()


def test_associations_are_spread_over_the_processes(node):
    for _ in range(5):  # it is by chance: one in two thousand times all come to one of two
        held = opened(node, "ANYBODY", MOST)
        serving = node.serving()
        release(held)
        if len(serving) == PROCESSES:
            break
    assert len(serving) == PROCESSES


@pytest.mark.parametrize(("calling", "most"), [("ANYBODY", MOST), ("PACS", OF_PEER)])
def test_a_limit_of_associations_is_that_of_all_processes(node, calling, most):
    held = opened(node, calling, most + 4)
    assert len(held) == most
    release(held)
    again = opened(node, calling, most + 4)  # at once: who has just ended may come again
    assert len(again) == most
    release(again)


def test_a_process_that_dies_gives_back_its_seats_and_is_started_again(node):
    held = opened(node, "PACS", OF_PEER)
    killed = set(node.listening())
    for pid in killed:
        os.kill(int(pid), signal.SIGKILL)
    await_true(
        lambda: node.are_up() and not killed & set(node.listening()), 120, "the listeners' return"
    )
    for one in held:
        one.abort()
    again = opened(node, "PACS", OF_PEER + 2)
    assert len(again) == OF_PEER
    release(again)


def test_a_peer_is_paced_over_all_processes_and_what_it_sends_is_listed(node, tmp_path):
    pixels = np.random.default_rng(1).integers(-1000, 1000, (6, 512, 512), np.int16)
    images = [dcmread(path) for path in write_slices(tmp_path / "scan", pixels, grid_affine())]
    associations = [associate(node.settings) for _ in range(OF_PEER)]
    start = time.monotonic()
    for number, image in enumerate(images):  # 3.1 MB, of which one may come at once
        assert associations[number % OF_PEER].send_c_store(image).Status == 0
    assert time.monotonic() - start > 1.9
    release(associations)
    catalogue = Catalogue(node.settings.database_url)
    uids = {image.SOPInstanceUID for image in images}

    def are_listed():
        with catalogue.session() as session:
            return uids <= set(session.scalars(select(Instance.uid)))

    await_true(are_listed, 60, "the images to be listed")
    catalogue.close()


def test_what_fewer_processes_leave_half_written_is_dropped(tmp_path):
    config = write_config(tmp_path)
    left = tmp_path / "state" / "spool" / ".incoming-3"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    node = SupervisedListeners(config)
    assert not left.exists()
    node.stop()


TAKING = """
import sys
from pathlib import Path
from node.settings import load_settings
from node.sole_use import conflict
print(conflict(load_settings(Path(sys.argv[1]))), flush=True)
sys.stdin.read()
"""


def test_a_second_node_does_not_use_the_state_folder_of_the_first(tmp_path):
    config = write_config(tmp_path)
    first = subprocess.Popen(
        [sys.executable, "-c", TAKING, str(config)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "None\n"
    second = subprocess.run(
        [sys.executable, "-m", "node", "serve", "--config", str(config)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert second.returncode == 1
    assert "is another running node's" in " ".join(second.stderr.split())
    first.kill()
    first.wait(60)
    assert conflict(load_settings(config)) is None


def test_a_port_that_others_would_share_is_not_taken(tmp_path):
    config = write_config(tmp_path, listener_processes=2)
    settings = load_settings(config)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", settings.node.port))
        other.listen()
        reason = conflict(settings)
    assert f"127.0.0.1:{settings.node.port} cannot be bound" in reason


def test_pynetdicoms_own_upper_layer_has_one_process(tmp_path):
    config = write_config(
        tmp_path,
        database_url="postgresql://overread:secret@127.0.0.1/overread",
        listener_processes=2,
        upper_layer="pynetdicom",
    )
    with pytest.raises(SettingsError, match="one listener process") as raised:
        load_settings(config)
    assert "found {" not in str(raised.value)  # all of the section, the password too


class Lasting:
    """An association that goes on."""

    is_released = is_aborted = is_rejected = False

    def is_alive(self):
        return True


def test_who_is_turned_away_keeps_nobody_else_out(tmp_path):
    config = write_config(tmp_path, max_associations=2)
    config.write_text(config.read_text().replace("[[routes]]", "max_associations = 1\n[[routes]]"))
    settings = load_settings(config)
    seats, peer = Seats(settings, Share()), settings.peers[0]
    assert seats.excess(Lasting(), peer) is None
    assert "peer pacs has its max_associations" in seats.excess(Lasting(), peer)
    assert seats.excess(Lasting(), None) is None
    assert "node.max_associations" in seats.excess(Lasting(), None)
