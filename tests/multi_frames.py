"""Multi-frame instances and Siemens mosaics written as Part 10 files, for tests that need them."""

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from tests.slices import decimals, slice_header, write_part10

Floats = npt.NDArray[np.float64]
Change = Callable[[Dataset], None]
FrameChange = Callable[[Dataset, int], None]
SINGLE_FRAME_ONLY = ("EchoTime", "RepetitionTime", "KVP", "ScanningSequence", "SequenceVariant")


def one(**attributes: object) -> list[Dataset]:
    """The items of a functional group: one, with these attributes."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def write_enhanced(
    path: Path,
    stored: npt.NDArray[np.int16],
    affine: Floats,
    *,
    modality: str = "MR",
    transfer_syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
    frame_change: FrameChange | None = None,
) -> Path:
    """Write `stored` int16 [frame, row, column] as one enhanced CT or MR image.

    Frame k lies at slice k of `affine`, from (slice, row, column) to LPS mm; orientation and pixel
    spacing are shared. `frame_change(groups, k)` may alter what is said of frame k, `change` the
    whole data set.
    """
    header = slice_header(modality, generate_uid(), generate_uid(), generate_uid(), 1)
    header.SOPClassUID = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    for keyword in SINGLE_FRAME_ONLY:
        if keyword in header:
            delattr(header, keyword)
    set_pixels(header, stored)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header.SharedFunctionalGroupsSequence = one(
        PlaneOrientationSequence=one(
            ImageOrientationPatient=decimals(
                np.concatenate([affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1]])
            )
        ),
        PixelMeasuresSequence=one(
            PixelSpacing=decimals(spacing[1:]), SliceThickness=decimals(spacing[:1])[0]
        ),
    )
    set_dimensions(header)
    frames = []
    for k in range(len(stored)):
        groups = Dataset()
        groups.PlanePositionSequence = one(
            ImagePositionPatient=decimals(affine[:3, 3] + k * affine[:3, 0])
        )
        groups.FrameContentSequence = one(
            StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1]
        )
        groups.PixelValueTransformationSequence = one(
            RescaleSlope="1", RescaleIntercept="0", RescaleType="HU" if modality == "CT" else "US"
        )
        if frame_change is not None:
            frame_change(groups, k)
        frames.append(groups)
    header.PerFrameFunctionalGroupsSequence = frames
    if change is not None:
        change(header)
    write_part10(path, header, transfer_syntax)
    return path


def set_pixels(header: Dataset, stored: npt.NDArray[np.int16]) -> None:
    """Give a header these pixels, [frame, row, column] or [row, column]."""
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        header.NumberOfFrames = len(stored)
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 1
    header.PixelData = np.ascontiguousarray(stored).tobytes()
    header["PixelData"].VR = "OW"


def set_dimensions(header: Dataset) -> None:
    """Declare the dimensions stack and position in it."""
    uid = generate_uid()
    header.DimensionOrganizationSequence = one(DimensionOrganizationUID=uid)
    header.DimensionIndexSequence = [
        one(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
        )[0]
        for pointer in (0x00209056, 0x00209057)
    ]


def write_legacy_converted(path: Path, slices: Sequence[Path]) -> Path:
    """Convert single-frame CT or MR images, in this order of frames."""
    headers = [dcmread(file) for file in slices]
    kind = (
        hd.legacy.LegacyConvertedEnhancedCTImage
        if headers[0].Modality == "CT"
        else hd.legacy.LegacyConvertedEnhancedMRImage
    )
    kind(
        headers,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        include_dimension_index=False,  # it would sort the frames
    ).save_as(path)
    return path


def write_grid(
    path: Path, stored: npt.NDArray[np.int16], affine: Floats, *, change: Change | None = None
) -> Path:
    """Write slices `stored` int16 [slice, row, column] as one United Imaging grid.

    Tile k lies at slice k of `affine`, from (slice, row, column) to LPS mm.
    """
    header = slice_header("MR", generate_uid(), generate_uid(), generate_uid(), 1)
    header.Manufacturer = "UIH"
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
    count, rows, columns = stored.shape
    beside = int(np.ceil(np.sqrt(count)))
    below = int(np.ceil(count / beside))
    grid = np.zeros((below * rows, beside * columns), np.int16)
    for k, tile in enumerate(stored):
        top, left = k // beside * rows, k % beside * columns
        grid[top : top + rows, left : left + columns] = tile
    set_pixels(header, grid)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    positions = [decimals(affine[:3, 3] + k * affine[:3, 0]) for k in range(count)]
    header.ImagePositionPatient = positions[0]
    header.ImageOrientationPatient = decimals(
        np.concatenate([affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1]])
    )
    header.PixelSpacing = decimals(spacing[1:])
    header.SpacingBetweenSlices = header.SliceThickness = decimals(spacing[:1])[0]
    block = header.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x09, "FD", 1000.0)
    block.add_new(0x50, "DS", str(count))
    block.add_new(0x51, "SQ", [one(ImagePositionPatient=where)[0] for where in positions])
    if change is not None:
        change(header)
    write_part10(path, header, ExplicitVRLittleEndian)
    return path


def write_mosaic(
    path: Path,
    stored: npt.NDArray[np.int16],
    affine: Floats,
    *,
    layout: str = "CSA2",
    image_tags: Mapping[str, Sequence[object]] | None = None,
    protocol: str | None = None,
    change: Change | None = None,
) -> Path:
    """Write slices `stored` int16 [slice, row, column] as one Siemens mosaic.

    Tile k lies at slice k of `affine`, from (slice, row, column) to LPS mm. `image_tags` add to
    those of the image's CSA header or take their place; `protocol` is the ASCCONV section of the
    series' one, by default the one that agrees, none where it is empty.
    """
    header = slice_header("MR", generate_uid(), generate_uid(), generate_uid(), 1)
    header.Manufacturer = "SIEMENS"
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    count, rows, columns = stored.shape
    beside = int(np.ceil(np.sqrt(count)))
    mosaic = np.zeros((beside * rows, beside * columns), np.int16)
    for k, tile in enumerate(stored):
        top, left = k // beside * rows, k % beside * columns
        mosaic[top : top + rows, left : left + columns] = tile
    set_pixels(header, mosaic)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    away = (beside - 1) / 2 * (affine[:3, 1] * rows + affine[:3, 2] * columns)
    header.ImagePositionPatient = decimals(affine[:3, 3] - away)
    header.ImageOrientationPatient = decimals(
        np.concatenate([affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1]])
    )
    header.PixelSpacing = decimals(spacing[1:])
    header.SliceThickness = decimals(spacing[:1] * 0.8)[0]
    header.SpacingBetweenSlices = decimals(spacing[:1])[0]
    header.AcquisitionMatrix = [rows, 0, 0, columns]
    block = header.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    tags = {
        "NumberOfImagesInMosaic": [count],
        "SliceNormalVector": (affine[:3, 0] / spacing[0]).round(8).tolist(),
        "AcquisitionMatrixText": [f"{rows}*{columns}"],
        **(image_tags or {}),
    }
    write_csa = csa1 if layout == "CSA1" else csa2
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    block.add_new(0x10, "OB", write_csa(tags))
    section = mosaic_protocol(affine, stored.shape) if protocol is None else protocol
    block.add_new(0x20, "OB", write_csa({"MrPhoenixProtocol": [section] if section else []}))
    if change is not None:
        change(header)
    write_part10(path, header, ExplicitVRLittleEndian)
    return path


def mosaic_protocol(affine: Floats, shape: Sequence[int]) -> str:
    """The slices as a Siemens protocol prescribes them: by their centres, without what is 0."""
    count, rows, columns = shape
    lines = ["<XProtocol> { }", "### ASCCONV BEGIN ###", f"sSliceArray.lSize = {count}"]
    for k in range(count):
        centre = (affine @ [k, rows / 2, columns / 2, 1])[:3]
        lines += [
            f"sSliceArray.asSlice[{k}].sPosition.d{axis} = {value:.8f}"
            for axis, value in zip(("Sag", "Cor", "Tra"), centre, strict=True)
            if value
        ]
    return "\n".join([*lines, "### ASCCONV END ###", ""])


def csa2(tags: Mapping[str, Sequence[object]]) -> bytes:
    """A CSA header in its second layout."""
    return b"SV10\4\3\2\1" + _csa(tags, lambda length, _: (length, length, 77, length))


def csa1(tags: Mapping[str, Sequence[object]]) -> bytes:
    """A CSA header in its first layout, where lengths are counted from the first tag's items."""
    return _csa(tags, lambda length, first: (length + first, length + first, 77, 0))


def _csa(
    tags: Mapping[str, Sequence[object]], words: Callable[[int, int], tuple[int, int, int, int]]
) -> bytes:
    parts = [struct.pack("<II", len(tags), 77)]
    first = 0
    for number, (name, values) in enumerate(tags.items()):
        items = max(6, len(values)) if values else 0  # scanners write empty items up to six
        first = items if number == 0 else first
        parts.append(
            struct.pack("<64si4siii", name.encode(), len(values), _vr(values), 4, items, 77)
        )
        for k in range(items):
            text = f"{values[k]}\0".encode("latin-1") if k < len(values) else b""
            parts.append(struct.pack("<4i", *words(len(text), first)))
            parts.append(text + b"\0" * (-len(text) % 4))
    return b"".join(parts)


def _vr(values: Sequence[object]) -> bytes:
    kinds = {type(value) for value in values}
    return {frozenset({int}): b"IS", frozenset({float}): b"FD"}.get(frozenset(kinds), b"LO")
