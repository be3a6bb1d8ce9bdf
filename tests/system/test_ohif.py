"""What a radiologist sees of the node's results in OHIF, read from its page and its pixels.

Set OVERREAD_SCREENSHOTS to a folder to keep the pictures that docs/viewers.md shows.
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage

from node.dicomweb.access import digest_of
from node.tables import RunState
from tests.node.configuration import free_ports, write_config
from tests.system.canvas_reader import box, dice, in_picture, is_coloured, is_white
from tests.system.ohif import needs_ohif, viewer
from tests.system.peers import Node, Orthanc, await_true, needs_dcmtk, needs_orthanc, running

pytestmark = [pytest.mark.peers, needs_orthanc, needs_dcmtk, needs_ohif]

FINDING = "Intracranial haemorrhage"
TOKEN = "of_those_who_look"  # noqa: S105
PDF_VIEWER_WITHOUT_STORAGE = "page: Cannot read properties of null (reading 'setItem')"
"""Chromium's own PDF viewer keeps its settings where the frame that OHIF gives it may not."""
OBJECTS = 'objects = ["segmentation", "secondary_capture", "report", "text_report", "pdf"]'


@pytest.fixture(scope="module")
def pacs(tmp_path_factory, head):
    """A PACS that holds the study and what the node delivered of it."""
    folder = tmp_path_factory.mktemp("ohif")
    pacs_port, dicomweb_port, viewer_port = free_ports(3)
    config = write_config(folder, pacs_port=pacs_port)
    text = config.read_text().replace('name = "pacs"', f'name = "pacs"\n{OBJECTS}', 1)
    config.write_text(
        f'{text}\n[dicomweb]\nport = {dicomweb_port}\norigins = ["{origin(viewer_port)}"]\n'
        f'[[dicomweb.clients]]\nname = "viewer"\ntoken_sha256 = "{digest_of(TOKEN)}"\n'
        'may = ["read"]\n'
    )
    node = Node(config)
    with running(node):
        node.start()
        pacs = Orthanc(folder / "orthanc", node_port=node.settings.node.port, dicom_port=pacs_port)
        with running(pacs):
            pacs.store(head.paths[0].parent)
            (run,) = node.await_runs(head.study_uid)
            assert run.state is RunState.DELIVERED, run.error
            pacs.of_node = {"root": f"{origin(dicomweb_port)}/dicom-web", "port": viewer_port}
            yield pacs


@pytest.fixture(scope="module")
def ohif(pacs):
    with viewer(pacs.http_port) as window:
        yield window


def origin(port):
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def window(ohif, head):
    """OHIF with the study open; nothing may have gone wrong by the end of the test."""
    yield ohif.open(head.study_uid)
    assert ohif.errors == []


def test_the_segmentation_is_shown_over_the_lesion(window, head):
    window.show("SEG")
    window.accept("open this Segmentation")
    (row,) = window.open_panel("panelSegmentation")
    assert FINDING in row
    window.go_to_first_image()
    window.click_row(0)
    number = await_true(lambda: beside(window, best_image(head)), 60, "the jump to the segment")
    await_true(lambda: is_coloured(window.pixels()).any(), 60, "the overlay")
    picture = window.pixels()
    expected = lesion_in(picture, head, number)
    shown = is_coloured(picture)
    assert dice(shown, expected) > 0.85
    check_side(window, picture, shown)
    keep(window, "segmentation")


def test_the_report_is_drawn_on_its_best_slice_and_becomes_a_measurement(window, head, pacs):
    report = measurement_report(pacs, head)
    window.show("SR", description=report.SeriesDescription)
    window.await_question("continue tracking")
    await_true(lambda: beside(window, best_image(head)), 60, "the best slice")
    await_true(lambda: window.tracked() == tracking_uids(report), 60, "what is tracked")
    for said in ("Volume: ", "Long axis: ", "Certainty of Finding: "):
        await_true(lambda said=said: is_said(window, said), 60, said)
    await_true(lambda: off_by(window, head) < 12, 60, "the box on the lesion")
    number = window.instance_number()
    keep(window, "report")

    window.accept("continue tracking")
    (row,) = window.open_panel("trackedMeasurements")
    assert f"{FINDING} (AI, unverified)" in row
    window.go_to_first_image()
    window.click_row(0)
    await_true(lambda: window.instance_number() == number, 60, "the jump to the measurement")
    keep(window, "measurement")


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("English", f"{FINDING}: present"),
        ("Chinese", "颅内出血：存在"),
    ],
    ids=["english", "chinese"],
)
def test_the_report_in_words_is_read_in_either_language(window, language, said):
    window.show("SR", description=f"text report, {language}")
    window.page.get_by_text(said).wait_for()
    keep(window, f"text-{language}".lower())


