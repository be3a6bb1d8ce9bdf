"""What came is listed when the database is back, and its absence is told and not repeated."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from node import bookkeeper
from node.bookkeeper import Bookkeeper
from node.catalogue import Catalogue
from node.received import Received
from node.spool import InstanceKey, Spool
from tests.node.configuration import write_config
from tests.slices import grid_affine, write_slices
from tests.system.peers import await_true


@pytest.fixture
def database(tmp_path):
    return tmp_path / "overread.sqlite"


def received(number):
    return Received(
        key=InstanceKey("1.2", "1.2.3", f"1.2.3.{number}"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax="1.2.840.10008.1.2.1",
        calling_ae_title="PACS",
        received_at=datetime.now(UTC),
    )


def test_an_absence_of_the_database_is_told_once_and_its_return_too(tmp_path, database):
    catalogue = Catalogue(f"sqlite:///{database}")
    keeper = Bookkeeper(catalogue, Spool(tmp_path / "spool"))
    with closing(sqlite3.connect(database)) as connection, capture_logs() as logged:

        def events():
            return [one["event"] for one in logged if one["event"].startswith("catalogue.")]

        connection.execute("ALTER TABLE instances RENAME TO gone")
        keeper.start()
        keeper.note(received(1))
        await_true(lambda: "catalogue.unreachable" in events(), 60, "the absence to be told")
        keeper.note(received(2))
        keeper.join(timeout=2.5)  # meanwhile it tries again
        connection.execute("ALTER TABLE gone RENAME TO instances")
        await_true(lambda: "catalogue.reachable" in events(), 60, "the return to be told")
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (2,)
    assert events() == ["catalogue.unreachable", "catalogue.reachable"]
    keeper.stop()
    catalogue.close()


def test_what_is_too_much_to_remember_is_found_in_the_spool(tmp_path, database, monkeypatch):
    monkeypatch.setattr(bookkeeper, "_MOST_NOTED", 2)
    catalogue = Catalogue(f"sqlite:///{database}")
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    keeper = Bookkeeper(catalogue, spool)
    with closing(sqlite3.connect(database)) as connection, capture_logs() as logged:

        def is_told():
            return "catalogue.unreachable" in {one["event"] for one in logged}

        connection.execute("ALTER TABLE instances RENAME TO gone")
        keeper.start()
        keeper.note(received(0))
        await_true(is_told, 60, "the absence to be told")
        for path in write_slices(tmp_path / "scan", np.zeros((6, 16, 16), np.int16), grid_affine()):
            header = dcmread(path)
            uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
            spool.store(InstanceKey(*uids), path.read_bytes())
            keeper.note(replace(received(0), key=InstanceKey(*uids)))
        connection.execute("ALTER TABLE gone RENAME TO instances")

        def count():
            return connection.execute("SELECT count(*) FROM instances").fetchone()[0]

        await_true(lambda: count() == 7, 60, "all to be listed")
    keeper.stop()
    catalogue.close()


def test_a_role_that_finds_no_database_says_so_in_the_log(tmp_path):
    config = write_config(tmp_path, database_url="postgresql://overread@127.0.0.1:1/overread")
    command = [sys.executable, "-m", "node", "serve", "--config", str(config), "--role", "web"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    (said,) = (json.loads(line) for line in done.stderr.splitlines())
    assert (said["event"], said["role"]) == ("role.without_database", "web")
    assert "bring the database back" in said["remedy"]
