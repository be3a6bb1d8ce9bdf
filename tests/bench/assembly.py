"""How fast a series becomes a volume, as ratios against SimpleITK and a plain read of the bytes.

    python tests/bench/assembly.py [SLICES]

Each is run in turn, several times; the medians are compared. Ratios, not seconds, are the claim.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # as its documentation does

sys.path.insert(0, str(Path(__file__).parents[2]))

from node.assembly import assemble
from tests.slices import grid_affine, write_slices

ROUNDS = 5


def read_by_simpleitk(paths):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    return sitk.GetArrayFromImage(reader.Execute())


def read_bytes(paths):
    return [np.fromfile(path, np.int16) for path in paths]


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 160
    stored = np.random.default_rng(1).integers(-1000, 2000, (count, 512, 512)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_slices(Path(folder) / "series", stored, grid_affine())
        ways = {"overread": assemble, "SimpleITK": read_by_simpleitk, "np.fromfile": read_bytes}
        seconds = {name: [] for name in ways}
        for _ in range(ROUNDS + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way(paths)
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name in ("SimpleITK", "np.fromfile"):
        ratio = medians["overread"] / medians[name]
        print(f"{count} slices of 512 x 512: overread takes {ratio:.2f} times as long as {name}")


if __name__ == "__main__":
    main()
