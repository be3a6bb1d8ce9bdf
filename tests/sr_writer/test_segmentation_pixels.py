"""Frames hold the pixels of the masks, whatever their number and the size of a frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference.assessment import LabelMap
from sr_writer import segmentation_pixels
from sr_writer.segmentation_pixels import label_frames, outline, overlap, packed_bits

COUNT = 3
LABELS = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, COUNT),
)


@given(LABELS)
def test_bits_are_those_of_the_masks(labels):
    masks = {number: labels == number for number in range(1, COUNT + 1)}
    frames = [mask[image] for mask in masks.values() for image in np.flatnonzero(mask.any((1, 2)))]
    expected = np.packbits(np.array(frames, bool), bitorder="little").tobytes()
    expected += b"\0" * (len(expected) % 2)
    for given_as in (masks, LabelMap(labels, COUNT)):
        pieces = sorted(outline(given_as))
        assert packed_bits(pieces, given_as, labels[0].size) == expected


@given(LABELS)
def test_numbers_are_those_of_the_label_map(labels):
    masks = {number: labels == number for number in range(1, COUNT + 1)}
    images = [int(image) for image in np.flatnonzero(labels.any((1, 2)))]
    for given_as in (masks, LabelMap(labels, COUNT)):
        made = label_frames(images, outline(given_as), given_as, labels[0].size)
        assert made[: labels[images].size] == labels[images].tobytes()


def test_more_numbers_than_a_byte_has_take_two():
    labels = np.arange(260, dtype=np.uint16).reshape(1, 13, 20)
    masks = LabelMap(labels, 259)
    assert label_frames([0], outline(masks), masks, 260) == labels.astype("<u2").tobytes()


@given(LABELS, LABELS)
def test_masks_overlap_where_a_pixel_is_part_of_two(first, second):
    if first.shape == second.shape:
        masks = {1: first > 0, 2: second > 0}
        expected = bool((masks[1] & masks[2]).any())
        assert overlap(sorted(outline(masks)), masks) == expected


def test_numbers_of_no_segment_are_refused():
    with pytest.raises(ValueError, match="number 3 of no segment"):
        outline(LabelMap(np.full((1, 2, 2), 3, np.uint8), 2))


def test_more_than_an_object_can_hold_is_refused(monkeypatch):
    monkeypatch.setattr(segmentation_pixels, "MAX_VALUE_LENGTH", 3)
    masks = {1: np.ones((2, 4, 8), bool)}
    with pytest.raises(ValueError, match="an object can hold 4 GB"):
        packed_bits(outline(masks), masks, 32)
