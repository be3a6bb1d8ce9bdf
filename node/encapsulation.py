"""Where the frames of encapsulated pixel data lie (PS3.5 Section A.4).

Found once an instance, from the headers of its fragments; the fragments themselves stay in the file
until a frame is decoded.
"""

import struct
from collections.abc import Callable, Sequence

ITEM = b"\xfe\xff\x00\xe0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0"
END_OF_IMAGE = b"\xff\xd9"
"""Ends JPEG, JPEG-LS (EOI) and JPEG 2000 (EOC) codestreams; a padding byte may follow."""

MAX_FRAGMENTS = 2**18
"""Many more than frames that a volume may have; only a hostile file holds as many empty ones."""

Range = tuple[int, int]
"""Where a fragment begins, in bytes of the value of Pixel Data, and its length."""

Read = Callable[[int, int], bytes]
"""Returns `length` bytes from `start` on of the value of Pixel Data, fewer where it ends."""


def frame_ranges(
    read: Read, available: int, frames: int, extended_offsets: Sequence[int]
) -> list[list[Range]]:
    """Return the fragments of each frame.

    They are told apart by the Extended or Basic Offset Table, or one is a frame, or a frame ends
    where its codestream does. Raises ValueError where none of it gives the number of frames, and
    where a fragment is longer than the file.
    """
    items = _items(read, available)
    if not items:
        raise ValueError("the pixel data have no fragments")
    (at, length), *fragments = items
    if frames == 1:
        return [fragments]
    offsets = extended_offsets
    if not offsets and length == 4 * frames:
        offsets = struct.unpack(f"<{frames}L", read(at, length))
    starts = {start - 8 - (at + length): index for index, (start, _) in enumerate(fragments)}
    if len(offsets) == frames and offsets[0] == 0 and all(offset in starts for offset in offsets):
        cuts = [starts[offset] for offset in offsets]
    elif len(fragments) == frames:
        cuts = list(range(frames))
    else:
        cuts = [0, *(index + 1 for index in _ends_of_images(read, fragments[:-1]))]
    if len(cuts) != frames or cuts != sorted(set(cuts)):
        raise ValueError("the fragments cannot be assigned to frames")
    return [fragments[cut:end] for cut, end in zip(cuts, [*cuts[1:], None], strict=True)]


def _items(read: Read, available: int) -> list[Range]:
    found: list[Range] = []
    at = 0
    while at + 8 <= available:
        head = read(at, 8)
        if head[:4] == SEQUENCE_END:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] != ITEM or at + 8 + length > available:
            raise ValueError("the pixel data are no whole items")
        if len(found) > MAX_FRAGMENTS:
            raise ValueError("the pixel data have too many fragments")
        found.append((at + 8, length))
        at += 8 + length
    return found


def _ends_of_images(read: Read, fragments: Sequence[Range]) -> list[int]:
    return [
        index
        for index, (at, length) in enumerate(fragments)
        if END_OF_IMAGE in read(at + max(0, length - 3), min(length, 3))
    ]
