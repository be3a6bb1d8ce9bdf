from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest

from inference.assessment import Assessment, Laterality, Mask
from inference.bundle import BUILTIN, find_bundle
from inference.model import Model, load_model
from inference.phantom import HeadPhantom
from inference.providers import SessionSettings
from inference.simulation import scan_grid, volume_of
from inference.volume import Volume

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SHAPE, SPACING = (46, 128, 128), (3.5, 1.7, 1.7)
BLEEDING_SEED, CLEAR_SEED = 31, 32


@dataclass(frozen=True, eq=False)
class Scan:
    """A simulated acquisition with its truth."""

    phantom: HeadPhantom
    volume: Volume
    truth: Mask


def scan(phantom: HeadPhantom, shape=SHAPE, spacing=SPACING, **grid) -> Scan:
    affine = scan_grid(phantom, shape, spacing, **grid)
    hu, truth = phantom.render(affine, shape)
    return Scan(phantom, volume_of(hu, affine), truth)


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model(find_bundle(BUILTIN), SessionSettings(threads=1))


@pytest.fixture(scope="session")
def left_bleed() -> HeadPhantom:
    return HeadPhantom(BLEEDING_SEED, haemorrhage=True, diameter_mm=30, side=Laterality.LEFT)


@pytest.fixture(scope="session")
def bleeding(left_bleed: HeadPhantom) -> Scan:
    return scan(left_bleed)


@pytest.fixture(scope="session")
def clear() -> Scan:
    return scan(HeadPhantom(CLEAR_SEED, haemorrhage=False))


@pytest.fixture(scope="session")
def bleeding_assessment(model: Model, bleeding: Scan) -> Assessment:
    return model.assess(bleeding.volume, at=AT)


@pytest.fixture(scope="session")
def clear_assessment(model: Model, clear: Scan) -> Assessment:
    return model.assess(clear.volume, at=AT)


def dice(a: Mask, b: Mask) -> float:
    return 2 * float((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


def centre(mask: Mask, affine) -> np.ndarray:
    return affine[:3, :3] @ np.argwhere(mask).mean(0) + affine[:3, 3]
