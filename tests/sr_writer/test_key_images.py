"""A key picture shows the slice as wide as it is, with the right sides and the segment on it."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageChops

from inference.assessment import Assessment
from sr_writer.key_images import FOOTER_HEIGHT, _position, draw_key_slices, sides
from tests.sr_writer.series import AXIAL, OBLIQUE, SAGITTAL, absent, make_volume, on_slices, present


def picture(volume, assess=present):
    ((index, png),) = draw_key_slices(assess(volume), volume)
    return index, Image.open(BytesIO(png))


def red(image):
    """Where something is clearly red: the contour of segment 1 (and its name in the corner)."""
    pixels = np.asarray(image.convert("RGB")).astype(int)[:-FOOTER_HEIGHT]
    found = (pixels[..., 0] > 200) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)
    found[:120, :220] = False
    return np.argwhere(found)


def test_a_millimetre_is_as_wide_as_it_is_high():
    volume = make_volume(SAGITTAL, shape=(24, 60, 120), spacing=(5.0, 3.0, 1.5))
    _, image = picture(volume)
    width, height = image.width, image.height - FOOTER_HEIGHT
    assert (width, height) == (768, 768)
    lesion = red(image)
    down, across = np.ptp(lesion, axis=0)
    assert down == pytest.approx(across, rel=0.15)


@pytest.mark.parametrize("descending", [False, True])
def test_a_left_sided_lesion_is_drawn_on_the_side_marked_left(descending):
    volume = make_volume(AXIAL, descending=descending)
    assert sides(volume.grid.affine[:3, 2]) == "L"
    _, image = picture(volume)
    assert red(image)[:, 1].mean() > image.width / 2


@pytest.mark.parametrize(
    ("orientation", "across", "down"),
    [(AXIAL, "L", "P"), (SAGITTAL, "P", "F"), (OBLIQUE, "LH", "P")],
)
def test_sides_follow_the_affine(orientation, across, down):
    affine = make_volume(orientation).grid.affine
    assert sides(affine[:3, 2]) == across
    assert sides(affine[:3, 1]) == down


def test_the_position_is_that_of_the_slice():
    volume = make_volume(AXIAL)
    assert _position(volume, 0) == "F 92.0 mm"
    assert _position(volume, len(volume.sources) - 1) == "H 92.0 mm"


def test_nothing_is_drawn_where_nothing_was_found():
    volume = make_volume()
    index, image = picture(volume, absent)
    assert index == 12
    assert len(red(image)) == 0


def test_a_finding_without_outline_is_named_on_its_slices_and_only_there():
    volume = make_volume()
    found = on_slices(volume, 9)
    elsewhere = Assessment(found.record.model_copy(update={"key_slices": (4, 12)}))
    nothing = Assessment(elsewhere.record.model_copy(update={"findings": ()}))
    pictures, plain = (dict(draw_key_slices(each, volume)) for each in (elsewhere, nothing))
    assert list(pictures) == [4, 12, 9]
    assert list(plain) == [4, 12]
    assert pictures[12] == plain[12]
    differs = ImageChops.difference(*(Image.open(BytesIO(each[4])) for each in (pictures, plain)))
    left, top, right, bottom = differs.getbbox()
    assert (left, right - left) > (0, 150)
    assert top > 50
    assert bottom < 90


def test_values_without_unit_get_a_window_of_their_own():
    volume = make_volume(modality="MR")
    _, image = picture(volume, absent)
    assert np.asarray(image).std() > 20


def test_the_series_own_window_is_used():
    volume = make_volume()
    for source in volume.sources:
        source.WindowCenter, source.WindowWidth = [5000, 40], [10, 80]
    _, image = picture(volume, absent)
    inside = np.asarray(image.convert("L"))[300:400, 200:400]
    assert inside.max() == 0
