"""What a peer gets follows what it accepts, over real associations: once, and never in silence."""

import pytest
from pydicom import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pydicom.uid import DeflatedExplicitVRLittleEndian as DEFLATED
from pynetdicom import AE, evt

from node import delivery
from node.tables import DeliveryState
from sr_writer.kinds import Kind
from sr_writer.results import Result
from tests.node.checked_runs import RUN, checked_run, deliver
from tests.node.configuration import free_ports

NATIVE = [ExplicitVRLittleEndian]
EVERY_CLASS = (
    SegmentationStorage,
    SecondaryCaptureImageStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
)


def made(kind, sop_class, uid, *, rank=0, language="", refers_to=()):
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.PatientName = "Wang^XiaoDong=王^小东"
    dataset.TextValue = "左侧大脑半球见高密度病灶。" * 100
    references = []
    for referenced in refers_to:
        item = Dataset()
        item.ReferencedSOPInstanceUID = referenced
        references.append(item)
    dataset.ReferencedSOPSequence = references
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return Result(kind, dataset, rank, language)


SEG, SC, SR3D, SR, TEXT_EN, TEXT_ZH, PDF = (f"1.2.3.{number}" for number in range(7))
RESULTS = (
    made(Kind.SEGMENTATION, SegmentationStorage, SEG),
    made(Kind.SECONDARY_CAPTURE, SecondaryCaptureImageStorage, SC),
    made(Kind.REPORT, Comprehensive3DSRStorage, SR3D, refers_to=[SEG]),
    made(Kind.REPORT, ComprehensiveSRStorage, SR, rank=1),
    made(Kind.TEXT_REPORT, BasicTextSRStorage, TEXT_EN, language="en"),
    made(Kind.TEXT_REPORT, BasicTextSRStorage, TEXT_ZH, language="zh"),
    made(Kind.PDF, EncapsulatedPDFStorage, PDF),
)


class Pacs:
    """A peer that accepts some classes in some transfer syntaxes, and answers as it is told."""

    def __init__(self, port):
        self.port = port
        self.received = []
        self.answers = {}
        self.abort_after = None
        self._entity = None

    def accept(self, *sop_classes, syntaxes=NATIVE):
        self.stop()
        self._entity = AE(ae_title="PACS")
        for sop_class in sop_classes:
            self._entity.add_supported_context(sop_class, syntaxes)
        self._entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )

    def _store(self, event):
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.received.append(dataset)
        if len(self.received) == self.abort_after:
            event.assoc.abort()
        return self.answers.get(event.request.AffectedSOPClassUID, 0x0000)

    def uids(self):
        """What came since this was asked last."""
        found = [str(dataset.SOPInstanceUID) for dataset in self.received]
        self.received.clear()
        return found

    def stop(self):
        if self._entity is not None:
            self._entity.shutdown()


@pytest.fixture
def pacs():
    peer = Pacs(free_ports(1)[0])
    yield peer
    peer.stop()


@pytest.fixture
def node(tmp_path, pacs):
    """A workbench with one checked run; `objects = [...]` and the like can be set on its peer."""
    opened = []

    def start(*lines, results=RESULTS):
        opened.append(checked_run(tmp_path, pacs.port, *lines, results=results))
        return opened[-1]

    yield start
    for bench in opened:
        bench.catalogue.close()


def test_a_peer_that_accepts_all_gets_the_best_of_each_kind_once(node, pacs):
    bench = node()
    pacs.accept(*EVERY_CLASS)
    sent = deliver(bench)
    assert pacs.uids() == [SEG, SC, SR3D, TEXT_EN, TEXT_ZH]
    assert (sent.state, sent.note, sent.error) == (DeliveryState.DELIVERED, "", "")
    assert len(sent.objects) == 5


def test_a_peer_gets_the_kinds_and_languages_that_it_is_configured_for(node, pacs):
    bench = node('objects = ["report", "text_report", "pdf"]', 'languages = ["zh"]')
    pacs.accept(*EVERY_CLASS)
    assert deliver(bench).state is DeliveryState.DELIVERED
    assert pacs.uids() == [SR, TEXT_ZH, PDF]  # the better report refers to a segmentation


def test_what_is_replaced_is_delivered_and_recorded(node, pacs):
    bench = node()
    pacs.accept(SecondaryCaptureImageStorage, BasicTextSRStorage)
    sent = deliver(bench)
    assert pacs.uids() == [SC, TEXT_EN, TEXT_ZH]
    assert sent.state is DeliveryState.DELIVERED
    assert sent.note == (
        "segmentation: secondary capture instead: does not accept Segmentation Storage; "
        "report: text report instead: does not accept Comprehensive SR Storage"
    )


def test_without_its_segmentation_a_peer_gets_the_report_that_needs_none(node, pacs):
    bench = node()
    pacs.accept(*EVERY_CLASS[1:])
    assert deliver(bench).state is DeliveryState.DELIVERED
    assert pacs.uids() == [SC, SR, TEXT_EN, TEXT_ZH]


