"""Destinations that take less than all: DCMTK's storescp with a profile, and Orthanc."""

import io
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.tables import DeliveryState
from sr_writer.kinds import LANGUAGES, Kind
from sr_writer.writing import write_results
from tests.node.checked_runs import RUN, checked_run, deliver
from tests.node.configuration import free_ports
from tests.sr_writer.series import PROVENANCE, make_volume, mixed, spooled
from tests.system.peers import Orthanc, Storescp, needs_dcmtk, needs_orthanc, running

pytestmark = pytest.mark.peers

ANYTHING_NATIVE = """
[[TransferSyntaxes]]
[Implicit]
TransferSyntax1 = LittleEndianImplicit
[Deflated]
TransferSyntax1 = DeflatedLittleEndianExplicit
[[PresentationContexts]]
[Contexts]
PresentationContext1 = VerificationSOPClass\\Implicit
{contexts}
[[Profiles]]
[Default]
PresentationContexts = Contexts
"""


@pytest.fixture(scope="module")
def results():
    volume = spooled(make_volume(name="Wang^XiaoDong=王^小东", charset="ISO_IR 192"))
    return write_results(
        mixed(volume),
        volume.sources,
        volume,
        PROVENANCE,
        predecessors={},
        kinds=tuple(Kind),
        languages=LANGUAGES,
    )


def restricted(folder, port, **classes):
    """A storescp that accepts these SOP classes, each in one transfer syntax."""
    lines = [
        f"PresentationContext{number} = {sop_class}\\{syntax}"
        for number, (sop_class, syntax) in enumerate(classes.items(), 2)
    ]
    profile = folder / "storescp.cfg"
    profile.write_text(ANYTHING_NATIVE.format(contexts="\n".join(lines)))
    return Storescp(folder / "pacs", port, options=["-xf", str(profile), "Default"])


def dumped(path):
    """What DCMTK reads in a file, in UTF-8."""
    command = ["/usr/bin/dcmdump", "-q", "+U8", "+L", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_dcmtk
def test_a_restricted_storescp_gets_what_it_takes_in_its_own_encoding(tmp_path, results):
    port = free_ports(1)[0]
    pacs = restricted(
        tmp_path,
        port,
        SegmentationStorage="Deflated",
        Comprehensive3DSRStorage="Implicit",
    )
    lines = ('objects = ["segmentation", "report"]', 'charset = "gb18030"')
    bench = checked_run(tmp_path, port, *lines, results=results)
    with running(pacs):
        sent = deliver(bench)
    bench.catalogue.close()
    assert (sent.state, sent.note) == (DeliveryState.DELIVERED, "")
    (segmentation,) = pacs.received("SEG")
    (report,) = pacs.received("SR")
    assert segmentation.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert report.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    written = {one.kind: one.dataset for one in reversed(results)}
    assert segmentation.PixelData == written[Kind.SEGMENTATION].PixelData
    assert report.SpecificCharacterSet == "GB18030"
    shown = dumped(next(path for path in pacs.folder.iterdir() if path.name.startswith("SR")))
    assert "Wang^XiaoDong=王^小东" in shown
    assert "颅内出血" in shown


@needs_dcmtk
def test_a_storescp_without_segmentations_gets_what_stands_in(tmp_path, results):
    port = free_ports(1)[0]
    pacs = restricted(tmp_path, port, SecondaryCaptureImageStorage="Implicit")
    bench = checked_run(tmp_path, port, 'objects = ["segmentation"]', results=results)
    with running(pacs):
        sent = deliver(bench)
    bench.catalogue.close()
    assert sent.state is DeliveryState.DELIVERED
    assert sent.note == (
        "segmentation: secondary capture instead: does not accept Segmentation Storage"
    )
    captures = [dcmread(path) for path in pacs.folder.iterdir()]
    assert captures
    assert {one.file_meta.TransferSyntaxUID for one in captures} == {ImplicitVRLittleEndian}
    assert {one.BurnedInAnnotation for one in captures} == {"YES"}


@needs_orthanc
@pytest.mark.parametrize("charset", ["utf-8", "gb18030"])
def test_orthanc_takes_the_segmentation_deflated_and_reads_all_that_it_gets(
    tmp_path, results, charset
):
    port = free_ports(1)[0]
    pacs = Orthanc(tmp_path / "orthanc", node_port=1, dicom_port=port)
    bench = checked_run(tmp_path, port, f'charset = "{charset}"', results=results)
    study = results[0].dataset.StudyInstanceUID
    with running(pacs):
        sent = deliver(bench)
        (segmentation,) = pacs.instances(study, "SEG")
        (patient,) = pacs.rest("/patients?expand")
    folder = bench.folder(RUN)
    bench.catalogue.close()
    assert (sent.state, sent.note) == (DeliveryState.DELIVERED, "")
    got = dcmread(io.BytesIO(segmentation))
    assert got.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    source = next(Path(path) for path in folder.object_paths() if path.name == "segmentation.dcm")
    assert got.PixelData == dcmread(source).PixelData
    assert patient["MainDicomTags"]["PatientName"] == "Wang^XiaoDong=王^小东"
