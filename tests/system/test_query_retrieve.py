"""PACS people look at what the node holds: with DCMTK's tools, and from Orthanc."""

import json
import socket
import subprocess
import threading
import time
import urllib.request

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as Find,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as Get,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove as Move,
)
from structlog.testing import capture_logs

from node import store_scu
from node.catalogue import Catalogue
from node.holdings import Holdings
from node.listener import Listener
from node.run_folder import RunFolder
from node.settings import Peer, load_settings
from node.steps import Workbench, list_results
from node.tables import RunState
from sr_writer.kinds import Kind
from tests.node.configuration import free_ports, write_config
from tests.node.studies import open_run, receive, save_everything
from tests.slices import grid_affine, write_slices
from tests.sr_writer.series import make_volume, present, spooled
from tests.system.peers import ENVIRONMENT, Orthanc, await_true, needs_dcmtk, needs_orthanc, running

ASKER = """[[peers]]
name = "asker"
ae_title = "ASKER"
host = "127.0.0.1"
port = {port}
query = true
[[routes]]"""
SLICES = 4


class Hospital:
    """A node that holds two series, and a peer that may ask."""

    def __init__(self, folder):
        self.asker_port, self.pacs_port = free_ports(2)
        config = write_config(folder, pacs_port=self.pacs_port, rule='Modality == "NM"')
        text = config.read_text().replace("[[routes]]", ASKER.format(port=self.asker_port))
        config.write_text(text)
        self.settings = load_settings(config)
        self.listener = Listener(self.settings)
        self.listener.start()
        self.folder = folder
        self.paths = []
        for number, syntax in enumerate((ExplicitVRLittleEndian, RLELossless), 1):
            self.paths += self._receive(number, syntax)
        header = dcmread(self.paths[0])
        self.study, self.series = header.StudyInstanceUID, header.SeriesInstanceUID
        catalogue = Catalogue(self.settings.database_url)
        await_true(lambda: self._listed(catalogue), 60, "both series to be listed")
        self.results = self._write_results(catalogue)
        catalogue.close()

    def _write_results(self, catalogue):
        """Objects of a run that is over, of a study of their own."""
        volume = spooled(make_volume())
        study = volume.sources[0].StudyInstanceUID
        receive(catalogue, study, instances=1)
        open_run(catalogue, study, "run", RunState.DELIVERED)
        folder = RunFolder(self.settings.runs_dir / "run")
        save_everything(folder, present(volume), volume)
        bench = Workbench(self.settings, catalogue)
        list_results(bench, catalogue.run("run"), folder.objects())
        return folder

    def _receive(self, number, syntax):
        def identify(header, _index):
            header.SpecificCharacterSet = "GB18030"
            header.PatientName = "Wang^XiaoDong=王^小東"
            header.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.77"
            header.SeriesNumber = number

        folder = self.folder / f"sent-{number}"
        voxels = np.arange(SLICES * 64, dtype=np.int16).reshape(SLICES, 8, 8)
        paths = write_slices(folder, voxels, grid_affine(), change=identify)
        for path in paths:
            if syntax == RLELossless:
                dataset = dcmread(path)
                dataset.compress(RLELossless, generate_instance_uid=False)
                dataset.save_as(path)
        node = Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=self.port)
        answers = store_scu.send([store_scu.read_instance(path) for path in paths], node, "PACS")
        assert all(answer.status == 0 for answer in answers)
        return paths

    def _listed(self, catalogue):
        found = catalogue.worklist()
        return found and sum(one.instances for one in found[0].series) == 2 * SLICES

    @property
    def port(self):
        return self.settings.node.port

    def run(self, tool, *arguments, keys=(), calling="ASKER"):
        """One of DCMTK's tools at study root; returns what it says."""
        command = [f"/usr/bin/{tool}", "-v", "-S", "-aet", calling, "-aec", "OVERREAD", *arguments]
        for key in keys:
            command += ["-k", key]
        done = subprocess.run(
            [*command, "127.0.0.1", str(self.port)],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            timeout=120,
            check=False,
        )
        return done.stdout + done.stderr

    def associate(self, contexts, calling="ASKER", port=None, **keywords):
        entity = AE(ae_title=calling)
        where = ("127.0.0.1", port or self.port)
        return entity.associate(*where, contexts, ae_title="OVERREAD", **keywords)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    hospital = Hospital(tmp_path_factory.mktemp("query"))
    yield hospital
    hospital.listener.stop()


