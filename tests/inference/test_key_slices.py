import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from inference.assessment import NotForThisModel
from inference.key_slices import CANDIDATES, VIEWS, Lightbox
from inference.manifest import KeySlices
from inference.simulation import PLANES, volume_of

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PAD = tuple(int(255 * share) for share in MEAN)
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def spec(**changes) -> KeySlices:
    given = {
        "modalities": ("CT", "MR"),
        "window": (-160.0, 240.0),
        "size": 48,
        "interpolation": "bicubic",
        "mean": MEAN,
        "std": STD,
        "rule": "uniform",
        "count": 4,
        "presentation": "images",
    }
    return KeySlices(**(given | changes))


def grey(picture: np.ndarray) -> np.ndarray:
    """Red channel of a normalised picture, 0..255."""
    return 255 * (picture[0] * STD[0] + MEAN[0])


def affine_of(directions, spacing, shape, turn=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Affine of a stack centred on the origin; `directions` of slice, row, column."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.array(directions).T
    affine[:3, :3] = turned * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@st.composite
def acquisitions(draw) -> tuple[str, np.ndarray, tuple[int, int, int]]:
    """Plane, affine and shape of any stack: in-plane axes swapped or not, each of them reversed."""
    plane = draw(st.sampled_from(sorted(PLANES)))
    directions = [np.array(direction, dtype=float) for direction in PLANES[plane]]
    if draw(st.booleans()):
        directions[1:] = directions[:0:-1]
    signs = [draw(st.sampled_from((1, -1))) for _ in range(3)]
    directions = [sign * direction for sign, direction in zip(signs, directions, strict=True)]
    shape = draw(st.tuples(st.integers(6, 14), st.integers(24, 40), st.integers(24, 40)))
    spacing = draw(st.tuples(st.floats(2, 6), st.floats(2.0, 4), st.floats(2.0, 4)))
    turn = draw(st.tuples(*(st.floats(-12, 12),) * 3))
    return plane, affine_of(directions, spacing, shape, turn), shape


@settings(max_examples=150, deadline=None)
@given(acquisitions(), st.tuples(*(st.sampled_from((-1, 1)),) * 3))
def test_a_marker_in_the_patient_is_where_a_radiologist_expects_it(acquisition, corner) -> None:
    plane, affine, shape = acquisition
    hu = np.zeros(shape, dtype=np.float32)
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    reach = np.abs(points).max(axis=(0, 1, 2))
    marker = (np.abs(points / reach - 0.5 * np.array(corner)) < 0.3).all(axis=-1)
    # An oblique stack may cut its corners off: then there is nothing to look for.
    if not marker.any():
        return
    hu[marker] = 240
    box = Lightbox(volume_of(hu, affine), spec(window=(0.0, 240.0)))
    slices = box.in_viewing_order(range(shape[0]))
    shown = np.stack([grey(picture) for picture in box.pictures(slices)])
    shown = shown > (255 + PAD[0]) / 2  # brighter than the bands of padding
    order, down, across = (
        float((np.arange(extent) * shown.sum(axis=rest)).sum() / shown.sum()) - (extent - 1) / 2
        for extent, rest in zip(shown.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
    )
    left, back, head = corner
    expected = {
        "axial": (-head, back, left),
        "coronal": (back, -head, left),
        "sagittal": (left, -head, back),
    }[plane]
    assert tuple(np.sign((order, down, across))) == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pictures_do_not_depend_on_how_the_stack_was_stored(data) -> None:
    plane = data.draw(st.sampled_from(sorted(AXES)))
    view = VIEWS[AXES[plane]]
    shape, spacing = (9, 28, 20), (5.0, 4.0, 4.0)
    seed = data.draw(st.integers(0, 99))
    hu = np.random.default_rng(seed).uniform(-160, 240, shape).astype(np.float32)
    hung = affine_of((view[2], view[1], view[0]), spacing, shape)
    stored, affine = hu, hung
    for axis in range(3):
        if data.draw(st.booleans()):
            affine = affine.copy()
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
            stored = np.flip(stored, axis)
    if data.draw(st.booleans()):
        stored, affine = stored.swapaxes(1, 2), affine[:, [0, 2, 1, 3]]
    reference = Lightbox(volume_of(hu, hung), spec())
    box = Lightbox(volume_of(np.ascontiguousarray(stored), affine), spec())
    everywhere = range(shape[0])
    assert reference.in_viewing_order(everywhere) == tuple(everywhere)
    expected = reference.pictures(tuple(everywhere))
    found = box.pictures(box.in_viewing_order(everywhere))
    assert np.array_equal(found, expected)
    assert np.array_equal(
        box.montage(box.in_viewing_order(everywhere)), reference.montage(tuple(everywhere))
    )


AXIAL = ((0, 0, -1), (0, 1, 0), (1, 0, 0))


def block(shape=(40, 40, 40), body=slice(8, 32), value=40.0) -> np.ndarray:
    """Air with a block of tissue; on every slice a table top, which is no body."""
    hu = np.full(shape, -1000, dtype=np.float32)
    hu[body, 8:32, 8:32] = value
    hu[:, 36, :] = 100
    return hu


def test_slices_are_spread_over_the_body_and_not_over_the_table() -> None:
    box = Lightbox(volume_of(block(), affine_of(AXIAL, (5, 4, 4), (40, 40, 40))), spec())
    assert box.extent == (8, 31)
    assert box.spread(4) == (11, 17, 23, 29)
    assert box.spread(100) == tuple(range(8, 32))
    assert len(box.candidates()) == min(CANDIDATES * 4, 24)


def test_a_stack_from_the_feet_is_shown_from_the_head() -> None:
    upward = ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    box = Lightbox(volume_of(block(), affine_of(upward, (5, 4, 4), (40, 40, 40))), spec())
    assert box.spread(4) == (29, 23, 17, 11)


def test_a_montage_fills_its_grid_from_the_top_left() -> None:
    hu = np.full((10, 32, 32), -1000, dtype=np.float32)
    for index in range(10):
        hu[index] = 40.0 * index - 160
    box = Lightbox(volume_of(hu, affine_of(AXIAL, (5, 4, 4), hu.shape)), spec(size=96))
    picture = grey(box.montage((1, 3, 5, 7, 9))[0])
    assert picture.shape == (96, 96)
    # Three across, two down, in the middle of a square.
    found = [
        float(picture[row, column]) for row, column in itertools.product((32, 64), (16, 48, 80))
    ]
    expected = [25.5 * index for index in (1, 3, 5, 7, 9)] + [PAD[0]]
    np.testing.assert_allclose(found, expected, atol=1.0)


def test_uneven_pixels_keep_the_patients_proportions() -> None:
    hu = np.full((8, 20, 40), -1000, dtype=np.float32)
    hu[:, 5:15, 10:30] = 240
    box = Lightbox(volume_of(hu, affine_of(AXIAL, (5, 8, 4), hu.shape)), spec(size=80))
    bright = grey(box.pictures((4,))[0]) > 128
    assert abs(int(bright[40].sum()) - int(bright[:, 40].sum())) <= 1


def test_mr_is_scaled_to_its_own_percentiles() -> None:
    rng = np.random.default_rng(0)
    values = np.zeros((12, 40, 40), dtype=np.float32)
    values[:, 8:32, 8:32] = rng.uniform(300, 900, (12, 24, 24))
    affine = affine_of(AXIAL, (5, 4, 4), values.shape)
    a, b = (
        Lightbox(volume_of(values * scale, affine, modality="MR"), spec()).pictures((5,))
        for scale in (1, 7)
    )
    np.testing.assert_allclose(a, b, atol=0.02)
    assert grey(a[0])[24, 24] > 1
    assert grey(a[0]).max() > 250


@pytest.mark.parametrize(
    ("hu", "modality", "reason"),
    [
        (block(), "MR", "The model reads CT, this series is MR."),
        (np.full((12, 40, 40), -1000, dtype=np.float32), "CT", "No body is seen in the images."),
        (block(value=-900.0), "CT", "No body is seen in the images."),
    ],
)
def test_what_is_not_for_the_model_is_refused(hu, modality: str, reason: str) -> None:
    volume = volume_of(hu, affine_of(AXIAL, (5, 4, 4), hu.shape), modality=modality)
    with pytest.raises(NotForThisModel, match=reason):
        Lightbox(volume, spec(modalities=("CT",)))


@pytest.mark.parametrize("shape", [(8, 40, 40), (8, 31, 44), (8, 50, 37)])
def test_pictures_equal_the_published_preprocessing(shape) -> None:
    processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    size = 48
    published = processing.CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    hu = np.random.default_rng(1).uniform(-200, 300, shape).astype(np.float32)
    box = Lightbox(volume_of(hu, affine_of(AXIAL, (5, 4, 4), shape)), spec(size=size))
    rows, columns = shape[1:]
    side = max(rows, columns)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = PAD
    top, left = (side - rows) // 2, (side - columns) // 2
    eight_bits = np.rint((hu[3].clip(-160, 240) + 160) * (255 / 400)).astype(np.uint8)
    square[top : top + rows, left : left + columns] = eight_bits[..., None]
    expected = published.preprocess(Image.fromarray(square), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(box.pictures((3,)), expected, atol=1e-6)