def test_what_can_be_neither_sent_nor_replaced_waits_loudly_and_goes_alone_later(node, pacs):
    bench = node('objects = ["segmentation", "report", "pdf"]')
    pacs.accept(SegmentationStorage, Comprehensive3DSRStorage)
    sent = deliver(bench)
    assert pacs.uids() == [SEG, SR3D]
    assert sent.state is DeliveryState.WAITING
    assert sent.error == "pacs: pdf not sent: does not accept Encapsulated PDF Storage"
    assert sent.remedy == "enable it at pacs, or take 'pdf' out of its 'objects'"
    assert len(sent.objects) == 2
    pacs.accept(*EVERY_CLASS)
    assert deliver(bench).state is DeliveryState.DELIVERED
    assert pacs.uids() == [PDF]


def test_a_peer_never_has_two_reports_though_it_accepts_a_better_one_later(node, pacs):
    bench = node('objects = ["report", "segmentation", "pdf"]')
    pacs.accept(ComprehensiveSRStorage, SegmentationStorage)
    deliver(bench)
    assert pacs.uids() == [SEG, SR]
    pacs.accept(*EVERY_CLASS)
    assert deliver(bench).state is DeliveryState.DELIVERED
    assert pacs.uids() == [PDF]


def test_what_a_peer_took_before_it_broke_off_is_not_sent_again(node, pacs):
    bench = node()
    pacs.accept(*EVERY_CLASS)
    pacs.abort_after = 3
    sent = deliver(bench)
    assert sent.state is DeliveryState.WAITING
    assert {one.instance_uid for one in sent.objects} == {SEG, SC}
    assert pacs.uids() == [SEG, SC, SR3D]
    pacs.abort_after = None
    assert deliver(bench).state is DeliveryState.DELIVERED
    assert pacs.uids() == [SR3D, TEXT_EN, TEXT_ZH]


def test_what_refers_to_a_refused_object_is_held_back_with_it(node, pacs):
    bench = node('objects = ["segmentation", "report"]')
    pacs.accept(*EVERY_CLASS)
    pacs.answers[SegmentationStorage] = 0xA700
    assert "refused Segmentation Storage A700" in deliver(bench).error
    assert pacs.uids() == [SEG]
    pacs.answers.clear()
    assert deliver(bench).state is DeliveryState.DELIVERED
    assert pacs.uids() == [SEG, SR3D]


def test_a_class_that_is_refused_as_not_supported_counts_as_not_accepted(node, pacs):
    bench = node('objects = ["segmentation", "report"]')
    pacs.accept(*EVERY_CLASS)
    pacs.answers[SegmentationStorage] = 0x0122
    sent = deliver(bench)
    assert sent.state is DeliveryState.DELIVERED
    assert "secondary capture instead" in sent.note
    assert pacs.uids() == [SEG, SC, SR]


@pytest.mark.parametrize(
    ("accepted", "used"),
    [
        ([ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        ([ImplicitVRLittleEndian, ExplicitVRLittleEndian], ExplicitVRLittleEndian),
        (
            [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DEFLATED],
            DEFLATED,
        ),
    ],
    ids=["implicit", "explicit", "deflated"],
)
@pytest.mark.parametrize("charset", ["utf-8", "gb18030"])
def test_each_peer_gets_its_encoding_of_the_same_content(node, pacs, accepted, used, charset):
    bench = node('objects = ["segmentation"]', f'charset = "{charset}"')
    pacs.accept(SegmentationStorage, syntaxes=accepted)
    assert deliver(bench).state is DeliveryState.DELIVERED
    (got,) = pacs.received
    assert got.file_meta.TransferSyntaxUID == used
    assert got.SpecificCharacterSet == delivery.CHARACTER_SETS[charset]
    source = RESULTS[0].dataset
    assert got.TextValue == source.TextValue
    assert (got.PatientName, got.SOPInstanceUID) == (source.PatientName, source.SOPInstanceUID)


def test_a_peer_whose_viewer_cannot_inflate_is_offered_native_masks_only(node, pacs):
    bench = node('objects = ["segmentation"]', "deflated = false")
    pacs.accept(SegmentationStorage, syntaxes=[ExplicitVRLittleEndian, DEFLATED])
    assert deliver(bench).state is DeliveryState.DELIVERED
    assert pacs.received[0].file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_a_delivery_leaves_no_file_behind(node, pacs):
    bench = node('charset = "gb18030"')
    before = sorted(bench.folder(RUN).path.iterdir())
    pacs.accept(*EVERY_CLASS)
    deliver(bench)
    assert sorted(bench.folder(RUN).path.iterdir()) == before


def test_what_cannot_be_encoded_is_not_sent_and_says_what_to_do(node, pacs):
    long = made(Kind.REPORT, Comprehensive3DSRStorage, SR3D)
    long.dataset.AdditionalPatientHistory = "ñ" * 30000  # four bytes each in GB18030
    bench = node('charset = "gb18030"', results=[long])
    pacs.accept(*EVERY_CLASS)
    sent = deliver(bench)
    assert sent.state is DeliveryState.WAITING
    assert "AdditionalPatientHistory is too long in GB18030" in sent.error
    assert "set charset to 'utf-8'" in sent.remedy
    assert pacs.uids() == []


def test_a_run_with_nothing_for_a_peer_is_delivered_without_calling_it(node):
    bench = node('objects = ["key_objects"]')
    assert deliver(bench).state is DeliveryState.DELIVERED