def keys(level, **values):
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(query, keyword, value)
    return query


def contents(folder):
    return {dcmread(path).SOPInstanceUID: dcmread(path) for path in folder.iterdir()}


def data_set(path):
    """As it lies in a file."""
    return path.read_bytes()[split_dataset(path)[1] :]


@pytest.mark.peers
@needs_dcmtk
def test_findscu_finds_at_each_level(hospital, tmp_path):
    study = ("QueryRetrieveLevel=STUDY", "PatientName=WANG*", "StudyDate", "ModalitiesInStudy")
    hospital.run("findscu", "-X", "-od", str(tmp_path), keys=(*study, "StudyInstanceUID"))
    (found,) = [dcmread(path) for path in tmp_path.iterdir()]
    assert found.PatientName == "Wang^XiaoDong=王^小東"
    assert (found.SpecificCharacterSet, found.RetrieveAETitle) == ("ISO_IR 192", "OVERREAD")
    assert found.ModalitiesInStudy == "CT"
    assert "PatientID" not in found  # what was not asked for
    series = ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={hospital.study}", "SeriesNumber=2")
    said = hospital.run("findscu", keys=series)
    assert said.count("Find Response: 1 (Pending)") == 1
    assert "Find Response: 2 (Pending)" not in said
    images = (
        "QueryRetrieveLevel=IMAGE",
        f"StudyInstanceUID={hospital.study}",
        f"SeriesInstanceUID={hospital.series}",
        "InstanceNumber",
    )
    assert f"Find Response: {SLICES} (Pending)" in hospital.run("findscu", keys=images)


@pytest.mark.peers
@needs_dcmtk
def test_movescu_has_the_stored_bytes_sent(hospital, tmp_path):
    study = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={hospital.study}")
    arguments = ("-aem", "ASKER", "+P", str(hospital.asker_port), "+xv", "-od", str(tmp_path))
    hospital.run("movescu", *arguments, keys=study)
    got = contents(tmp_path)
    assert len(got) == SLICES  # storescu of this call takes JPEG 2000, no RLE
    arguments = ("-aem", "ASKER", "+P", str(hospital.asker_port), "+xr", "-od", str(tmp_path))
    hospital.run("movescu", *arguments, keys=study)
    got = contents(tmp_path)
    assert len(got) == 2 * SLICES
    for path in hospital.paths:
        sent = dcmread(path)
        assert got[sent.SOPInstanceUID].PixelData == sent.PixelData
        assert (
            got[sent.SOPInstanceUID].file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
        )


@pytest.mark.peers
@needs_dcmtk
def test_getscu_gets_what_it_takes(hospital, tmp_path):
    series = (
        "QueryRetrieveLevel=SERIES",
        f"StudyInstanceUID={hospital.study}",
        f"SeriesInstanceUID={hospital.series}",
    )
    hospital.run("getscu", "-B", "-pdu", "4096", "-od", str(tmp_path), keys=series)
    got = {dcmread(path).SOPInstanceUID: data_set(path) for path in tmp_path.iterdir()}
    sent = {dcmread(path).SOPInstanceUID: data_set(path) for path in hospital.paths[:SLICES]}
    assert got == sent


@pytest.mark.peers
@needs_orthanc
def test_orthanc_finds_and_moves(hospital, tmp_path):
    pacs = Orthanc(
        tmp_path / "orthanc",
        node_port=hospital.port,
        dicom_port=hospital.asker_port,
        ae_title="ASKER",
    )
    with running(pacs):

        def post(path, content):
            url = f"http://127.0.0.1:{pacs.http_port}{path}"
            with urllib.request.urlopen(url, json.dumps(content).encode(), timeout=60) as reply:
                return json.loads(reply.read())

        asked = {"Level": "Study", "Query": {"PatientName": "wang^*", "StudyDate": ""}}
        query = post("/modalities/overread/query", asked)
        answers = pacs.rest(f"{query['Path']}/answers?expand&simplify")
        assert [one["StudyInstanceUID"] for one in answers] == [hospital.study]
        post(f"{query['Path']}/retrieve", {"TargetAet": "ASKER", "Synchronous": True})
        assert len(pacs.rest("/instances")) == 2 * SLICES
        (study,) = pacs.rest("/studies?expand")
        assert study["PatientMainDicomTags"]["PatientName"] == "Wang^XiaoDong=王^小東"


