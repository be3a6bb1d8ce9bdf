from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import MASS, SHIFT, manifest
from scipy.spatial.transform import Rotation

from inference.assessment import NotForThisModel, Text
from inference.families.m3d_lamed import M3dReader
from inference.foreground import foreground_input
from inference.manifest import ForegroundVolume
from inference.simulation import PLANES, volume_of

SPEC = ForegroundVolume(
    modalities=("CT",),
    window=(-160.0, 240.0),
    size=(16, 64, 64),
    interpolation="trilinear",
    min_slices=8,
)
BODY_MM = np.array([80.0, 60.0, 45.0])
"""Half axes of a body at the origin, along x, y, z."""

BLOB_MM = 14.0


def scan(plane: str, *, reverse: bool, turn: tuple[float, float, float], spacing=(4.0, 3.0, 3.0)):
    """A body whose HU rise towards the left, the back and the head, each at its own rate."""
    directions = np.array(PLANES[plane], dtype=float).T
    if reverse:
        directions[:, 0] *= -1
    turned = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ directions
    reach = np.abs(turned.T) @ BODY_MM + 12
    shape = tuple(int(count) for count in np.ceil(2 * reach / spacing))
    affine = np.eye(4)
    affine[:3, :3] = turned * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    points = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
    inside = np.square(points / BODY_MM[:, None]).sum(axis=0) < 1
    hu = np.where(inside, 40 + RISE @ points, -1000).reshape(shape)
    return volume_of(hu.astype(np.float32), affine)


RISE = np.array([0.3, 0.7, 1.1])
"""HU per mm along x, y, z."""

acquisitions = st.builds(
    scan,
    st.sampled_from(sorted(PLANES)),
    reverse=st.booleans(),
    turn=st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-35, 35)] * 3)),
)


@dataclass
class Speaker:
    """A language model that says [SEG], or does not."""

    states: np.ndarray
    prompts: object = manifest(MASS).prompts.model_copy(
        update={"segment": "{question} Outline it.", "segment_id": 5}
    )
    asked: list[str] = field(default_factory=list)

    def look(self, pictures):
        assert len(pictures) == 1
        return "seen"

    def states_at(self, seen, question, token_id):
        assert (seen, token_id) == ("seen", 5)
        self.asked.append(question)
        return self.states


@dataclass
class Drawing:
    """In place of the graphs: fixed tokens, and a ball of logits at a place of the model grid."""

    centre: np.ndarray | None
    affine: np.ndarray | None = None
    prompts: list[np.ndarray] = field(default_factory=list)

    def __call__(self, inputs):
        assert inputs["volume"].shape == (1, 1, *SPEC.size)
        assert inputs["volume"].dtype == np.float32
        if "prompt" not in inputs:
            return {"image_tokens": np.ones((1, 8, 64), np.float32)}
        self.prompts.append(inputs["prompt"])
        if self.centre is None:
            return {"mask_logits": np.full((1, *SPEC.size), -8, np.float32)}
        away = self.affine[:3, :3] @ (np.indices(SPEC.size).reshape(3, -1) - self.centre[:, None])
        logits = (BLOB_MM - np.linalg.norm(away, axis=0)).reshape(1, *SPEC.size)
        return {"mask_logits": logits.astype(np.float32)}


def reading(volume, drawing: Drawing, states=1, priors=()):
    speaker = Speaker(np.arange(states * 64, dtype=np.float32).reshape(states, 64))
    return M3dReader(SPEC, drawing, drawing, speaker).read(volume, priors)


@settings(max_examples=25, deadline=None)
@given(acquisitions)
def test_the_model_sees_every_acquisition_upright(volume) -> None:
    seen = foreground_input(volume, SPEC)
    points = seen.affine[:3, :3] @ np.indices(SPEC.size).reshape(3, -1) + seen.affine[:3, 3:]
    expected = ((40 + RISE @ points) + 160) / 400
    well_inside = np.square(points / (BODY_MM[:, None] - 9)).sum(axis=0) < 1
    assert well_inside.mean() > 0.2
    difference = np.abs(seen.values.ravel() - expected)[well_inside]
    assert difference.max() < 1e-3
    # Slices towards the head, rows to the back, columns to the left.
    assert np.all(seen.affine[[2, 1, 0], [0, 1, 2]] > 0)
    assert np.count_nonzero(seen.affine[:3, :3]) == 3


