"""What stored values mean: Hounsfield units for CT, signal for MR (PS3.3 C.11.1).

MONOCHROME1 is no part of it: it inverts how values are displayed, not what they are (C.7.6.3.1.2).
"""

import struct
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sequence import Sequence

from inference.assessment import Text
from node.codecs import Layout, Stored
from node.frames import Frame
from node.instances import numbers_of, text_of, value_of

AIR_HU = -1024.0
"""What padding outside the reconstruction circle of a CT becomes, unless it is less already."""

NO_SIGNAL = 0.0
"""What padding of an MR becomes."""

PLAUSIBLE_HU = (-1000.0, 3071.0)
"""Pixel Padding Value is ignored where it rescales to a value that tissue can have."""

HOUNSFIELD_TYPES = ("HU", "HU_MOD")

PLAUSIBLE_SLOPE = (1e-12, 1e12)
"""No unit is so small or so large; beyond these values leave the range of a float32."""

PHILIPS_CREATOR = "Philips MR Imaging DD 001"
PHILIPS_SCALE_INTERCEPT, PHILIPS_SCALE_SLOPE = 0x0D, 0x0E
"""Elements of its block in group 2005: stored value = scale slope * signal + scale intercept."""

LUT_USED = Text(
    en="The values were looked up in the images' Modality LUT.",
    zh="像素值通过图像自带的 Modality LUT 换算。",
)
HOUNSFIELD_ASSUMED = Text(
    en="The CT images have no Rescale Slope and Intercept; their Rescale Type says that the stored "
    "values are Hounsfield units.",
    zh="CT 图像缺少重新缩放斜率与截距；其 Rescale Type 表明存储值即为 HU 值。",
)
NOT_HOUNSFIELD = Text(
    en="The CT values may not be Hounsfield units: the images' Rescale Type is another.",
    zh="CT 像素值可能不是 HU 值：图像的 Rescale Type 为其他类型。",
)
PHILIPS_SCALED = Text(
    en="The MR values were scaled by the private Philips scale slope and intercept, since the "
    "images have no Rescale Slope and Intercept.",
    zh="MR 图像缺少重新缩放斜率与截距，已按 Philips 私有的缩放斜率与截距换算像素值。",
)
INVERTED_DISPLAY = Text(
    en="The MR images are meant to be displayed inverted (MONOCHROME1); their values were used as "
    "they are stored.",
    zh="MR 图像应以反转灰度显示（MONOCHROME1）；像素值按存储值使用。",
)
PADDING_IS_TISSUE = Text(
    en="The images declare padding whose values tissue can have; it was taken as image.",
    zh="图像声明的填充值与组织可能的 CT 值重叠，相应像素按图像内容处理。",
)


class UnknownUnitsError(Exception):
    """The header does not say what the stored values mean."""

    def __init__(self, reason: Text) -> None:
        super().__init__(reason.en)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A Modality LUT: `values[0]` stands for stored value `first` and all below it (C.11.1.1)."""

    first: int
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ModalityTransformation:
    """Stored values -> `stored * slope + intercept`, or what `table` has for them.

    `padding` is the inclusive range of stored values that are no image (C.7.5.1.1.2), None where
    there is none; it becomes `background`. `notes` say what is to be known of the values.
    """

    slope: float = 1.0
    intercept: float = 0.0
    table: LookupTable | None = None
    padding: tuple[int, int] | None = None
    background: float = NO_SIGNAL
    notes: tuple[Text, ...] = ()

    def apply(self, stored: Stored, out: npt.NDArray[np.float32]) -> None:
        """Write the values of `stored` [row, column] to `out`, of the same shape."""
        if self.table is not None:
            last = len(self.table.values) - 1
            places = np.clip(stored.astype(np.int64) - self.table.first, 0, last)
            np.take(self.table.values, places, out=out)
        elif self.slope == 1.0 and not self.intercept:
            np.copyto(out, stored, casting="unsafe")
        else:
            np.multiply(stored, self.slope, out=out, casting="unsafe", dtype=np.float32)
            if self.intercept:
                out += np.float32(self.intercept)
        if self.padding is not None:
            low, high = self.padding
            padded = stored == low if low == high else (stored >= low) & (stored <= high)
            if padded.any():
                np.copyto(out, np.float32(self.background), where=padded)


def modality_transformation(
    frame: Frame, layout: Layout, *, modality: str
) -> ModalityTransformation:
    """Return what the stored values of a frame mean; raises UnknownUnitsError where nothing says.

    A Modality LUT goes before Rescale Slope and Intercept, since it excludes them. Without either
    a CT is refused, and an MR has Philips' private scale or is signal in units of its own.
    """
    header = frame.header
    table = _lookup_table(header, layout)
    slope, intercept, notes = (1.0, 0.0, [LUT_USED]) if table else _scale(header, modality)
    if modality == "CT":
        units = text_of(header, "RescaleType") or "HU"
        if table is not None:
            units = text_of(value_of(header, "ModalityLUTSequence")[0], "ModalityLUTType")
        if units not in HOUNSFIELD_TYPES:
            notes.append(NOT_HOUNSFIELD)
    elif text_of(header, "PhotometricInterpretation") == "MONOCHROME1":
        notes.append(INVERTED_DISPLAY)
    made = ModalityTransformation(
        slope, intercept, table, background=AIR_HU if modality == "CT" else NO_SIGNAL
    )
    padding = _padding(header, layout)
    if padding is not None and modality == "CT":
        lowest, highest = _meaning(padding, made)
        if highest < AIR_HU:  # less than air as it is, and nothing takes it for tissue
            padding = None
        elif highest >= PLAUSIBLE_HU[0] and lowest <= PLAUSIBLE_HU[1]:
            padding = None
            notes.append(PADDING_IS_TISSUE)
    return replace(made, padding=padding, notes=tuple(notes))


def _scale(header: Dataset, modality: str) -> tuple[float, float, list[Text]]:
    slope = numbers_of(header, "RescaleSlope", 1)
    intercept = numbers_of(header, "RescaleIntercept", 1)
    if slope is not None and intercept is not None and _is_plausible(slope[0], intercept[0]):
        return slope[0], intercept[0], []
    if slope is None and intercept is None:
        if modality != "CT":
            return _philips_scale(header) or (1.0, 0.0, [])
        if text_of(header, "RescaleType") in HOUNSFIELD_TYPES:
            return 1.0, 0.0, [HOUNSFIELD_ASSUMED]
    raise UnknownUnitsError(
        Text(en="no usable Rescale Slope and Intercept", zh="缺少可用的重新缩放斜率与截距")
    )


def _philips_scale(header: Dataset) -> tuple[float, float, list[Text]] | None:
    """Return what undoes Philips' scaling of the reconstructed signal to stored integers."""
    try:
        block = header.private_block(0x2005, PHILIPS_CREATOR)
        slope = _single(block[PHILIPS_SCALE_SLOPE].value)
        intercept = _single(block[PHILIPS_SCALE_INTERCEPT].value)
    except Exception:  # noqa: BLE001 - absent (KeyError), or hostile values that raise anything
        return None
    if not (slope > 0 and _is_plausible(slope, intercept)):
        return None
    return 1.0 / slope, -intercept / slope, [PHILIPS_SCALED]