def test_a_peer_that_may_not_ask_is_not_offered_it(hospital):
    association = hospital.associate([build_context(Find), build_context(Move)], calling="PACS")
    assert not association.is_established
    assert association.is_aborted


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (keys("PATIENT", PatientID=""), 0xA900),
        (keys("SERIES", SeriesInstanceUID=""), 0xA900),
        (keys("SERIES", StudyInstanceUID=["1.2", "1.3"]), 0xA900),
        (keys("STUDY", StudyDate="soon"), 0xA900),
        (keys("STUDY", StudyInstanceUID="1.2.3"), 0x0000),
    ],
)
def test_what_a_query_cannot_be_is_said(hospital, query, status):
    association = hospital.associate([build_context(Find)])
    answers = list(association.send_c_find(query, Find))
    association.release()
    assert [answer.Status for answer, _ in answers] == [status]
    assert bool(answers[0][0].get("ErrorComment")) == (status != 0)


def test_a_key_that_is_not_supported_is_told(hospital):
    association = hospital.associate([build_context(Find)])
    query = keys("STUDY", StudyInstanceUID=hospital.study, InstitutionName="")
    answers = list(association.send_c_find(query, Find))
    association.release()
    assert [answer.Status for answer, _ in answers] == [0xFF01, 0x0000]
    assert "InstitutionName" not in answers[0][1]


def getting(hospital, syntaxes, store, **keywords):
    """An association on which CT images may be got; `store` answers each."""
    return hospital.associate(
        [build_context(Get), *(build_context(CTImageStorage, one) for one in syntaxes)],
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, store)],
        **keywords,
    )


def get(hospital, syntaxes, query):
    """C-GET; returns the SOP Instance UIDs that came, by status of the last response."""
    came = []

    def take(event):
        came.append((str(event.request.AffectedSOPInstanceUID), event.context.transfer_syntax))
        return 0x0000

    association = getting(hospital, syntaxes, take)
    answers = list(association.send_c_get(query, Get))
    association.release()
    return answers[-1], came


def test_what_cannot_be_sent_as_it_is_stored_is_a_failed_sub_operation(hospital):
    query = keys("STUDY", StudyInstanceUID=hospital.study)
    (last, failed), came = get(hospital, [ImplicitVRLittleEndian], query)
    assert last.Status == 0xB000
    assert last.NumberOfCompletedSuboperations == len(came) == SLICES  # native is encoded anew
    assert last.NumberOfFailedSuboperations == SLICES
    compressed = {dcmread(path).SOPInstanceUID for path in hospital.paths[SLICES:]}
    assert set(failed.FailedSOPInstanceUIDList) == compressed


def test_what_is_stored_comes_in_its_transfer_syntax(hospital):
    query = keys("STUDY", StudyInstanceUID=hospital.study)
    syntaxes = [DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless]
    for _ in range(2):
        (last, _), came = get(hospital, syntaxes, query)
        assert last.Status == 0x0000
        stored = {
            (dcmread(path).SOPInstanceUID, dcmread(path).file_meta.TransferSyntaxUID)
            for path in hospital.paths
        }
        assert set(came) == stored


def test_objects_of_the_node_go_to_those_alone_that_ask_for_them(hospital):
    report = dcmread(hospital.results.path / "report.dcm")
    context = build_context(report.SOPClassUID, ExplicitVRLittleEndian)
    sender = hospital.associate([build_context(Get), context])
    assert [one.abstract_syntax for one in sender.rejected_contexts] == [report.SOPClassUID]
    sender.release()
    came = []
    association = hospital.associate(
        [build_context(Get), context],
        ext_neg=[build_role(report.SOPClassUID, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, lambda event: came.append(event.dataset) or 0x0000)],
    )
    series = {"StudyInstanceUID": report.StudyInstanceUID}
    query = keys("SERIES", **series, SeriesInstanceUID=report.SeriesInstanceUID)
    *_, (last, _) = association.send_c_get(query, Get)
    association.release()
    assert last.NumberOfCompletedSuboperations == len(came) >= 1
    assert report.SOPInstanceUID in [one.SOPInstanceUID for one in came]


