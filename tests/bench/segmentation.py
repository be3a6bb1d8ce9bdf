"""How fast a label map becomes a SEG, as ratios against highdicom's constructor and the limit.

    python tests/bench/segmentation.py [ROUNDS [SLICES]]

BINARY SEGs of 5 and of 100 segments on 512 x 512 x 300, of the same content, which is asserted
element by element. The limit is the least that has to be done for the pixels: compare each frame
with its number, pack its bits, deflate all. Each way is run in turn, several times, and the median
of the rounds' ratios of processor time is printed: ratios, not seconds, are the claim. Memory is
the peak of a process of its own, beyond what it had before the SEG.
"""

import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from functools import cached_property
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).parents[2]))

from inference.assessment import Assessment, AssessmentRecord, LabelMap
from inference.volume import Volume
from sr_writer.header import plain_headers
from sr_writer.kinds import SegmentationForm
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.highdicom_segmentation import ON_PURPOSE, by_highdicom, differences
from tests.sr_writer.series import (
    AXIAL,
    MODEL,
    PROVENANCE,
    as_received,
    judged,
    segment,
    source_header,
)

COUNTS = (5, 100)
SPACING = (1.0, 0.7, 0.7)


def label_map(count, shape):
    """Ellipsoids side by side, of sizes drawn by chance, numbered from 1."""
    draw = np.random.default_rng(1)
    labels = np.zeros(shape, np.uint8)
    per_axis = int(np.ceil(count ** (1 / 3)))
    cell = np.array(shape) / per_axis
    for number in range(1, count + 1):
        place = np.array(np.unravel_index(number - 1, (per_axis,) * 3))
        centre = (place + draw.uniform(0.45, 0.55, 3)) * cell
        radius = cell * draw.uniform(0.30, 0.45, 3)
        first = np.maximum(np.floor(centre - radius), 0).astype(int)
        last = np.minimum(np.ceil(centre + radius) + 1, shape).astype(int)
        box = tuple(map(slice, first, last))
        axes = np.ogrid[box]
        away = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radius, strict=True))
        labels[box][away < 1] = number
    return labels


def series(shape):
    affine = np.diag([*SPACING, 1.0])[[2, 1, 0, 3]]
    uid = "2.25.7"
    headers = [
        source_header(
            affine @ [k, 0, 0, 1], k, AXIAL, SPACING, shape, "CT", "bench", uid, "A^B", "ISO_IR 100"
        )
        for k in range(shape[0])
    ]
    grid = hd.Volume(np.zeros(shape, np.uint8), affine, "PATIENT", frame_of_reference_uid=uid)
    return Volume(grid, tuple(headers), judged(np.arange(shape[0]), 0.0, SPACING), "CT")


class Case:
    """One label map, and the ways to make a SEG of it."""

    def __init__(self, labels):
        count = int(labels.max())
        self.labels = labels
        self.volume = series(labels.shape)
        self.headers = plain_headers(self.volume.sources)
        record = AssessmentRecord(
            model=MODEL,
            completed=True,
            segments=tuple(segment(number, f"Lesion {number}") for number in range(1, count + 1)),
            assessed_at=PROVENANCE.written_at,
        )
        self.assessment = Assessment(record, LabelMap(self.labels, count))

    def ours(self):
        return write_segmentation(self.assessment, self.volume, PROVENANCE)

    def highdicom(self):
        binary = SegmentationForm.BINARY
        return by_highdicom(self.assessment, self.volume, binary, self.labels, self.headers)

    def limit(self):
        return b"".join(
            np.packbits(self.labels[image] == number, bitorder="little").tobytes()
            for number, image in self.frames
        )

    @cached_property
    def frames(self):
        return [
            (number, image)
            for image, plane in enumerate(self.labels)
            for number in np.unique(plane)
            if number
        ]


def saved(make, syntax):
    def way():
        made = make()
        made.file_meta.TransferSyntaxUID = syntax
        with tempfile.TemporaryFile() as file:
            made.save_as(file, enforce_file_format=True)

    return way


def deflated(make):
    def way():
        stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return stream.compress(make()) + stream.flush()

    return way


def compare(case, rounds):
    """Print the median of how many times as long another way takes, and the quartiles."""
    pairs = {
        "highdicom's constructor takes": (case.highdicom, case.ours),
        "the same and saving": tuple(
            saved(make, ExplicitVRLittleEndian) for make in (case.highdicom, case.ours)
        ),
        "comparing and packing alone": (case.limit, case.ours),
        "comparing, packing and deflating alone": (
            deflated(case.limit),
            saved(case.ours, DeflatedExplicitVRLittleEndian),
        ),
    }
    for name, ways in pairs.items():
        ratios, own = [], []
        for turn in range(rounds + 1):
            seconds = []
            for way in ways:
                start = time.process_time()
                way()
                seconds.append(time.process_time() - start)
            if turn:  # the first only warms up
                ratios.append(seconds[0] / seconds[1])
                own.append(seconds[1])
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"  {name}: {middle:.2f} times as long ({low:.2f} to {high:.2f}); "
            f"ours {statistics.median(own):.2f} s",
            flush=True,
        )


def print_memory(labels):
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, labels)
        file.flush()
        for way in ("ours", "highdicom"):
            command = [sys.executable, __file__, "memory", way, file.name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"  {way}: peak memory {done.stdout.strip()}", flush=True)


def measure_memory(way, labels):
    case = Case(labels)
    before = peak_kib()
    made = getattr(case, way)()
    made_at = peak_kib()
    with tempfile.TemporaryFile() as file:
        made.save_as(file, enforce_file_format=True)
    print(
        f"{(made_at - before) / 2**10:.0f} MiB, with saving {(peak_kib() - before) / 2**10:.0f};"
        f" pixels {len(made.PixelData) / 2**20:.0f}"
    )


def peak_kib():
    """The peak of this process alone: ru_maxrss would begin with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main():
    if sys.argv[1:2] == ["memory"]:
        measure_memory(sys.argv[2], np.load(sys.argv[3]))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    slices = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    for count in COUNTS:
        case = Case(label_map(count, (slices, 512, 512)))
        found = set(differences(as_received(case.ours()), as_received(case.highdicom())))
        assert found <= ON_PURPOSE, found - ON_PURPOSE
        print(f"{count} segments, {len(case.frames)} frames of {slices} x 512 x 512: equal content")
        compare(case, rounds)
        print_memory(case.labels)


if __name__ == "__main__":
    main()
