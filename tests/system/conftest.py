"""Simulated head studies that the system tests share."""

import pytest

from inference.assessment import Laterality
from node.simulated_scanner import write_head_study

SEED = 7


@pytest.fixture(scope="session")
def head(tmp_path_factory):
    """A CT head with a haemorrhage on the left; small, because it is sent often."""
    folder = tmp_path_factory.mktemp("head")
    return write_head_study(
        folder,
        seed=SEED,
        slices=64,
        matrix=192,
        haemorrhage=True,
        side=Laterality.LEFT,
        diameter_mm=34,
    )
