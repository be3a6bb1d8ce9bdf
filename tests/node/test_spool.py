"""The spool: what it acknowledges is there, whole, under a name that no UID can lead astray."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import durable
from node.spool import InstanceKey, InvalidUIDError, Spool, Stored, revision_of

KEY = InstanceKey("1.2.3", "1.2.3.4", "1.2.3.4.5")


def part10(dataset: bytes, *, sender: bytes = b"ONE ", syntax: bytes = b"1.2.840.10008.1.2\0"):
    meta = b"\x02\x00\x10\x00UI" + len(syntax).to_bytes(2, "little") + syntax
    meta += b"\x02\x00\x16\x00AE" + len(sender).to_bytes(2, "little") + sender
    group = b"\x02\x00\x00\x00UL\x04\x00" + len(meta).to_bytes(4, "little")
    return b"\0" * 128 + b"DICM" + group + meta + dataset


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def test_a_new_instance_lies_under_its_name(spool):
    assert spool.store(KEY, b"one", b"two") is Stored.NEW
    assert spool.path(KEY).read_bytes() == b"onetwo"
    assert spool.instances("1.2.3") == {"1.2.3.4": ("1.2.3.4.5",)}
    assert list(spool.studies()) == ["1.2.3"]


def test_the_same_bytes_again_are_dropped_whoever_sends_them(spool):
    spool.store(KEY, part10(b"pixels", sender=b"ONE "))
    assert spool.store(KEY, part10(b"pixels", sender=b"ANOTHER ")) is Stored.SAME
    assert spool.aside() == 0


def test_other_bytes_under_one_uid_are_kept_aside_and_change_nothing(spool):
    spool.store(KEY, part10(b"pixels"))
    assert spool.store(KEY, part10(b"others")) is Stored.CONFLICT
    assert spool.path(KEY).read_bytes() == part10(b"pixels")
    assert spool.aside() == 1
    assert spool.instances("1.2.3") == {"1.2.3.4": ("1.2.3.4.5",)}


def test_another_transfer_syntax_is_other_content(spool):
    spool.store(KEY, part10(b"pixels"))
    assert spool.store(KEY, part10(b"pixels", syntax=b"1.2.840.10008.1.2.1")) is Stored.CONFLICT


def test_one_instance_from_eight_associations_at_once_is_stored_once(spool):
    outcomes = []
    barrier = threading.Barrier(8)

    def send():
        barrier.wait()
        outcomes.append(spool.store(KEY, part10(b"pixels" * 1000)))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.value for outcome in outcomes) == ["new"] + ["same"] * 7


def test_a_full_disk_leaves_nothing_behind(spool, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        spool.store(KEY, b"bytes")
    assert not list(spool.root.rglob("*.dcm"))
    assert not list((spool.root / ".incoming").iterdir())


def test_the_bytes_are_synced_before_the_name_is_given_and_the_folder_after(spool, monkeypatch):
    order = []
    sync, link = os.fsync, os.link

    def watched_sync(descriptor):
        order.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def watched_link(source, target):
        order.append("link")
        link(source, target)

    monkeypatch.setattr(durable.os, "fsync", watched_sync)
    monkeypatch.setattr(os, "link", watched_link)
    spool.store(KEY, b"bytes")
    named = order.index("link")
    assert "/.incoming/" in order[0]
    assert str(spool.root) in order[:named], "the study's folder, in the folder that holds it"
    assert order[named + 1 :] == [str(spool.path(KEY).parent)]


def test_what_a_killed_process_was_writing_is_dropped_and_what_it_stored_is_there(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from node import spool as s
spool = s.Spool(Path({str(tmp_path)!r}) / "spool"); spool.prepare()
spool.store(s.InstanceKey("1.2", "1.2.3", "1.2.3.1"), b"acknowledged")
s.os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
spool.store(s.InstanceKey("1.2", "1.2.3", "1.2.3.2"), b"cut off")
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    spool = Spool(tmp_path / "spool")
    assert list((spool.root / ".incoming").iterdir())
    spool.prepare()
    assert not list((spool.root / ".incoming").iterdir())
    assert spool.instances("1.2") == {"1.2.3": ("1.2.3.1",)}


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "..",
        "../../etc/passwd",
        "1.2/3",
        "1.2\\3",
        "1..2",
        "1.2.",
        ".1",
        "1.2\0",
        "1" * 65,
        "1.2\n",
        "１.２",
        "1.2 ",
        "a.b",
    ],
)
def test_hostile_uids_never_become_a_path(hostile):
    for key in ((hostile, "1.2", "1.2"), ("1.2", hostile, "1.2"), ("1.2", "1.2", hostile)):
        with pytest.raises(InvalidUIDError) as refused:
            InstanceKey(*key)
        assert not hostile or hostile not in str(refused.value)


@given(st.text(max_size=70))
def test_whatever_passes_as_uid_is_a_plain_file_name(text):
    try:
        InstanceKey(text, text, text)
    except InvalidUIDError:
        return
    assert set(text) <= set("0123456789.")
    assert text.strip(".") == text
    assert 0 < len(text) <= 64


def test_the_revision_is_the_set_of_instances():
    one = {"1.1": ("1.1.1", "1.1.2"), "1.2": ("1.2.1",)}
    other = {"1.2": ("1.2.1",), "1.1": ("1.1.2", "1.1.1")}
    assert revision_of(one) == revision_of(other)
    assert revision_of(one) != revision_of({"1.1": ("1.1.1", "1.1.2")})
