"""Simulated heads on the model grid, made once and kept as shards for training."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference.phantom import HeadPhantom, Lesion

GRID = (64, 80, 64)
SPACING_MM = 2.5
SHARD = 50

CENTRE_ABOVE_SKULL_MM = 9.0
"""The runtime centres the grid on the foreground below the vertex, which is about this far above
the phantom's own centre; `_JITTER_MM` covers how far it misses."""
_JITTER_MM = (5.0, 5.0, 8.0)


def model_grid(centre: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Affine (4, 4) of the model grid around `centre` (LPS mm), slices towards the vertex."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * SPACING_MM
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(GRID) - 1) / 2)
    return affine


def simulate(seed: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], Lesion | None]:
    """HU and truth of one head on the model grid, with what is true of it."""
    phantom = HeadPhantom(seed)
    rng = np.random.default_rng([seed, 2])
    jitter = rng.uniform(-1, 1, 3) * _JITTER_MM
    affine = model_grid(phantom.centre + jitter + np.array([0, 0, CENTRE_ABOVE_SKULL_MM]))
    hu, truth = phantom.render(affine, GRID)
    return hu.round().clip(-1024, 3071).astype(np.int16), truth, phantom.lesion


def write_shards(folder: Path, first_seed: int, shards: int) -> None:
    """Write `shards` shards of SHARD heads each; shards that exist already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        path = folder / f"{shard:04d}.pickle"
        if path.exists():
            continue
        heads = [simulate(first_seed + shard * SHARD + index) for index in range(SHARD)]
        content = {
            "hu": np.stack([head[0] for head in heads]),
            "truth": np.packbits(np.stack([head[1] for head in heads]), axis=-1),
            "lesions": [head[2] for head in heads],
        }
        partial = path.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(content, protocol=5))
        partial.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=16)
    arguments = parser.parse_args()
    write_shards(arguments.folder, 1_000_000, arguments.shards)
