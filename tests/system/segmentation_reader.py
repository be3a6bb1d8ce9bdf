"""Readers of SEG objects that share nothing with their writer but the standard."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread

DCM2PNM = Path("/usr/bin/dcm2pnm")


def patient_points(path):
    """Patient coordinates (n, 3), LPS mm, of the set pixels, by each frame's own position."""
    dataset = dcmread(path)
    frames = _frames(dataset)
    by_dcmtk = frames_by_dcmtk(path)
    if by_dcmtk is not None:
        assert np.array_equal(frames, by_dcmtk)
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


def pixels_by_segment(path, instances):
    """Pixels [image, row, column] of each segment on single-frame instances, by UID."""
    dataset = dcmread(path)
    frames = _frames(dataset)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    described = [int(segment.SegmentNumber) for segment in dataset.SegmentSequence]
    shape = (len(instances), dataset.Rows, dataset.Columns)
    found = {number: np.zeros(shape, frames.dtype) for number in described if number}
    for pixels, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        image = instances.index(source.ReferencedSOPInstanceUID)
        if dataset.SegmentationType == "LABELMAP":
            for number, on_images in found.items():
                on_images[image] = pixels == number
        else:
            identified = (
                group if "SegmentIdentificationSequence" in group else shared
            ).SegmentIdentificationSequence[0]
            found[identified.ReferencedSegmentNumber][image] = pixels
    return found


def frames_by_dcmtk(path):
    """Frames [frame, row, column] of 8 bits as DCMTK decodes them; None without DCMTK."""
    if not DCM2PNM.exists():
        return None
    dataset = dcmread(path, stop_before_pixels=True)
    with tempfile.TemporaryDirectory() as folder:
        levels = 2**dataset.BitsStored  # a window of all of them changes no value
        window = ["+Wn"] if levels == 2 else ["+Ww", str(levels / 2), str(levels)]
        subprocess.run(
            [str(DCM2PNM), "--all-frames", *window, "--write-raw-pnm", str(path), f"{folder}/f"],
            check=True,
        )
        pictures = [f"{folder}/f.{index}.pgm" for index in range(int(dataset.NumberOfFrames))]
        frames = np.stack([np.asarray(Image.open(picture)) for picture in pictures])
    return frames > 0 if levels == 2 else frames


def _frames(dataset):
    """Frames [frame, row, column] from native pixels (PS3.5 Section 8.1.1)."""
    shape = (int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns)
    if dataset.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
        return bits[: np.prod(shape)].reshape(shape).astype(bool)
    pixels = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}")
    return pixels[: np.prod(shape)].reshape(shape)
