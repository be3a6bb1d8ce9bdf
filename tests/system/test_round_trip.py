"""A study comes in from a PACS and its assessment goes back into it: real peers, whole way."""

import io

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from inference.assessment import Presence
from node.catalogue import Catalogue
from node.completeness import run_id_of
from node.holdings import Holdings, Level
from node.run_folder import RunFolder
from node.store_scu import read_instance, send
from node.tables import RunState
from tests.node.configuration import free_ports, write_config
from tests.sr_writer.validators import (
    dciodvfy,
    dciodvfy_missing,
    pixelmed_errors,
    pixelmed_missing,
)
from tests.system.documents import reports
from tests.system.peers import (
    REPOSITORY,
    Node,
    Orthanc,
    Storescp,
    await_true,
    needs_dcmtk,
    needs_orthanc,
    needs_postgresql,
    postgresql,
    running,
)
from tests.system.segmentation_reader import patient_points

pytestmark = pytest.mark.peers


def send_all(node, study, calling="PACS"):
    answers = send([read_instance(path) for path in study.paths], node.peer, calling)
    assert all(answer.taken for answer in answers)


@needs_orthanc
@needs_dcmtk
def test_orthanc_routes_a_study_and_has_its_assessment_beside_it(tmp_path, head):
    pacs_port = free_ports(1)[0]
    node = Node(write_config(tmp_path, pacs_port=pacs_port, quiet_seconds=4))
    with running(node):
        node.start()
        pacs = Orthanc(
            tmp_path / "orthanc", node_port=node.settings.node.port, dicom_port=pacs_port
        )
        with running(pacs):
            pacs.store(head.paths[0].parent)
            (run,) = node.await_runs(head.study_uid)
            assert run.state is RunState.DELIVERED, run.error
            assert {"CT", "SEG", "SR"} <= set(pacs.find_modalities(head.study_uid))
            assert {"CT", "SEG", "SR"} <= held_modalities(node.settings, head.study_uid)
            documents = map(as_dataset, pacs.instances(head.study_uid, "SR"))
            (segmentation,) = pacs.instances(head.study_uid, "SEG")
    (report,) = reports(documents)
    source = dcmread(head.paths[-1])
    for made in (report, as_dataset(segmentation)):
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"):
            assert made[keyword].value == source[keyword].value
    assert report.VerificationFlag == "UNVERIFIED"
    assert "Left" in str(report)
    check_with_outside_validators(tmp_path, report, as_dataset(segmentation))
    check_lesion(tmp_path, segmentation, head)


def held_modalities(settings, study_uid):
    """What the node says that it holds of the study, its own objects included."""
    catalogue = Catalogue(settings.database_url)
    query = Dataset()
    query.StudyInstanceUID = study_uid
    (answer,) = Holdings(settings, catalogue).find(Level.STUDY, query)
    catalogue.close()
    return set(answer.ModalitiesInStudy)


def as_dataset(encoded):
    return dcmread(io.BytesIO(encoded))


def check_with_outside_validators(folder, report, segmentation):
    for name, made in (("report.dcm", report), ("segmentation.dcm", segmentation)):
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # dciodvfy does not inflate
        made.save_as(folder / name)
        if not dciodvfy_missing():
            errors = [line for line in dciodvfy(folder / name) if line.startswith("Error")]
            assert not errors
    if not pixelmed_missing():
        assert not pixelmed_errors(folder / "report.dcm")


def check_lesion(folder, segmentation, study):
    """The SEG lies on the truth in patient coordinates."""
    path = folder / "seg.dcm"
    path.write_bytes(segmentation)
    found = patient_points(path)
    truth = np.argwhere(study.truth) @ study.affine[:3, :3].T + study.affine[:3, 3]
    distance = np.linalg.norm(found.mean(0) - truth.mean(0))
    assert distance < 6, f"{distance:.1f} mm from the true lesion"