def test_of_a_report_in_several_forms_the_richest_alone_is_held(hospital):
    written = hospital.results.results()
    forms = [one for one in written if one.kind is Kind.REPORT]
    assert len(forms) > 1
    study = dcmread(hospital.results.path / "report.dcm").StudyInstanceUID
    catalogue = Catalogue(hospital.settings.database_url)
    held = Holdings(hospital.settings, catalogue).instances(study)
    catalogue.close()
    wanted = {one.instance_uid for one in written if one.kind is not Kind.REPORT or not one.rank}
    assert {one.key.instance for one in held} >= wanted
    assert not {one.key.instance for one in held} & {one.instance_uid for one in forms if one.rank}


def test_nothing_named_is_refused_and_nothing_found_is_no_failure(hospital):
    (last, _), came = get(hospital, [ExplicitVRLittleEndian], keys("STUDY"))
    assert (last.Status, came) == (0xA900, [])
    query = keys("STUDY", StudyInstanceUID="1.2.3")
    (last, _), came = get(hospital, [ExplicitVRLittleEndian], query)
    assert (last.Status, came) == (0x0000, [])


@pytest.mark.parametrize(
    ("destination", "status", "failed"),
    [("NOBODY", 0xA801, None), ("ASKER", 0xA702, 2 * SLICES)],  # no peer; and one that is not there
)
def test_a_move_to_where_nobody_is_fails(hospital, destination, status, failed):
    association = hospital.associate([build_context(Move)])
    query = keys("STUDY", StudyInstanceUID=hospital.study)
    *_, (last, _) = association.send_c_move(query, destination, Move)
    association.release()
    assert last.Status == status
    assert last.get("NumberOfFailedSuboperations") == failed


def test_the_destination_hears_who_asked_and_what_it_refuses_is_told(hospital):
    came = []

    def take(event):
        came.append(event.request.MoveOriginatorApplicationEntityTitle)
        return 0xA700 if len(came) == 1 else 0x0000

    destination = AE(ae_title="ASKER")
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        destination.add_supported_context(CTImageStorage, syntax)
    server = destination.start_server(
        ("127.0.0.1", hospital.asker_port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)]
    )
    association = hospital.associate([build_context(Move)])
    query = keys("STUDY", StudyInstanceUID=hospital.study)
    *_, (last, failed) = association.send_c_move(query, "ASKER", Move)
    association.release()
    server.shutdown()
    assert came == ["ASKER"] * 2 * SLICES
    assert (last.Status, last.NumberOfFailedSuboperations) == (0xB000, 1)
    assert isinstance(failed.FailedSOPInstanceUIDList, str)


def test_native_data_go_encoded_anew_where_the_destination_takes_no_other(hospital):
    came = []
    destination = AE(ae_title="ASKER")
    destination.add_supported_context(CTImageStorage, ImplicitVRLittleEndian)
    server = destination.start_server(
        ("127.0.0.1", hospital.asker_port),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, lambda event: came.append(event.dataset) or 0x0000)],
    )
    association = hospital.associate([build_context(Move)])
    query = keys("STUDY", StudyInstanceUID=hospital.study)
    *_, (last, _) = association.send_c_move(query, "ASKER", Move)
    association.release()
    server.shutdown()
    counts = last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations
    assert (last.Status, counts) == (0xB000, (SLICES, SLICES))
    pixels = {str(one.SOPInstanceUID): one.PixelData for one in came}
    sent = [dcmread(path) for path in hospital.paths[:SLICES]]
    assert pixels == {str(one.SOPInstanceUID): one.PixelData for one in sent}


