"""How fast a series becomes a volume, as ratios against SimpleITK and a plain read of the bytes.

    python tests/bench/assembly.py [SLICES [ROUNDS]]

Uncompressed, and in each compression that SimpleITK (GDCM) reads too, from the same files. Each way
is run in turn, several times, and the median of the rounds' ratios is printed: ratios, not seconds,
are the claim. Memory is that of a process of its own, beyond what it had before the series.
"""

import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import gdcm
import numpy as np
import SimpleITK as sitk  # as its documentation does
from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).parents[2]))

from node.assembly import assemble
from tests.slices import grid_affine, write_slices

ENCODED = 8  # different slices; more would only take longer to encode

COMPRESSIONS = {
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "RLE": gdcm.TransferSyntax.RLELossless,
}


def phantom(count):
    """Smooth structures with the noise of a CT, in air."""
    draw = np.random.default_rng(1)
    smooth = gaussian_filter(draw.normal(0, 8000, (count, 512, 512)), (0, 6, 6))
    rows, columns = np.mgrid[:512, :512]
    values = smooth + draw.normal(0, 12, smooth.shape)
    values[:, (rows - 256) ** 2 + (columns - 256) ** 2 > 240**2] = -1000
    return values.clip(-1024, 3000).astype(np.int16)


def write_series(folder, count, compression=None):
    slices = phantom(ENCODED)
    stored = np.concatenate([slices] * (count // ENCODED + 1))[:count]
    if compression is None:
        return write_slices(folder, stored, grid_affine())
    encoded = [
        transcoded(path, compression)
        for path in write_slices(folder / "encoded", slices, grid_affine())
    ]

    def change(header, k):
        header.PixelData = encoded[k % ENCODED].PixelData
        header["PixelData"].VR = "OB"
        header["PixelData"].is_undefined_length = True

    syntax = UID(str(encoded[0].file_meta.TransferSyntaxUID))
    return write_slices(
        folder / "series", stored, grid_affine(), change=change, transfer_syntax=syntax
    )


def transcoded(path, compression):
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(compression))
    change.SetInput(reader.GetImage())
    change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.Write()
    encoded = dcmread(path)
    assert encoded.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
    return encoded


def read_by_simpleitk(paths):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    return sitk.GetArrayFromImage(reader.Execute())


def read_bytes(paths):
    return [np.fromfile(path, np.int16) for path in paths]


def compare(name, paths, rivals, rounds):
    """Print the median of how many times as long as each rival it takes, and the quartiles."""
    ratios = {rival: [] for rival in rivals}
    for turn in range(rounds + 1):
        seconds = {}
        for way in (assemble, *rivals.values()):
            start = time.perf_counter()
            made = way(paths)
            seconds[way] = time.perf_counter() - start
            del made
        for rival, way in rivals.items():
            if turn:  # the first only warms up
                ratios[rival].append(seconds[assemble] / seconds[way])
    for rival, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        spread = f"({low:.2f} to {high:.2f})"
        print(f"{name}: {middle:.2f} times as long as {rival} {spread}", flush=True)


def print_memory(name, paths):
    """Print the peak of the resident memory, in volumes of float32."""
    done = subprocess.run(
        [sys.executable, __file__, "memory", str(paths[0].parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"{name}: {done.stdout.strip()}", flush=True)


def measure_memory(folder):
    """Sample the resident memory of this process and its codecs while a series is read."""
    paths = sorted(folder.iterdir())
    assemble(paths[:8])
    before, peak, done = resident(), 0, threading.Event()

    def sample():
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident())

    sampler = threading.Thread(target=sample)
    sampler.start()
    volume = assemble(paths).volume
    done.set()
    sampler.join()
    size = volume.grid.array.nbytes
    print(f"peak memory {(peak - before) / size:.2f} times the volume of {size / 2**20:.0f} MiB")


def resident():
    """Bytes that this process and its children hold themselves, and not for a file."""
    children = Path("/proc/self/task").glob("*/children")
    found = 0
    for process in ["self", *" ".join(child.read_text() for child in children).split()]:
        with contextlib.suppress(OSError):
            pages, shared = Path(f"/proc/{process}/statm").read_text().split()[1:3]
            found += (int(pages) - int(shared)) * resource.getpagesize()
    return found


def main():
    if sys.argv[1:2] == ["memory"]:
        measure_memory(Path(sys.argv[2]))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    print(f"{count} slices of 512 x 512")
    for name, compression in {"uncompressed": None, **COMPRESSIONS}.items():
        rivals = {"SimpleITK": read_by_simpleitk}
        if compression is None:
            rivals["np.fromfile"] = read_bytes
        with tempfile.TemporaryDirectory() as folder:
            paths = write_series(Path(folder), count, compression)
            compare(name, paths, rivals, rounds)
            print_memory(name, paths)


if __name__ == "__main__":
    main()