def test_key_images_show_the_outline_in_their_pixels(window):
    window.show("OT", description="key images")
    await_true(lambda: window.instance_number() == 1, 60, "the first key image")
    await_true(lambda: is_coloured(window.pixels()).any(), 60, "the outline")
    keep(window, "key-image")


def test_the_pdf_is_shown(window):
    window.show("DOC", description="PDF")
    await_true(lambda: white_part(window) > 0.2, 60, "the page")
    keep(window, "pdf")
    window.errors[:] = [error for error in window.errors if error != PDF_VIEWER_WITHOUT_STORAGE]


def test_the_node_shows_study_and_results_itself(ohif, pacs, head):
    with ohif.over(**pacs.of_node, token=TOKEN) as window:
        window.open(head.study_uid)
        window.show("SEG")
        window.accept("open this Segmentation")
        (row,) = window.open_panel("panelSegmentation")
        assert FINDING in row
        window.go_to_first_image()
        window.click_row(0)
        number = await_true(lambda: beside(window, best_image(head)), 60, "the jump")
        await_true(lambda: is_coloured(window.pixels()).any(), 60, "the overlay")
        picture = window.pixels()
        assert dice(is_coloured(picture), lesion_in(picture, head, number)) > 0.85
        keep(window, "node")
        window.show("SR", description=measurement_report(pacs, head).SeriesDescription)
        window.await_question("continue tracking")
        await_true(lambda: is_said(window, "Volume: "), 60, "the measurements")
        assert window.errors == []


def white_part(window):
    """The part of the window that is as white as paper."""
    return np.mean(window.whole().min(-1) == 255)


def measurement_report(pacs, head):
    reports = [dcmread(io.BytesIO(encoded)) for encoded in pacs.instances(head.study_uid, "SR")]
    (found,) = (one for one in reports if one.SOPClassUID == Comprehensive3DSRStorage)
    return found


def best_image(head):
    """Number of the image in which the lesion is largest."""
    return int(np.argmax(np.count_nonzero(head.truth, axis=(1, 2)))) + 1


def beside(window, best):
    """The number of the image that is shown, where it is one of those around the best."""
    number = window.instance_number()
    return number if number is not None and abs(number - best) <= 3 else None


def is_said(window, beginning):
    """Whether a line over the image begins so."""
    return any(line.startswith(beginning) for line in window.words())


def off_by(window, head):
    """By how many pixels of the canvas the lines that are drawn miss the true lesion's box."""
    lines, number = window.lines_box(), window.instance_number()
    if number is None or not lines or None in lines:
        return np.inf
    return np.abs(np.array(lines) - box(lesion_in(window.pixels(), head, number))).max()


def lesion_in(picture, head, number):
    """The true lesion of an image as it should lie in the picture [y, x]."""
    image = dcmread(head.paths[number])  # the scout is the first
    assert image.InstanceNumber == number
    return in_picture(head.truth[number - 1], image, picture)


def check_side(window, picture, shown):
    """The patient's left, where this lesion is, is at the right of the head."""
    assert window.orientation() == ("R", "A")
    left, _, right, _ = box(is_white(picture))
    assert box(shown)[0] > (left + right) / 2


def tracking_uids(report):
    """Tracking Unique Identifiers in a report, each once."""
    (measurements,) = (
        item
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    return list(
        dict.fromkeys(
            str(item.UID)
            for group in measurements.ContentSequence
            for item in group.ContentSequence
            if item.ValueType == "UIDREF"
        )
    )


def keep(window, name):
    """Keep a picture for the documentation, where one is asked for."""
    folder = os.environ.get("OVERREAD_SCREENSHOTS")
    if folder:
        window.screenshot(Path(folder) / f"ohif-{name}.png")
