"""Readers of SEG objects that share nothing with their writer but the standard."""

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread

DCM2PNM = Path("/usr/bin/dcm2pnm")


def patient_points(path):
    """Patient coordinates (n, 3), LPS mm, of the set pixels, by each frame's own position."""
    dataset = dcmread(path)
    frames = _bits(dataset)
    if DCM2PNM.exists():
        assert np.array_equal(frames, _frames_by_dcmtk(path, len(frames)))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    points = []
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points.append(
            origin
            + columns[:, None] * spacing[1] * np.array(orientation[:3])
            + rows[:, None] * spacing[0] * np.array(orientation[3:])
        )
    return np.concatenate(points)


def _bits(dataset):
    """Frames [frame, row, column] from the packed bits (PS3.5 Section 8.1.1)."""
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    shape = (int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns)
    return bits[: np.prod(shape)].reshape(shape).astype(bool)


def _frames_by_dcmtk(path, count):
    """The same frames as DCMTK renders them."""
    stem = path.parent / "frame"
    subprocess.run(
        [str(DCM2PNM), "--all-frames", "--write-raw-pnm", str(path), str(stem)], check=True
    )
    pictures = [path.parent / f"frame.{index}.pgm" for index in range(count)]
    return np.stack([np.asarray(Image.open(picture)) > 0 for picture in pictures])