@needs_dcmtk
def test_instances_that_come_late_make_a_new_revision_that_supersedes(tmp_path, head):
    pacs_port = free_ports(1)[0]
    node, pacs = (
        Node(write_config(tmp_path, pacs_port=pacs_port)),
        Storescp(tmp_path / "pacs", pacs_port),
    )
    late = head.paths[-4:]
    with running(pacs, node):
        node.start()
        send([read_instance(path) for path in head.paths[:-4]], node.peer, "PACS")
        node.await_runs(head.study_uid)
        send([read_instance(path) for path in late], node.peer, "PACS")
        first, second = node.await_runs(head.study_uid, runs=2)
        assert second.supersedes == first.id
        received = {report.SOPInstanceUID: report for report in reports(pacs.received("SR"))}
    assert len(received) == 2
    predecessors = [
        report.PredecessorDocumentsSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
        for report in received.values()
        if "PredecessorDocumentsSequence" in report
    ]
    assert len(predecessors) == 1
    assert predecessors[0] in received


@needs_dcmtk
def test_the_same_study_sent_again_is_not_assessed_again(tmp_path, head):
    pacs_port = free_ports(1)[0]
    node, pacs = (
        Node(write_config(tmp_path, pacs_port=pacs_port)),
        Storescp(tmp_path / "pacs", pacs_port),
    )
    with running(pacs, node):
        node.start()
        send_all(node, head)
        node.await_runs(head.study_uid)
        before = sorted(path.stat().st_mtime for path in (tmp_path / "pacs").iterdir())
        send_all(node, head)
        await_true(
            lambda: (study := node.study(head.study_uid)).considered_at == study.last_received,
            20,
            "the study to be considered",
        )
        assert len(node.study(head.study_uid).runs) == 1
        assert sorted(path.stat().st_mtime for path in (tmp_path / "pacs").iterdir()) == before


@needs_dcmtk
def test_a_peer_that_is_down_gets_its_results_when_it_is_back(tmp_path, head):
    pacs_port = free_ports(1)[0]
    node = Node(write_config(tmp_path, pacs_port=pacs_port))
    with running(node):
        node.start()
        send_all(node, head)

        def waiting():
            study = node.study(head.study_uid)
            deliveries = study.runs[0].deliveries if study and study.runs else []
            return next((one for one in deliveries if one.attempts), None)  # tried, in vain

        delivery = await_true(waiting, 60, "the run to wait for its peer")
        assert "does not answer" in delivery.error
        assert "firewall" in delivery.remedy
        with running(Storescp(tmp_path / "pacs", pacs_port)) as (pacs,):
            (run,) = node.await_runs(head.study_uid)
            assert run.state is RunState.DELIVERED
            assert len(reports(pacs.received("SR"))) == len(pacs.received("SEG")) == 1


@needs_dcmtk
@needs_postgresql
def test_the_same_on_postgresql(tmp_path, head):
    pacs_port = free_ports(1)[0]
    with postgresql(tmp_path / "postgresql") as url:
        config = write_config(tmp_path, pacs_port=pacs_port, database_url=url)
        node, pacs = Node(config), Storescp(tmp_path / "pacs", pacs_port)
        with running(pacs, node):
            node.start()
            send_all(node, head)
            (run,) = node.await_runs(head.study_uid)
            assert run.state is RunState.DELIVERED, run.error
            assert len(reports(pacs.received("SR"))) == len(pacs.received("SEG")) == 1
    assert not (tmp_path / "state" / "overread.sqlite").exists()


@needs_dcmtk
def test_a_real_mr_head_is_received_assembled_and_honestly_refused(tmp_path):

    files = sorted((REPOSITORY.parent / "shared" / "data" / "mr-t1-head").glob("*.dcm"))
    if not files:
        pytest.skip("the real T1 head is not here")
    pacs_port = free_ports(1)[0]
    config = write_config(tmp_path, pacs_port=pacs_port, rule='Modality == "MR"')
    node, pacs = Node(config), Storescp(tmp_path / "pacs", pacs_port)
    with running(pacs, node):
        node.start()
        send([read_instance(path) for path in files], node.peer, "PACS")
        study = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
        (run,) = node.await_runs(study)
        assert run.state is RunState.DELIVERED, run.error
        assert run.outcome.startswith("not assessed")
        assert not pacs.received("SEG")
        (report,) = reports(pacs.received("SR"))
    assert report.CompletionFlag == "PARTIAL"
    assert report.StudyInstanceUID == study
    assert '"geometry": "uniform"' in node.log()
    record = RunFolder(
        node.settings.runs_dir / run_id_of(study, run.revision, node.settings.routes[0])
    ).record()
    assert not record.completed
    assert not any(finding.presence is Presence.PRESENT for finding in record.findings)
