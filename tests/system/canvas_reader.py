"""Where things lie in a picture of a viewer, read from its pixels and the pixels of the image.

The skull is what both have in common: by its extent in the picture a place in the image has its
place in the picture, whatever the viewer believes about its own coordinates.
"""

import numpy as np

WHITE = 250
"""Grey in the picture of what is denser than the top of the window."""
COLOURED = 30
"""Channels of a pixel differ so much where something lies over the image, which is grey."""


def is_coloured(picture):
    """What lies over the image [y, x]."""
    channels = picture.astype(int)
    return channels.max(-1) - channels.min(-1) > COLOURED


def is_white(picture):
    """What is above the window [y, x]."""
    return picture.min(-1) >= WHITE


def in_picture(mask, image, picture):
    """A mask on the image [row, column] as it should lie in the picture [y, x]."""
    units = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    top_of_window = float(image.WindowCenter) + float(image.WindowWidth) / 2
    there, here = _extent(units >= top_of_window), _extent(is_white(picture))
    rows, columns = (
        (np.arange(size) + 0.5 - start) * (end_there - start_there) / (end - start) + start_there
        for size, (start, end), (start_there, end_there) in zip(
            picture.shape, here, there, strict=False
        )
    )
    inside = np.ix_(
        *(
            np.clip(np.floor(positions), 0, size - 1).astype(int)
            for positions, size in zip((rows, columns), mask.shape, strict=True)
        )
    )
    return mask[inside]


def dice(one, other):
    """Overlap of two masks."""
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def box(mask):
    """Left, top, right and bottom of a mask."""
    (top, bottom), (left, right) = _extent(mask)
    return left, top, right, bottom


def _extent(mask):
    """First and one past the last set index along each axis."""
    along = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    return [(indices[0], indices[-1] + 1) for indices in along]
