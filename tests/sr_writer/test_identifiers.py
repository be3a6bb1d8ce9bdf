"""A UID follows from what it names, and from nothing else."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_writer.identifiers import derive_uid, device_uid, object_uid
from sr_writer.provenance import Provenance
from tests.sr_writer.series import MODEL, PROVENANCE

PARTS = st.lists(st.text(st.characters(exclude_categories=["C"])), min_size=1, max_size=4)


@given(PARTS)
def test_it_is_valid_and_always_the_same(parts):
    uid = derive_uid(*parts)
    assert uid.is_valid
    assert uid.startswith("2.25.")
    assert uid == derive_uid(*parts)


@given(PARTS, PARTS)
def test_other_parts_have_another(first, second):
    assert (derive_uid(*first) == derive_uid(*second)) == (first == second)


def test_a_device_is_its_weights_wherever_it_runs():
    renamed = MODEL.model_copy(update={"name": "Another name"})
    assert device_uid(renamed) == device_uid(MODEL)
    retrained = MODEL.model_copy(update={"digest": "ab" * 32})
    assert device_uid(retrained) != device_uid(MODEL)
    assert object_uid("SR", retrained, PROVENANCE) != object_uid("SR", MODEL, PROVENANCE)


def test_a_time_without_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        Provenance("content", "0.1.0", "OVERREAD", datetime(2026, 11, 21))  # noqa: DTZ001
