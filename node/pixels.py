"""The pixel data of frames, checked against the file, decoded and put into place in a volume."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from inference.assessment import Text
from node.codecs import CODECS, Codecs, Layout, Stored, stored_bits
from node.frames import Frame
from node.instances import Instance, UnreadableInstanceError, integer_of, text_of
from node.modality_transformation import (
    ModalityTransformation,
    UnknownUnitsError,
    modality_transformation,
)

MAX_ROWS_OR_COLUMNS = 8192
"""No CT or MR matrix is larger; a header that says more is broken or hostile."""

FRAMES_AT_ONCE = 4
"""A thread takes so many frames at a time; taking costs what decoding a small one does."""

MAX_THREADS = 8
"""More only wait for the disk and the memory."""

LOSSY_SYNTAXES = (JPEGBaseline8Bit, JPEGExtended12Bit)
MAYBE_LOSSY_SYNTAXES = (JPEGLSNearLossless, JPEG2000, HTJ2K)
"""Lossy unless Lossy Image Compression says that it was not used (PS3.5 Section 8.2)."""

LOSSY = Text(
    en="The images were compressed with loss before they were assessed.",
    zh="图像在评估之前经过有损压缩。",
)


@dataclass(frozen=True, eq=False)
class PixelFormat:
    """How the stored frame that holds an image is laid out, and what its values mean.

    `notes` say what a reader of the result has to know of the values.
    """

    layout: Layout
    transformation: ModalityTransformation
    notes: tuple[Text, ...]


def pixel_format(frame: Frame, *, modality: str) -> PixelFormat:
    """Check the Image Pixel attributes (PS3.3 C.7.6.3) against each other and the file's size.

    Nothing is allocated. Raises UnreadableInstanceError where they cannot be right.
    """
    layout = _layout(frame.instance)
    _check_place(frame, layout)
    _check_length(frame, layout)
    try:
        transformation = modality_transformation(frame, layout, modality=modality)
    except UnknownUnitsError as error:
        raise _unreadable(frame.instance, error.reason.en, error.reason.zh) from error
    lossy = (LOSSY,) if _is_lossy(frame) else ()
    return PixelFormat(layout, transformation, (*lossy, *transformation.notes))


def decode_frames(
    frames: Sequence[Frame],
    formats: Sequence[PixelFormat],
    outs: Sequence[npt.NDArray[np.float32]],
    codecs: Codecs,
) -> None:
    """Write the values of each frame to its place in `outs`, float32 [row, column], on all cores.

    A stored frame is decoded once for all its tiles. Raises UnreadableInstanceError for the first
    frame that cannot be decoded.
    """
    stored: dict[tuple[int, int], list[int]] = {}
    for place, frame in enumerate(frames):
        stored.setdefault((id(frame.instance), frame.index), []).append(place)
    together = list(stored.values())
    blocks = [together[at : at + FRAMES_AT_ONCE] for at in range(0, len(together), FRAMES_AT_ONCE)]

    def decode(block: Sequence[Sequence[int]]) -> None:
        for places in block:
            values = _decoded(frames[places[0]], formats[places[0]].layout, codecs)
            for place in places:
                part = _part(frames[place], values, outs[place].shape)
                formats[place].transformation.apply(part, outs[place])

    with ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0)))) as threads:
        for _ in threads.map(decode, blocks):
            pass


def _layout(instance: Instance) -> Layout:
    header = instance.header
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
    return Layout(
        rows=rows,
        columns=columns,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=integer_of(header, "PixelRepresentation") == 1,
    )


def _check_place(frame: Frame, layout: Layout) -> None:
    """Check that the frame lies within its instance, and a tile within its frame."""
    header, instance = frame.header, frame.instance
    rows, columns = integer_of(header, "Rows"), integer_of(header, "Columns")
    top, left = (frame.tile.top, frame.tile.left) if frame.tile else (0, 0)
    within = 0 <= top <= layout.rows - rows and 0 <= left <= layout.columns - columns
    if not within or rows < 1 or columns < 1:
        raise _unreadable(instance, "an image beyond its matrix", "子图像超出矩阵范围")
    frames = max(1, integer_of(instance.header, "NumberOfFrames", 1))
    if not 0 <= frame.index < frames:
        raise _unreadable(
            instance, f"frame {frame.index + 1} of {frames}", f"第 {frame.index + 1}/{frames} 帧"
        )


def _check_length(frame: Frame, layout: Layout) -> None:
    instance = frame.instance
    syntax = instance.transfer_syntax
    if instance.pixel_bytes_available <= 0:
        raise _unreadable(instance, "no pixel data", "无像素数据")
    if not syntax.is_transfer_syntax:
        raise _unreadable(instance, "unknown transfer syntax", "未知的传输语法")
    if syntax.is_compressed:
        if syntax not in CODECS and syntax != RLELossless:
            raise _unreadable(instance, "its compression is not read", "不支持该压缩方式")
        if instance.pixel_length is not None:
            raise _unreadable(
                instance, "compressed pixel data not encapsulated", "压缩像素数据未封装"
            )
        return
    needed = (frame.index + 1) * layout.native_bytes
    declared = instance.pixel_length or 0
    present = min(declared, instance.pixel_bytes_available)
    if present < needed or declared > instance.pixel_bytes_available:
        raise _unreadable(
            instance,
            f"{present} bytes of pixel data where {needed} are needed",
            f"像素数据 {present} 字节，应为 {needed} 字节",
        )


def _is_lossy(frame: Frame) -> bool:
    said = text_of(frame.header, "LossyImageCompression")
    syntax = frame.instance.transfer_syntax
    return (
        said == "01"
        or syntax in LOSSY_SYNTAXES
        or (syntax in MAYBE_LOSSY_SYNTAXES and said != "00")
    )


def _decoded(frame: Frame, layout: Layout, codecs: Codecs) -> Stored:
    """Return the stored values of the whole stored frame, [row, column]."""
    instance = frame.instance
    if not instance.transfer_syntax.is_compressed:
        return stored_bits(_native(frame, layout), layout)
    try:
        codestream = instance.encapsulated_frame(frame.index)
        return codecs.decode(codestream, instance.transfer_syntax, layout)
    except Exception as error:  # several codecs, each with errors of its own
        raise _unreadable(
            instance, "the pixel data cannot be decoded", "像素数据无法解码"
        ) from error


def _native(frame: Frame, layout: Layout) -> Stored:
    """Read a native frame; in OW the bytes of 8 bit big endian come in pairs (PS3.5 A.3)."""
    instance, length = frame.instance, layout.native_bytes
    start = frame.index * length
    big_endian = not instance.transfer_syntax.is_little_endian
    if big_endian and layout.bits_allocated == 8 and instance.pixel_vr == "OW":
        first = start % 2
        words = instance.pixel_bytes(start - first, length + first + (length + first) % 2)
        content = np.frombuffer(words, ">u2").astype("<u2").tobytes()[first : first + length]
    else:
        content = instance.pixel_bytes(start, length)
    if len(content) != length:
        raise _unreadable(instance, "its file has become shorter", "文件已被截短")
    values = np.frombuffer(content, layout.dtype.newbyteorder(">" if big_endian else "<"))
    return values.reshape(layout.rows, layout.columns)


def _part(frame: Frame, stored: Stored, shape: tuple[int, ...]) -> Stored:
    if frame.tile is None:
        return stored
    top, left = frame.tile.top, frame.tile.left
    return stored[top : top + shape[0], left : left + shape[1]]


def _unreadable(instance: Instance, en: str, zh: str) -> UnreadableInstanceError:
    syntax = instance.transfer_syntax
    name = syntax.name or "no transfer syntax"
    may_help = syntax.is_transfer_syntax and syntax.is_compressed
    return UnreadableInstanceError(
        Text(
            en=f"Instance {instance.uid} ({name}) cannot be used: {en}. "
            f"Send the series again{', uncompressed if the PACS can' if may_help else ''}.",
            zh=f"实例 {instance.uid}（{name}）无法使用：{zh}。"
            f"请重新发送该序列{'，如 PACS 支持请以未压缩格式发送' if may_help else ''}。",
        )
    )
