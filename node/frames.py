"""The two-dimensional images that an instance holds, each with its attributes as if it were alone.

Everything after this reads `Frame.header` and need not know how an instance was encoded.
"""

from dataclasses import dataclass

from pydicom import Dataset

from inference.assessment import Text
from node.instances import Instance, UnreadableInstanceError, integer_of


@dataclass(frozen=True)
class Tile:
    """A part of a stored frame that is an image of its own: its first row and column."""

    top: int
    left: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of an instance.

    `header` is that of a single-frame image (Rows, Columns, Image Position and Orientation, Pixel
    Spacing, Rescale, and what tells images at one position apart). `index` counts the frames of
    the instance's pixel data from 0; `number` is what a reference calls it (from 1), None where it
    is the whole instance, or a `tile` of one.
    """

    instance: Instance
    header: Dataset
    index: int = 0
    number: int | None = None
    tile: Tile | None = None


def frames_of(instance: Instance) -> tuple[Frame, ...]:
    """Return the images of an instance in the order in which it holds them.

    Raises UnreadableInstanceError where they cannot be told apart.
    """
    if integer_of(instance.header, "NumberOfFrames", 1) > 1:
        raise UnreadableInstanceError(
            Text(
                en="The series holds multi-frame (enhanced) images, which are not read yet. "
                "Send it as single-frame CT or MR images.",
                zh="该序列为多帧（增强型）图像，目前尚不支持。请以单帧 CT 或 MR 图像发送。",
            )
        )
    return (Frame(instance, instance.header),)
