"""A model is asked for probabilities where a destination or the route's form wants them."""

from types import SimpleNamespace

import numpy as np
import pytest

from inference.assessment import Laterality
from inference.phantom import HeadPhantom
from inference.simulation import scan_grid
from node import steps
from node.assembly import assemble
from node.run_folder import RunFolder
from node.steps import Workbench
from sr_writer.conformance import check_objects
from sr_writer.kinds import Kind
from sr_writer.writing import write_results
from tests.node.studies import HEAD, PACS, make_settings
from tests.slices import write_slices
from tests.sr_writer.series import PROVENANCE

RUN = SimpleNamespace(id="run", route="head-ct")
SHAPE, SPACING = (46, 128, 128), (3.5, 1.7, 1.7)


@pytest.fixture(scope="module")
def bleeding(tmp_path_factory):
    """A series with a bleed, as the node assembles it."""
    phantom = HeadPhantom(31, haemorrhage=True, diameter_mm=30, side=Laterality.LEFT)
    affine = scan_grid(phantom, SHAPE, SPACING)
    folder = tmp_path_factory.mktemp("series")
    write_slices(folder, phantom.render(affine, SHAPE)[0].round().astype("int16"), affine)
    return assemble(tuple(sorted(folder.iterdir())))


@pytest.fixture
def bench_for(tmp_path):
    benches = []

    def make(objects, segmentation="binary"):
        peer = PACS | {"objects": objects}
        route = HEAD | {"model": "builtin/head_ct", "segmentation": segmentation}
        settings = make_settings(tmp_path)
        settings = type(settings)(node=settings.node, peers=[peer], routes=[route])
        benches.append(Workbench(settings, None))
        return benches[-1]

    yield make
    for bench in benches:
        bench.resident.close()


def test_a_map_is_written_where_a_destination_takes_it(bench_for, bleeding, tmp_path):
    bench = bench_for(["segmentation", "parametric_map"])
    folder = RunFolder(tmp_path / "run")
    folder.save_assessment(steps._assessment(bench, RUN, bleeding))
    assessment = folder.assessment()
    np.testing.assert_array_equal(assessment.probabilities[1] > 127, assessment.masks[1])
    results = write_results(
        assessment,
        bleeding.headers,
        bleeding.volume,
        PROVENANCE,
        predecessors={},
        kinds=bench.settings.peers[0].objects,
        languages=(),
    )
    assert [result.kind for result in results] == [Kind.SEGMENTATION, Kind.PARAMETRIC_MAP]
    objects = [result.dataset for result in results]
    model = assessment.record.model
    problems = check_objects(
        objects, bleeding.headers, bleeding.volume, model=model, assessment=assessment
    )
    assert not problems


@pytest.mark.parametrize(("segmentation", "wanted"), [("binary", set()), ("fractional", {1})])
def test_else_only_a_fractional_segmentation_has_the_model_give_probabilities(
    bench_for, bleeding, segmentation, wanted
):
    bench = bench_for(["segmentation", "report"], segmentation)
    assert set(steps._assessment(bench, RUN, bleeding).probabilities) == wanted
