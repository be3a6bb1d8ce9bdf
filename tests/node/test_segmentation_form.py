"""The form of a route's segmentation, and what is said where it cannot be had."""

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from inference.assessment import Assessment
from node import steps
from node.steps import Workbench
from tests.node.studies import HEAD, PACS, make_settings
from tests.sr_writer.series import make_volume, two_segments
from tests.sr_writer.test_segmentation_content import with_probabilities

RUN = SimpleNamespace(id="run", route="head-ct", supersedes=None)
VOLUME = make_volume()


def written(folder, monkeypatch, form, assessment):
    """The Segmentation Type that a route with `form` makes, and the warnings on the way."""
    settings = make_settings(folder)
    peer = PACS | {"objects": ["segmentation"]}
    route = HEAD | {"segmentation": form}
    settings = type(settings)(node=settings.node, peers=[peer], routes=[route])
    bench = Workbench(settings, None)
    assembled = SimpleNamespace(headers=VOLUME.sources, volume=VOLUME)
    monkeypatch.setattr(Workbench, "series", lambda *_: assembled)
    bench.folder(RUN.id).save_assessment(assessment)
    with capture_logs() as logs:
        steps.write(bench, RUN, "1.2.3")
    made, *_ = bench.folder(RUN.id).objects()
    return made.SegmentationType, [log for log in logs if log["event"] == "segmentation.form"]


@pytest.mark.parametrize("form", ["binary", "labelmap", "fractional"])
def test_it_is_written_in_the_form_of_its_route(form, tmp_path, monkeypatch):
    assessment = with_probabilities(two_segments(VOLUME, overlap=False))
    assert written(tmp_path, monkeypatch, form, assessment) == (form.upper(), [])


@pytest.mark.parametrize(("form", "overlap"), [("labelmap", True), ("fractional", False)])
def test_it_is_said_where_it_cannot_be(form, overlap, tmp_path, monkeypatch):
    shown = two_segments(VOLUME, overlap=overlap)
    assessment = Assessment(shown.record, shown.masks)
    made, (log,) = written(tmp_path, monkeypatch, form, assessment)
    assert (made, log["asked"], log["written"]) == ("BINARY", form, "binary")
