"""The pixel data of one slice, decoded and rescaled into a place in a volume."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from inference.assessment import Text
from node.codecs import Codecs, Layout, Stored, stored_bits
from node.frames import Frame
from node.instances import Instance, UnreadableInstanceError, integer_of, numbers_of

MAX_ROWS_OR_COLUMNS = 8192
"""No CT or MR matrix is larger; a header that says more is broken or hostile."""

AIR_HU = -1024.0
"""What padding outside the reconstruction circle of a CT becomes."""

PLAUSIBLE_HU = (-1000.0, 3071.0)
"""Pixel Padding Value is ignored where it rescales to a value that tissue can have."""


@dataclass(frozen=True)
class PixelFormat:
    """How one slice's stored values are laid out, and what they mean (PS3.3 C.11.1).

    `rescaled = stored * slope + intercept`. `padding` is the inclusive range of stored values
    that are no image (C.7.5.1.1.2), None where there is none.
    """

    layout: Layout
    slope: float
    intercept: float
    padding: tuple[float, float] | None


def pixel_format(frame: Frame, *, modality: str) -> PixelFormat:
    """Check the Image Pixel attributes against each other and against the file's size.

    Nothing is allocated. Raises UnreadableInstanceError where they cannot be right.
    """
    instance, header = frame.instance, frame.instance.header
    rows, columns = integer_of(header, "Rows"), integer_of(header, "Columns")
    bits_allocated = integer_of(header, "BitsAllocated")
    bits_stored = integer_of(header, "BitsStored", bits_allocated)
    high_bit = integer_of(header, "HighBit", bits_stored - 1)
    if not (0 < rows <= MAX_ROWS_OR_COLUMNS and 0 < columns <= MAX_ROWS_OR_COLUMNS):
        raise _unreadable(instance, f"matrix {columns} x {rows}", f"矩阵 {columns} x {rows}")
    if bits_allocated not in (8, 16, 32) or not 0 < bits_stored <= high_bit + 1 <= bits_allocated:
        bits = f"{bits_allocated}/{bits_stored}/{high_bit}"
        raise _unreadable(
            instance, f"bits allocated/stored/high bit {bits}", f"分配位/存储位/最高位 {bits}"
        )
    slope, intercept = _rescale(frame, modality)
    layout = Layout(
        rows=rows,
        columns=columns,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=integer_of(header, "PixelRepresentation") == 1,
    )
    _check_length(instance, layout)
    padding = _padding(frame, slope, intercept) if modality == "CT" else None
    return PixelFormat(layout, slope, intercept, padding)


def decode_slice(
    frame: Frame, pixels: PixelFormat, out: npt.NDArray[np.float32], codecs: Codecs
) -> None:
    """Write the rescaled values to `out`, float32 [row, column].

    Raises UnreadableInstanceError where the pixel data cannot be decoded.
    """
    instance = frame.instance
    if instance.transfer_syntax.is_compressed:
        stored = _decompress(instance, pixels.layout, codecs)
    else:
        stored = _native(instance, pixels.layout)
    np.multiply(stored, pixels.slope, out=out, casting="unsafe", dtype=np.float32)
    if pixels.intercept:
        out += np.float32(pixels.intercept)
    if pixels.padding is not None:
        low, high = pixels.padding
        out[(stored >= low) & (stored <= high)] = AIR_HU


def _rescale(frame: Frame, modality: str) -> tuple[float, float]:
    slope = numbers_of(frame.header, "RescaleSlope", 1)
    intercept = numbers_of(frame.header, "RescaleIntercept", 1)
    if slope is None and intercept is None and modality != "CT":
        return 1.0, 0.0
    if slope is None or intercept is None or slope[0] == 0:
        raise _unreadable(
            frame.instance,
            "no usable Rescale Slope and Intercept",
            "缺少可用的重新缩放斜率与截距",
        )
    return slope[0], intercept[0]


def _padding(frame: Frame, slope: float, intercept: float) -> tuple[float, float] | None:
    value = numbers_of(frame.header, "PixelPaddingValue", 1)
    if value is None:
        return None
    limit = numbers_of(frame.header, "PixelPaddingRangeLimit", 1) or value
    low, high = sorted((value[0], limit[0]))
    tissue_low, tissue_high = PLAUSIBLE_HU
    is_tissue = any(
        tissue_low <= stored * slope + intercept <= tissue_high for stored in (low, high)
    )
    return None if is_tissue else (low, high)


def _check_length(instance: Instance, layout: Layout) -> None:
    syntax = instance.transfer_syntax
    if instance.pixel_bytes_available <= 0:
        raise _unreadable(instance, "no pixel data", "无像素数据")
    if not syntax.is_transfer_syntax:
        raise _unreadable(instance, "unknown transfer syntax", "未知的传输语法")
    if syntax.is_compressed:
        if instance.pixel_length is not None:
            raise _unreadable(
                instance, "compressed pixel data not encapsulated", "压缩像素数据未封装"
            )
        return
    if not syntax.is_little_endian and layout.bits_allocated == 8:
        raise _unreadable(instance, "8-bit big endian pixel data", "8 位大端像素数据")
    declared = instance.pixel_length or 0
    present = min(declared, instance.pixel_bytes_available)
    if present < layout.native_bytes or declared > instance.pixel_bytes_available:
        raise _unreadable(
            instance,
            f"{present} bytes of pixel data where {layout.native_bytes} are needed",
            f"像素数据 {present} 字节，应为 {layout.native_bytes} 字节",
        )


def _native(instance: Instance, layout: Layout) -> Stored:
    order: Literal["<", ">"] = "<" if instance.transfer_syntax.is_little_endian else ">"
    content = instance.pixel_bytes(layout.native_bytes)
    values = np.frombuffer(content, layout.dtype.newbyteorder(order))
    return stored_bits(values.reshape(layout.rows, layout.columns), layout)


def _decompress(instance: Instance, layout: Layout, codecs: Codecs) -> Stored:
    encapsulated = instance.pixel_bytes(instance.pixel_bytes_available)
    try:
        stored = codecs.decode(encapsulated, instance.transfer_syntax, layout)
    except Exception as error:  # four codecs, each with errors of its own
        raise _unreadable(
            instance, "the pixel data cannot be decoded", "像素数据无法解码"
        ) from error
    if stored.shape != (layout.rows, layout.columns):
        raise _unreadable(instance, f"decoded to {stored.shape}", f"解码结果为 {stored.shape}")
    return stored


def _unreadable(instance: Instance, en: str, zh: str) -> UnreadableInstanceError:
    syntax = instance.transfer_syntax.name or "no transfer syntax"
    return UnreadableInstanceError(
        Text(
            en=f"Instance {instance.uid} ({syntax}) cannot be used: {en}. "
            "Send the series again, uncompressed if the PACS can.",
            zh=f"实例 {instance.uid}（{syntax}）无法使用：{zh}。"
            "请重新发送该序列，如 PACS 支持请以未压缩格式发送。",
        )
    )