def test_who_takes_no_more_of_an_object_does_not_keep_the_node_from_stopping(tmp_path):
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("[[routes]]", ASKER.format(port=104)))
    settings = load_settings(config)
    listener = Listener(settings)
    listener.start()
    (path,) = write_slices(tmp_path, np.zeros((1, 3000, 3000), np.int16), grid_affine())
    node = Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=settings.node.port)
    store_scu.send([store_scu.read_instance(path)], node, "ASKER")
    catalogue = Catalogue(settings.database_url)
    await_true(catalogue.worklist, 60, "the image to be listed")
    catalogue.close()
    stuck, go_on = threading.Event(), threading.Event()

    def take_no_more(event):
        if len(event.data) > 10_000:
            stuck.set()
            go_on.wait(60)

    entity = AE(ae_title="ASKER")
    association = entity.associate(
        "127.0.0.1",
        settings.node.port,
        [build_context(Get), build_context(CTImageStorage, ExplicitVRLittleEndian)],
        ae_title="OVERREAD",
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_DATA_RECV, take_no_more)],
    )
    query = keys("STUDY", StudyInstanceUID=dcmread(path).StudyInstanceUID)
    answers = association.send_c_get(query, Get)
    asking = threading.Thread(target=lambda: list(answers))
    asking.start()
    assert stuck.wait(60)
    started = time.monotonic()
    listener.stop()
    assert time.monotonic() - started < 30
    go_on.set()
    asking.join()


def worse(logged):
    return [one for one in logged if one["log_level"] in ("warning", "error")]


def ports_of(listener):
    """Whence the associations come that a listener has."""
    return {one.requestor.port for one in listener._entity.active_associations}


def test_a_retrieval_is_cancelled(hospital):
    def take(event):
        event.assoc.send_c_cancel(1, query_model=Get)
        return 0x0000

    association = getting(hospital, [ExplicitVRLittleEndian, RLELossless], take)
    query = keys("STUDY", StudyInstanceUID=hospital.study)
    *_, (last, _) = association.send_c_get(query, Get)
    association.release()
    assert last.Status == 0xFE00
    assert last.NumberOfRemainingSuboperations == 2 * SLICES - 1
    assert last.NumberOfCompletedSuboperations == 1


@pytest.mark.parametrize("upper_layer", ["waiting", "pynetdicom"])
def test_what_who_gets_objects_says_to_each_is_counted(hospital, upper_layer):
    asked = []

    def store(event):
        asked.append(event.request.MessageID)
        return {1: 0xA700, 2: 0xB000}.get(len(asked), 0x0000)

    (port,) = free_ports(1)
    node = hospital.settings.node.model_copy(update={"port": port, "upper_layer": upper_layer})
    listener = Listener(hospital.settings.model_copy(update={"node": node}))
    listener.start()
    association = getting(hospital, [ExplicitVRLittleEndian, RLELossless], store, port=port)
    query = keys("STUDY", StudyInstanceUID=hospital.study)
    *pending, (last, failed) = association.send_c_get(query, Get, msg_id=7)
    *_, (again, _) = association.send_c_get(query, Get)
    association.release()
    listener.stop()
    assert again.Status == 0x0000
    assert 7 not in asked[: 2 * SLICES]
    assert isinstance(failed.FailedSOPInstanceUIDList, str)
    remaining = [one.NumberOfRemainingSuboperations for one, _ in pending]
    assert remaining == [*reversed(range(2 * SLICES))]
    counts = (
        last.Status,
        last.NumberOfFailedSuboperations,
        last.NumberOfWarningSuboperations,
        last.NumberOfCompletedSuboperations,
    )
    assert counts == (0xB000, 1, 1, 2 * SLICES - 2)


@pytest.mark.parametrize("goes", ["aborts", "dies", "is silent"])
def test_who_gets_objects_and_goes_away_is_one_line_in_the_log(hospital, monkeypatch, goes):
    monkeypatch.setattr(store_scu, "_RESPONSE_TIMEOUT", 1.0)

    def store(event):
        if goes == "aborts":
            event.assoc.abort()
        elif goes == "dies":
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        else:
            await_true(lambda: worse(logged), 60, "the node to give up")
        return 0x0000

    query = keys("STUDY", StudyInstanceUID=hospital.study)
    with capture_logs() as logged:
        association = getting(hospital, [ExplicitVRLittleEndian, RLELossless], store)
        association.dimse_timeout = 1.0  # nothing comes any more
        ours = association.requestor.port
        list(association.send_c_get(query, Get))
        await_true(lambda: ours not in ports_of(hospital.listener), 60, "the association to end")
    told, _ = worse(logged)
    assert [one["event"] for one in worse(logged)] == [
        "retrieve.no_association",
        "association.aborted",
    ]
    assert "ASKER" in told["reason"]
    (last, _), came = get(hospital, [ExplicitVRLittleEndian, RLELossless], query)
    assert (last.Status, len(came)) == (0x0000, 2 * SLICES)
