"""Instances of many kinds, one a series, and a spool and catalogue that hold them."""

from functools import partial

import imagecodecs
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    ParametricMapStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from node.bookkeeper import Bookkeeper
from node.catalogue import Catalogue
from node.holdings import Holdings
from node.spool import InstanceKey, Spool
from tests.slices import grid_affine, write_part10, write_slices

ROWS, COLUMNS, SLICES = 40, 48, 5
NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def _rle(values):
    planes = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[np.newaxis]
    content = b"".join(plane.tobytes() for plane in planes)
    # Segments are the bytes of a value, the highest first, of each sample in turn (PS3.5 Annex G).
    size = values.dtype.itemsize
    parts = np.frombuffer(content, np.uint8).reshape(len(planes), -1, size)
    segments = [
        imagecodecs.packbits_encode(np.ascontiguousarray(plane[:, byte]).reshape(ROWS, -1))
        for plane in parts
        for byte in reversed(range(size))
    ]
    segments = [one + b"\0" * (len(one) % 2) for one in segments]
    starts = 64 + np.cumsum([0, *map(len, segments[:-1])])
    head = np.zeros(16, "<u4")
    head[0], head[1 : 1 + len(segments)] = len(segments), starts
    return head.tobytes() + b"".join(segments)


ENCODE = {
    RLELossless: _rle,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: partial(imagecodecs.jpeg2k_encode, level=0, codecformat="j2k", mct=False),
    HTJ2KLossless: partial(imagecodecs.htj2k_encode, reversible=True),
    JPEGLosslessSV1: partial(imagecodecs.jpeg8_encode, lossless=True, predictor=1),
}


def head(k=0):
    """A picture of 12 bit with structure, as CT stores it."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return (1000 + 500 * np.sin(x / 5 + k) + 10 * y).astype(np.uint16)


def _unsigned(header, _k):
    header.PixelRepresentation, header.BitsStored, header.HighBit = 0, 12, 11
    header.WindowCenter, header.WindowWidth = ["40", "500"], ["400", "1500"]
    header.RescaleIntercept = "-1024"
    header.PatientName = "Müller^Jörg"
    header.SpecificCharacterSet = "ISO_IR 100"


def _compressed(syntax, header, k):
    _unsigned(header, k)
    values = np.frombuffer(header.PixelData, np.uint16).reshape(ROWS, COLUMNS)
    header.PixelData = encapsulate([ENCODE[syntax](values)])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True


def _swapped(header, k):
    _unsigned(header, k)
    header.PixelData = np.frombuffer(header.PixelData, "<u2").astype(">u2").tobytes()


def write_all(folder):
    """Write a study of a CT series in each transfer syntax, and secondary captures; by name."""
    files = {"ct": _series(folder / "ct", ExplicitVRLittleEndian, _unsigned, SLICES)}
    for syntax in NATIVE[1:]:
        change = _swapped if syntax == ExplicitVRBigEndian else _unsigned
        files[syntax.name] = _series(folder / str(syntax), syntax, change, 1)
    for syntax in ENCODE:
        files[syntax.name] = _series(folder / str(syntax), syntax, partial(_compressed, syntax), 1)
    files["colour"] = [_capture(folder / "colour.dcm", colours(), "RGB")]
    files["planar"] = [_capture(folder / "planar.dcm", colours(), "RGB", planar=True)]
    files["jpeg"] = [
        _capture(folder / "jpeg.dcm", colours(), "YBR_FULL_422", syntax=JPEGBaseline8Bit)
    ]
    files["frames"] = [write_multi_frame(folder / "frames.dcm", ExplicitVRLittleEndian)]
    files["frames in JPEG-LS"] = [write_multi_frame(folder / "frames-jls.dcm", JPEGLSLossless)]
    study = dcmread(files["ct"][0], stop_before_pixels=True).StudyInstanceUID
    for paths in files.values():
        for path in paths:
            dataset = dcmread(path)
            dataset.StudyInstanceUID = study
            write_part10(path, dataset, dataset.file_meta.TransferSyntaxUID)
    return files


def _series(folder, syntax, change, slices):
    stored = np.stack([head(k) for k in range(slices)]).view(np.int16)
    return write_slices(folder, stored, grid_affine(), transfer_syntax=syntax, change=change)


def colours():
    """A picture in three colours, smooth enough for lossy JPEG."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.stack([5 * x, 6 * y, 255 - 2 * x - 2 * y], axis=-1).astype(np.uint8)


def _capture(path, values, photometric, *, planar=False, syntax=ExplicitVRLittleEndian):
    dataset = _header(SecondaryCaptureImageStorage)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, photometric
    dataset.PlanarConfiguration = int(planar)
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if syntax == JPEGBaseline8Bit:
        codestream = imagecodecs.jpeg8_encode(
            values, level=95, colorspace="RGB", outcolorspace="YCBCR", subsampling="422"
        )
        dataset.PixelData = encapsulate([codestream])
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = (np.moveaxis(values, -1, 0) if planar else values).tobytes()
    dataset["PixelData"].VR = "OB"
    write_part10(path, dataset, syntax)
    return path


def write_multi_frame(path, syntax):
    """Write one instance of SLICES frames."""
    dataset = _header(MultiFrameGrayscaleWordSecondaryCaptureImageStorage)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = SLICES, ROWS, COLUMNS
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    frames = [head(k) for k in range(SLICES)]
    if syntax == JPEGLSLossless:
        codestreams = [imagecodecs.jpegls_encode(frame) for frame in frames]
        found = encapsulate_extended(codestreams)
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = found
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = np.stack(frames).tobytes()
    dataset["PixelData"].VR = "OB" if syntax == JPEGLSLossless else "OW"
    write_part10(path, dataset, syntax)
    return path


def write_float(path, values):
    """Write a parametric map of one frame."""
    dataset = _header(ParametricMapStorage)
    dataset.StudyInstanceUID, dataset.NumberOfFrames = generate_uid(), 1
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 32
    dataset.FloatPixelData = values.tobytes()
    write_part10(path, dataset, ExplicitVRLittleEndian)
    return path


def _header(sop_class):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.SeriesInstanceUID, dataset.Modality = generate_uid(), "OT"
    dataset.PatientID, dataset.PatientName = "T100", "Müller^Jörg"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    # What it says of the study is what the CT of tests.slices says: a study is described once.
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260102", "101112", "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "A100", ""
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.SeriesNumber, dataset.InstanceNumber = 7, 1
    return dataset


def hold(settings, paths):
    """Put files into the spool and the catalogue; returns what answers for them."""
    spool, catalogue = Spool(settings.spool_dir), Catalogue(settings.database_url)
    spool.prepare()
    for path in paths:
        spool.store(key_of(path), path.read_bytes())
    keeper = Bookkeeper(catalogue, spool)
    keeper.start()
    keeper.stop()
    return Holdings(settings, catalogue)


def key_of(path):
    """The UIDs of a file."""
    header = dcmread(path, stop_before_pixels=True)
    return InstanceKey(header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
