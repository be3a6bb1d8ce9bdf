"""Orthanc asks the node to commit what it routed there, and hears that it is held."""

import json
import urllib.request

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid

from node.listener import Listener
from node.settings import load_settings
from tests.node.configuration import free_ports, write_config
from tests.slices import grid_affine, write_slices
from tests.system.peers import Orthanc, await_true, needs_orthanc, running

pytestmark = [pytest.mark.peers, needs_orthanc]


def post(pacs, path, content):
    url = f"http://127.0.0.1:{pacs.http_port}{path}"
    with urllib.request.urlopen(url, json.dumps(content).encode(), timeout=30) as reply:
        return json.loads(reply.read())


def test_orthanc_hears_that_what_it_sent_is_committed(tmp_path):
    (port,) = free_ports(1)
    settings = load_settings(write_config(tmp_path, pacs_port=port))
    listener = Listener(settings)
    listener.start()
    pacs = Orthanc(tmp_path / "orthanc", node_port=settings.node.port, dicom_port=port)
    with running(listener, pacs):
        paths = write_slices(tmp_path / "scan", np.zeros((3, 16, 16), np.int16), grid_affine())
        pacs.store(paths[0].parent)
        held = pacs.rest("/instances")
        post(pacs, "/modalities/overread/store", {"Resources": held, "Synchronous": True})
        references = [
            [str(header.SOPClassUID), str(header.SOPInstanceUID)] for header in map(dcmread, paths)
        ]
        references.append([str(CTImageStorage), generate_uid()])
        asked = post(
            pacs, "/modalities/overread/storage-commitment", {"DicomInstances": references}
        )

        def reported():
            report = pacs.rest(asked["Path"])
            return report["Status"] != "Pending" and report

        report = await_true(reported, 60, "the report")
    assert report["Status"] == "Failure"  # one of the four was never sent
    assert (len(report["Success"]), len(report["Failures"])) == (3, 1)
