"""Simulated heads on the model grid, made once and kept as shards for training.

Half of them are rendered on the grid itself, at varied places; the other half are scanned on an
acquisition grid and go through the node's own preprocessing, so that the model learns the partial
volume of thick and oblique slices too.
"""

import argparse
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference.phantom import HeadPhantom, Lesion
from inference.preprocess import prepare, upright_grid
from inference.simulation import scan_grid, volume_of
from inference.training.grid import GRID, PREPROCESSING

FIRST_SEED = 1_000_000
SHARD = 50

CENTRE_ABOVE_SKULL_MM = 9.0
"""The runtime centres the grid on the foreground below the vertex, which is about this far above
the phantom's own centre; `JITTER_MM` covers how far it misses."""
JITTER_MM = (5.0, 5.0, 8.0)

REACH_MM = {"axial": 170.0, "coronal": 225.0, "sagittal": 190.0}
"""How far the slices of a scan reach, so that the head is covered."""
PLANES = ("axial", "axial", "axial", "coronal", "sagittal")
FIELD_MM = 240.0

Head = tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], Lesion | None]


def rendered(phantom: HeadPhantom, rng: np.random.Generator) -> Head:
    """HU and truth on a model grid around the head."""
    centre = phantom.centre + rng.uniform(-1, 1, 3) * JITTER_MM
    grid = upright_grid(centre + np.array([0, 0, CENTRE_ABOVE_SKULL_MM]), PREPROCESSING)
    hu, truth = phantom.render(grid, GRID)
    return _stored(hu), truth, phantom.lesion


def scanned(phantom: HeadPhantom, rng: np.random.Generator) -> Head:
    """HU and truth on the model grid that the node finds in a scan of the head."""
    slice_mm, pixel_mm = rng.uniform(1.5, 5.0), rng.uniform(1.2, 2.0)
    plane = str(rng.choice(PLANES))
    pixels = int(FIELD_MM / pixel_mm)
    shape = (int(REACH_MM[plane] / slice_mm), pixels, pixels)
    x, y, z = rng.uniform(-12, 12, 3) * (rng.random() < 0.5)
    affine = scan_grid(
        phantom, shape, (slice_mm, pixel_mm, pixel_mm), plane=plane, turn_degrees=(x, y, z)
    )
    hu, _ = phantom.render(affine, shape)
    model_input = prepare(volume_of(hu, affine), PREPROCESSING)
    _, truth = phantom.render(model_input.affine, GRID, noise=False)
    return _stored(model_input.hu), truth, phantom.lesion


def write_shards(folder: Path, shards: range) -> None:
    """Write `shards` of SHARD heads each; shards that exist already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        path = folder / f"{shard:04d}.pickle"
        if path.exists():
            continue
        heads = []
        for seed in range(FIRST_SEED + shard * SHARD, FIRST_SEED + (shard + 1) * SHARD):
            make = scanned if shard % 2 else rendered
            heads.append(make(HeadPhantom(seed), np.random.default_rng([seed, 2])))
        content = {
            "hu": np.stack([head[0] for head in heads]),
            "truth": np.packbits(np.stack([head[1] for head in heads]), axis=-1),
            "lesions": [head[2] for head in heads],
        }
        partial = path.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(content, protocol=5))
        partial.replace(path)


def _stored(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    return hu.round().clip(-1024, 3071).astype(np.int16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shards", type=int, default=32)
    arguments = parser.parse_args()
    write_shards(arguments.folder, range(arguments.first, arguments.first + arguments.shards))