@settings(max_examples=25, deadline=None)
@given(acquisitions, st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_an_outline_lands_where_the_model_drew_it(volume, place) -> None:
    affine = foreground_input(volume, SPEC).affine
    target = BODY_MM * place * 0.7
    centre = np.linalg.solve(affine[:3, :3], target - affine[:3, 3])
    found = reading(volume, Drawing(centre, affine)).evidence(MASS)
    assert found is not None
    assert found.laterality is None
    assert found.mask.shape == volume.grid.spatial_shape
    inside = np.array(np.nonzero(found.mask))
    landed = (volume.grid.affine[:3, :3] @ inside + volume.grid.affine[:3, 3:]).mean(axis=1)
    np.testing.assert_allclose(landed, target, atol=1.5)
    ball = 4 / 3 * np.pi * BLOB_MM**3 / 1000
    assert found.mask.sum() * volume.voxel_volume_ml == pytest.approx(ball, rel=0.25)
    assert found.best_slice in found.slices == tuple(np.unique(inside[0]))


def test_an_axial_volume_is_cropped_and_resized_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    volume = scan("axial", reverse=False, turn=(0.0, 0.0, 0.0), spacing=(2.0, 1.1, 1.3))
    seen = foreground_input(volume, SPEC)
    scaled = np.clip((volume.grid.array + 160) / 400, 0, 1)
    slices, rows, columns = np.nonzero(scaled)
    cropped = scaled[
        slices.min() : slices.max() + 1,
        rows.min() : rows.max() + 1,
        columns.min() : columns.max() + 1,
    ]
    expected = torch.nn.functional.interpolate(
        torch.tensor(cropped)[None, None], SPEC.size, mode="trilinear", align_corners=False
    )
    np.testing.assert_allclose(seen.values, expected[0, 0].numpy(), atol=1e-4)
    assert seen.slices == (slices.min(), slices.max())


def test_without_a_window_values_go_from_the_least_to_the_greatest() -> None:
    volume = scan("axial", reverse=False, turn=(0.0, 0.0, 0.0))
    spec = SPEC.model_copy(update={"window": None})
    seen = foreground_input(volume, spec)
    assert 0 <= seen.values.min() < 0.01
    assert 0.97 < seen.values.max() <= 1


def test_states_of_several_answers_are_averaged() -> None:
    volume = scan("axial", reverse=False, turn=(0.0, 0.0, 0.0))
    drawing = Drawing(None)
    one = reading(volume, drawing, states=3)
    assert one.evidence(MASS) is None
    (prompt,) = drawing.prompts
    np.testing.assert_array_equal(prompt, np.arange(64, 128, dtype=np.float32)[None])
    assert one.language.asked == [MASS.question + " Outline it."]


def test_what_is_not_said_or_not_drawn_is_no_evidence() -> None:
    volume = scan("axial", reverse=False, turn=(0.0, 0.0, 0.0))
    drawing = Drawing(None)
    assert reading(volume, drawing, states=0).evidence(MASS) is None
    assert drawing.prompts == []
    assert reading(volume, drawing).evidence(MASS) is None
    speaker = Speaker(np.zeros((1, 64), np.float32))
    assert M3dReader(SPEC, drawing, None, speaker).read(volume, ()).evidence(MASS) is None
    assert speaker.asked == []


def test_a_finding_without_outline_is_seen_on_slices_alone() -> None:
    volume = scan("coronal", reverse=True, turn=(0.0, 0.0, 0.0))
    affine = foreground_input(volume, SPEC).affine
    drawing = Drawing(np.array([8.0, 32.0, 32.0]), affine)
    outlined, slices = (reading(volume, drawing).evidence(spec) for spec in (MASS, SHIFT))
    assert outlined.mask is not None
    assert slices.mask is None
    assert (slices.slices, slices.best_slice) == (outlined.slices, outlined.best_slice)


def test_key_slices_show_the_body_and_priors_are_said_not_to_be_read() -> None:
    volume = scan("axial", reverse=False, turn=(0.0, 0.0, 0.0))
    alone, later = (reading(volume, Drawing(None), priors=p) for p in ((), (volume,)))
    assert alone.limitations == ()
    assert isinstance(later.limitations[0], Text)
    first, last = alone.model_input.slices
    assert len(alone.key_slices()) == 4
    assert all(first < index < last for index in alone.key_slices())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: volume_of(v.grid.array, v.grid.affine, modality="MR"), "reads CT"),
        (lambda v: volume_of(v.grid.array[:7], v.grid.affine), "Too few slices: 7"),
        (lambda v: volume_of(np.full_like(v.grid.array, -900), v.grid.affine), "Nothing is seen"),
    ],
)
def test_what_is_nothing_for_the_model_is_refused(change, reason: str) -> None:
    volume = change(scan("axial", reverse=False, turn=(0.0, 0.0, 0.0)))
    with pytest.raises(NotForThisModel, match=reason):
        reading(volume, Drawing(None))


def test_a_flat_volume_is_refused_without_a_window_too() -> None:
    flat = volume_of(np.zeros((9, 8, 8), np.float32), np.eye(4))
    with pytest.raises(NotForThisModel, match="Nothing is seen"):
        foreground_input(flat, SPEC.model_copy(update={"window": None}))
