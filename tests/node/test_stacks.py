"""Images at the same positions: twins are dropped, stacks are told apart, a rule chooses one."""

import time

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from inference.volume import Geometry
from node.assembly import assemble
from node.separators import separating_values
from tests.multi_frames import one, write_enhanced
from tests.slices import decimals, grid_affine, write_slices

SLICES = 6


def interleaved(tmp_path, mark, *, stacks=2, slices=SLICES, modality="MR", change=None):
    """A series with `stacks` images at each position; `mark(header, n)` makes one of stack n.

    Every pixel of stack n has the value 100 * n + slice.
    """
    affine = grid_affine(spacing=(3, 1, 1))
    numbers = np.arange(slices * stacks)
    stored = (100 * (numbers % stacks) + numbers // stacks).astype(np.int16)
    stored = stored[:, None, None] * np.ones((5, 4), np.int16)

    def place(header, k):
        position, number = k // stacks, k % stacks
        header.ImagePositionPatient = list(affine[:3, 3] + position * affine[:3, 0])
        mark(header, number)
        if change is not None:
            change(header, k)

    return write_slices(tmp_path, stored, affine, modality=modality, change=place)


def stack_in(volume) -> int:
    """Which stack the volume is made of."""
    values = volume.grid.array[:, 2, 2]
    np.testing.assert_array_equal(values % 100, np.arange(len(values)))
    (number,) = set((values // 100).tolist())
    return int(number)


def set_to(keyword, *values):
    def mark(header, number):
        if values[number] is not None:
            setattr(header, keyword, values[number])

    return mark


def siemens_b_value(header, number):
    block = header.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", str(1000 * (1 - number)))


def ge_b_value(header, number):
    block = header.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x39, "IS", [str(10**9 + 800 * (1 - number)), "0", "0", "0"])


@pytest.mark.parametrize(
    ("mark", "first", "named"),
    [
        pytest.param(set_to("EchoTime", "80", "20"), 1, "echo time 20", id="echoes"),
        pytest.param(
            set_to("TemporalPositionIdentifier", 1, 2), 0, "temporal position 1", id="phases"
        ),
        pytest.param(
            set_to("DiffusionBValue", 1000.0, 0.0), 1, "diffusion b-value 0", id="public b"
        ),
        pytest.param(siemens_b_value, 1, "diffusion b-value 0", id="Siemens b"),
        pytest.param(ge_b_value, 1, "diffusion b-value 0", id="GE b"),
        pytest.param(
            set_to("ImageType", ["ORIGINAL", "PRIMARY", "W"], ["ORIGINAL", "PRIMARY", "F"]),
            1,
            "image type ORIGINAL\\PRIMARY\\F",
            id="Dixon",
        ),
        pytest.param(set_to("ConvolutionKernel", "B70", "B30"), 1, "B30", id="kernels"),
        pytest.param(
            set_to("AcquisitionNumber", 2, 1), 1, "acquisition number 1", id="acquisitions"
        ),
        pytest.param(set_to("TriggerTime", "0", "400"), 0, "trigger time 0", id="cine"),
        pytest.param(lambda _header, _number: None, 0, "instance numbers 1", id="order only"),
    ],
)
def test_the_first_of_several_stacks_is_taken_and_named(tmp_path, mark, first, named):
    assembled = assemble(interleaved(tmp_path, mark))
    assert assembled.verdict.geometry is Geometry.UNIFORM, assembled.verdict.reason
    assert assembled.verdict.slices == SLICES
    assert stack_in(assembled.volume) == first
    (note,) = assembled.volume.limitations
    assert "2 sets of images at the same positions" in note.en
    assert f"{named} was assessed (no rule chose)" in note.en
    assert note.zh


@pytest.mark.parametrize(
    ("rule", "taken"),
    [("EchoTime == 80.0", 0), ("EchoTime < 30.0", 1), ("StackNumber == 2", 0)],
)
def test_a_rule_chooses_the_stack(tmp_path, rule, taken):
    paths = interleaved(tmp_path, set_to("EchoTime", "80", "20"))
    assembled = assemble(paths, stack=rule)
    assert stack_in(assembled.volume) == taken
    assert "the route's rule chose it" in assembled.volume.limitations[0].en


def test_a_private_b_value_can_be_asked_for(tmp_path):
    paths = interleaved(tmp_path, siemens_b_value)
    assert stack_in(assemble(paths, stack="DiffusionBValue > 500.0").volume) == 0


def test_a_rule_that_takes_no_stack_is_said(tmp_path):
    paths = interleaved(tmp_path, set_to("EchoTime", "80", "20"))
    verdict = assemble(paths, stack="EchoTime > 500.0").verdict
    assert not verdict.accepted
    assert verdict.geometry is Geometry.DUPLICATED
    assert "EchoTime > 500.0" in verdict.reason.en
    assert "echo time 20; echo time 80" in verdict.reason.en


def test_two_attributes_together_tell_stacks_apart(tmp_path):
    def mark(header, number):
        header.DiffusionBValue = [1000.0, 0.0, 1000.0, 0.0][number]
        header.EchoTime = ["50", "90", "90", "50"][number]

    assembled = assemble(interleaved(tmp_path, mark, stacks=4))
    assert assembled.verdict.accepted
    assert stack_in(assembled.volume) == 3
    assert "echo time 50, diffusion b-value 0 was" in assembled.volume.limitations[0].en


def test_of_diffusion_directions_the_unweighted_images_are_taken(tmp_path):
    def mark(header, number):
        header.DiffusionBValue = [1000.0, 1000.0, 0.0][number]
        header.DiffusionGradientOrientation = np.eye(3)[number].tolist()

    assembled = assemble(interleaved(tmp_path, mark, stacks=3))
    assert stack_in(assembled.volume) == 2


def test_images_without_a_b_value_are_the_unweighted_ones(tmp_path):
    assembled = assemble(interleaved(tmp_path, set_to("DiffusionBValue", 1000.0, None)))
    assert stack_in(assembled.volume) == 1


def test_frames_are_told_apart_by_their_dimensions(tmp_path):
    affine = grid_affine(spacing=(3, 1, 1))
    frames = np.repeat(np.arange(SLICES, dtype=np.int16), 2)
    stored = (frames + 100 * (np.arange(2 * SLICES) % 2)).astype(np.int16)

    def labelled(groups, k):
        place = affine[:3, 3] + k // 2 * affine[:3, 0]
        groups.PlanePositionSequence[0].ImagePositionPatient = decimals(place)
        content = groups.FrameContentSequence[0]
        content.DimensionIndexValues = [2 - k % 2, k // 2 + 1]

    def of_a_vendor(header):
        header.DimensionIndexSequence[0].DimensionIndexPointer = 0x20051429

    path = write_enhanced(
        tmp_path / "asl.dcm",
        stored[:, None, None] * np.ones((5, 4), np.int16),
        affine,
        change=of_a_vendor,
        frame_change=labelled,
    )
    assembled = assemble([path])
    assert assembled.verdict.accepted, assembled.verdict.reason
    assert "dimension 1 1 was assessed" in assembled.volume.limitations[0].en
    assert stack_in(assembled.volume) == 1


@pytest.mark.parametrize("nonsense", ["no number", ["1", "x"], [1.5, None]])
def test_dimensions_that_are_no_numbers_tell_nothing_apart(nonsense):
    header = Dataset()
    header.add_new("DimensionIndexValues", "LO", nonsense)
    values = separating_values(header)
    assert values["DimensionIndexValues 2"] is None


@pytest.mark.parametrize("nonsense", [b"\x00\x00zD", [], "many"])
def test_a_private_b_value_that_is_no_number_is_none(nonsense):
    header = Dataset()
    block = header.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "UN" if isinstance(nonsense, bytes) else "LO", nonsense)
    assert separating_values(header)["DiffusionBValue"] is None


def test_images_sent_twice_under_other_uids_are_dropped(tmp_path):
    once = write_slices(
        tmp_path / "a", np.arange(60, dtype=np.int16).reshape(6, 5, 2), grid_affine()
    )

    series = generate_uid()

    def of_one_series(header, _):
        header.SeriesInstanceUID = series
        header.FrameOfReferenceUID = "1.2.3"

    both = [
        path
        for folder in ("a", "b")
        for path in write_slices(
            tmp_path / folder,
            np.arange(60, dtype=np.int16).reshape(6, 5, 2),
            grid_affine(),
            change=of_one_series,
        )
    ]
    assembled = assemble(both)
    assert assembled.verdict.geometry is Geometry.UNIFORM
    assert assembled.verdict.set_aside == ("6 x image that was sent twice, with the same pixels",)
    np.testing.assert_array_equal(assembled.volume.grid.array, assemble(once).volume.grid.array)


def test_the_longer_of_two_phases_is_taken(tmp_path):
    paths = interleaved(tmp_path, set_to("AcquisitionNumber", 1, 2), slices=10)
    longer = [path for k, path in enumerate(paths) if k % 2 or k < 12]
    assembled = assemble(longer)
    assert assembled.verdict.slices == 10
    assert stack_in(assembled.volume) == 1


def test_a_slice_that_was_acquired_again_counts_once(tmp_path):
    paths = interleaved(tmp_path, set_to("AcquisitionNumber", 1, 2), slices=10)
    assembled = assemble([path for k, path in enumerate(paths) if k % 2 == 0 or k == 5])
    assert assembled.verdict.accepted
    assert assembled.verdict.set_aside == ("1 x image that was acquired again at its position",)
    assert assembled.volume.grid.array[:, 0, 0].tolist() == [0, 1, 102, 3, 4, 5, 6, 7, 8, 9]


def test_images_that_nothing_tells_apart_are_refused(tmp_path):
    def same_number(header, k):
        header.InstanceNumber = k // 2 + 1

    paths = interleaved(tmp_path, lambda _header, _number: None, change=same_number)
    verdict = assemble(paths).verdict
    assert not verdict.accepted
    assert verdict.geometry is Geometry.DUPLICATED
    assert "no attribute tells them apart" in verdict.reason.en


def test_many_frames_that_nothing_tells_apart_are_read_once(tmp_path):
    affine = grid_affine(spacing=(3, 1, 1))

    def at_one_place(groups, k):
        groups.PlanePositionSequence[0].ImagePositionPatient = decimals(
            affine[:3, 3] + k % 2 * affine[:3, 0]
        )
        del groups.FrameContentSequence[0].DimensionIndexValues

    stored = np.zeros((1000, 8, 8), np.int16)
    path = write_enhanced(tmp_path / "a.dcm", stored, affine, frame_change=at_one_place)
    start = time.process_time()
    verdict = assemble([path]).verdict
    assert time.process_time() - start < 10
    assert verdict.accepted
    assert "instance numbers 1 was" in verdict.notes[-1].en


def test_projections_among_the_frames_are_set_aside(tmp_path):
    def projected(groups, k):
        kind = "PROJECTION IMAGE" if k == 7 else "AXIAL"
        groups.MRImageFrameTypeSequence = one(FrameType=["DERIVED", "PRIMARY", kind, "NONE"])

    stored = np.zeros((8, 6, 6), np.int16)
    path = write_enhanced(tmp_path / "a.dcm", stored, grid_affine(), frame_change=projected)
    verdict = assemble([path]).verdict
    assert verdict.slices == 7
    assert verdict.set_aside == ("1 x projection image",)
