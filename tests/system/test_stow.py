"""A study that Orthanc sends by STOW-RS is assessed, and its results go back into Orthanc."""

import httpx2
import pytest

from node.tables import RunState
from tests.node.configuration import free_ports
from tests.node.dicomweb_server import TOKEN, configure
from tests.system.peers import (
    DICOMWEB_PLUGIN,
    Node,
    Orthanc,
    needs_dcmtk,
    needs_orthanc,
    running,
)

pytestmark = pytest.mark.peers


def ask(pacs, method, path, content):
    url = f"http://127.0.0.1:{pacs.http_port}{path}"
    reply = httpx2.request(method, url, json=content, timeout=120, trust_env=False)
    assert reply.status_code == 200, reply.text
    return reply


@needs_orthanc
@needs_dcmtk
@pytest.mark.skipif(not DICOMWEB_PLUGIN.exists(), reason="Orthanc has no DICOMweb plug-in")
def test_orthanc_stores_a_study_over_dicomweb_and_has_its_assessment_beside_it(tmp_path, head):
    pacs_port, nobody = free_ports(2)
    node = Node(configure(tmp_path, pacs_port=pacs_port, quiet_seconds=4))
    with running(node):
        node.start()
        pacs = Orthanc(tmp_path / "orthanc", node_port=nobody, dicom_port=pacs_port)
        with running(pacs):
            pacs.store(head.paths[0].parent)
            url = f"http://127.0.0.1:{node.settings.dicomweb.port}/dicom-web"
            server = {"Url": url, "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}
            ask(pacs, "PUT", "/dicom-web/servers/overread", server)
            asked = {"Resources": pacs.rest("/studies"), "Synchronous": True}
            answer = ask(pacs, "POST", "/dicom-web/servers/overread/stow", asked).json()
            assert int(answer["InstancesCount"]) == len(head.paths)
            (run,) = node.await_runs(head.study_uid)
            assert run.state is RunState.DELIVERED, run.error
            assert {"CT", "SEG", "SR"} <= set(pacs.find_modalities(head.study_uid))
