"""The listener over real associations: what is acknowledged is on disk; the rest is refused."""

import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    ComprehensiveSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from node import store_scu
from node.catalogue import Catalogue
from node.listener import Listener
from node.settings import Peer, load_settings
from node.spool import Spool
from tests.node.configuration import write_config
from tests.slices import grid_affine, write_slices

DCMTK = pytest.mark.skipif(
    not Path("/usr/bin/storescu").exists(), reason="DCMTK is not installed (apt-get install dcmtk)"
)
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}  # Debian's DCMTK leaves Nagle's algorithm on


@pytest.fixture
def node(tmp_path):
    settings = load_settings(write_config(tmp_path, quiet_seconds=1))
    listener = Listener(settings)
    listener.start()
    yield settings
    listener.stop()


@pytest.fixture
def slices(tmp_path):
    pixels = np.arange(30 * 32 * 32, dtype=np.int16).reshape(30, 32, 32)
    return write_slices(tmp_path / "scan", pixels, grid_affine())


def as_peer(settings):
    return Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=settings.node.port)


def associate(settings, *, calling="PACS", called="OVERREAD", contexts=None):
    entity = AE(ae_title=calling)
    contexts = contexts or [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    return entity.associate("127.0.0.1", settings.node.port, contexts=contexts, ae_title=called)


def spooled(settings):
    return sorted(settings.spool_dir.glob("[0-9]*/*/*.dcm"))


def test_parallel_associations_are_all_acknowledged_and_all_on_disk(node, slices):
    instances = [store_scu.read_instance(path) for path in slices]
    answers = []

    def send(share):
        answers.extend(store_scu.send(share, as_peer(node), "PACS"))

    threads = [threading.Thread(target=send, args=[instances[start::6]]) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [0] * 30
    assert len(spooled(node)) == 30
    for path in spooled(node):
        sent = next(one for one in slices if dcmread(one).SOPInstanceUID == path.stem)
        assert dcmread(path).PixelData == dcmread(sent).PixelData


def test_a_deflated_instance_is_on_disk_as_it_was_sent(node, tmp_path):
    pixels = np.arange(32 * 32, dtype=np.int16).reshape(1, 32, 32)
    syntax = DeflatedExplicitVRLittleEndian
    sent = dcmread(write_slices(tmp_path, pixels, grid_affine(), transfer_syntax=syntax)[0])
    association = associate(node, contexts=[build_context(CTImageStorage, syntax)])
    assert association.send_c_store(sent).Status == 0
    association.release()
    (path,) = spooled(node)
    assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert dcmread(path).PixelData == pixels.tobytes()


def test_the_catalogue_hears_of_what_came(node, slices):
    store_scu.send([store_scu.read_instance(path) for path in slices], as_peer(node), "PACS")
    catalogue = Catalogue(node.database_url)
    deadline = time.monotonic() + 10
    while not (studies := catalogue.worklist()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert studies[0].uid == dcmread(slices[0]).StudyInstanceUID
    assert studies[0].series[0].modality == "CT"


@pytest.mark.parametrize(("calling", "called"), [("STRANGER", "OVERREAD"), ("PACS", "OTHER")])
def test_unknown_ae_titles_are_rejected_at_association(node, calling, called):
    association = associate(node, calling=calling, called=called)
    assert association.is_rejected


def test_strangers_are_let_in_where_configured(tmp_path):
    settings = load_settings(write_config(tmp_path, accept_unknown_peers=True))
    listener = Listener(settings)
    listener.start()
    try:
        association = associate(settings, calling="STRANGER")
        assert association.is_established
        association.release()
    finally:
        listener.stop()


def test_a_structured_report_is_declined_at_negotiation(node):
    association = associate(
        node, contexts=[build_context(ComprehensiveSRStorage), build_context(Verification)]
    )
    assert [one.abstract_syntax for one in association.accepted_contexts] == [Verification]
    association.release()


def test_bad_instances_are_refused_and_good_ones_on_the_same_association_are_not(node, slices):
    good = dcmread(slices[0])
    hostile = dcmread(slices[1])
    hostile.StudyInstanceUID = "1.2.../../../../tmp/x"
    no_image = dcmread(slices[2])
    del no_image.PixelData
    cut = dcmread(slices[3])
    cut.PixelData = cut.PixelData[:100]
    association = associate(node)
    statuses = [association.send_c_store(one).Status for one in (hostile, no_image, cut, good)]
    association.release()
    assert statuses == [0xC000, 0xC000, 0xC000, 0]
    assert [path.stem for path in spooled(node)] == [good.SOPInstanceUID]


@pytest.mark.parametrize("hostile", ["../../../../tmp/hostile", "1" * 80, "1.2.3/4"])
def test_a_hostile_uid_in_the_request_itself_gets_a_status(node, slices, hostile):
    bad = dcmread(slices[0])
    bad.SOPInstanceUID = hostile
    association = associate(node)
    response = association.send_c_store(bad)
    assert response.get("Status") == 0x0117
    assert association.send_c_store(dcmread(slices[1])).Status == 0
    association.release()


def test_the_same_instance_again_succeeds_and_another_under_its_uid_does_not(node, slices):
    association = associate(node)
    first, other = dcmread(slices[0]), dcmread(slices[1])
    other.SOPInstanceUID = first.SOPInstanceUID
    assert association.send_c_store(first).Status == 0
    assert association.send_c_store(first).Status == 0
    refused = association.send_c_store(other)
    association.release()
    assert refused.Status == 0x0111
    assert "kept aside" in refused.ErrorComment
    assert len(spooled(node)) == 1


def test_other_content_may_be_a_warning_and_is_kept_aside_all_the_same(tmp_path, slices):
    settings = load_settings(write_config(tmp_path, other_content="warn"))
    listener = Listener(settings)
    listener.start()
    try:
        association = associate(settings)
        first, other = dcmread(slices[0]), dcmread(slices[1])
        other.SOPInstanceUID = first.SOPInstanceUID
        assert association.send_c_store(first).Status == 0
        warned = association.send_c_store(other)
        association.release()
        assert warned.Status == 0xB000
        assert "kept aside" in warned.ErrorComment
        assert len(list(settings.spool_dir.glob(".aside/*/*/*.dcm"))) == 1
        (kept,) = spooled(settings)
        assert dcmread(kept).PixelData == first.PixelData
    finally:
        listener.stop()


def test_a_disk_below_the_watermark_refuses_and_recovers(tmp_path, slices):
    settings = load_settings(write_config(tmp_path, min_free_gb=1e6))
    listener = Listener(settings)
    listener.start()
    try:
        association = associate(settings)
        refused = association.send_c_store(dcmread(slices[0]))
        association.release()
    finally:
        listener.stop()
    assert refused.Status == 0xA700
    assert "min_free_gb" in refused.ErrorComment
    assert not spooled(settings)


@pytest.mark.peers
@DCMTK
def test_dcmtk_echoes_and_stores(node, slices):
    port = str(node.node.port)
    who = ["-aet", "PACS", "-aec", "OVERREAD", "127.0.0.1", port]
    subprocess.run(["/usr/bin/echoscu", *who], check=True, env=ENVIRONMENT)
    subprocess.run(
        ["/usr/bin/storescu", "+sd", *who, str(slices[0].parent)], check=True, env=ENVIRONMENT
    )
    assert len(spooled(node)) == 30
    stranger = ["-aet", "NOBODY", "-aec", "OVERREAD", "127.0.0.1", port]
    refused = subprocess.run(
        ["/usr/bin/echoscu", *stranger], check=False, env=ENVIRONMENT, capture_output=True
    )
    assert refused.returncode != 0


def test_what_a_crash_left_unlisted_is_listed_at_the_next_start(tmp_path, slices):
    settings = load_settings(write_config(tmp_path))
    listener = Listener(settings)
    listener.start()
    store_scu.send([store_scu.read_instance(path) for path in slices], as_peer(settings), "PACS")
    listener.stop()
    for file in settings.node.state_dir.glob("overread.sqlite*"):
        file.unlink()
    again = Listener(settings)
    again.start()
    again.stop()
    catalogue = Catalogue(settings.database_url)
    study = dcmread(slices[0]).StudyInstanceUID
    assert catalogue.unlisted(study, {"1.2": (generate_uid(),)})
    assert not catalogue.unlisted(study, Spool(settings.spool_dir).instances(study))


def test_a_result_that_a_pacs_sends_back_is_kept_and_starts_nothing(node, slices):
    """Else a secondary capture of ours, routed back, would be a new content of its study."""
    returned = dcmread(slices[0])
    returned.SoftwareVersions = ["1", "Overread 0.1.0"]
    association = associate(node)
    assert association.send_c_store(returned).Status == 0
    assert association.send_c_store(dcmread(slices[1])).Status == 0
    association.release()
    assert [path.stem for path in spooled(node)] == [dcmread(slices[1]).SOPInstanceUID]
    kept = list((node.spool_dir / ".returned").rglob("*.dcm"))
    assert [path.stem for path in kept] == [returned.SOPInstanceUID]
    Spool(node.spool_dir).remove_study(returned.StudyInstanceUID)
    assert not list((node.spool_dir / ".returned").rglob("*.dcm"))