def _is_plausible(slope: float, intercept: float) -> bool:
    smallest, largest = PLAUSIBLE_SLOPE
    return smallest <= abs(slope) <= largest and abs(intercept) <= largest


def _single(value: object) -> float:
    """Read a number that is FL, or UN where a PACS did not know the private element."""
    if isinstance(value, bytes):
        return float(struct.unpack("<f", value)[0])
    return float(str(value))


def _lookup_table(header: Dataset, layout: Layout) -> LookupTable | None:
    sequence = value_of(header, "ModalityLUTSequence")
    if not sequence:
        return None
    item = sequence[0] if isinstance(sequence, Sequence) else Dataset()
    descriptor = numbers_of(item, "LUTDescriptor", 3)
    if descriptor is None:
        raise UnknownUnitsError(Text(en="a broken Modality LUT", zh="Modality LUT 已损坏"))
    entries = int(descriptor[0]) % 2**16 or 2**16
    data = value_of(item, "LUTData")
    if isinstance(data, bytes):
        kind = "u1" if len(data) < 2 * entries else f"{_order(header)}u2"
        data = np.frombuffer(data, kind)
    values = np.atleast_1d(np.asarray(data, dtype=np.float32))
    if values.size < entries:
        raise UnknownUnitsError(
            Text(en="a Modality LUT that is too short", zh="Modality LUT 数据长度不足")
        )
    return LookupTable(_folded(int(descriptor[1]), layout), values[:entries])


def _order(header: Dataset) -> str:
    return ">" if header.original_encoding[1] is False else "<"


def _padding(header: Dataset, layout: Layout) -> tuple[int, int] | None:
    value = _stored_value(header, "PixelPaddingValue", layout)
    if value is None:
        return None
    limit = _stored_value(header, "PixelPaddingRangeLimit", layout)
    low, high = sorted((value, value if limit is None else limit))
    return low, high


def _stored_value(header: Dataset, keyword: str, layout: Layout) -> int | None:
    """Read an attribute whose representation is US or SS, as that of the pixels is (PS3.5 A.2)."""
    numbers = numbers_of(header, keyword, 1)
    return None if numbers is None else _folded(int(numbers[0]), layout)


def _folded(value: int, layout: Layout) -> int:
    """Read again as a value of the pixels what was read with the wrong sign."""
    size = 2**layout.bits_allocated
    value %= size
    return value - size if layout.signed and value >= size // 2 else value


def _meaning(padding: tuple[int, int], made: ModalityTransformation) -> tuple[float, float]:
    """Smallest and largest value of the ends of a range of stored values."""
    ends = np.zeros((1, 2), np.float32)
    made.apply(np.array([padding], np.int64), ends)
    return float(ends.min()), float(ends.max())
