"""Images that lie at the same positions -> stacks with one image at each, and the choice of one.

Echoes, phases, diffusion weightings and reconstructions are told apart by the attribute that
separates them; images that were sent twice are dropped.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import combinations

import numpy as np
from pydicom import Dataset

from inference.assessment import Text
from node.frames import Frame
from node.instances import numbers_of, text_of
from node.planes import Plane
from node.routing import matches_stack
from node.separators import SEPARATORS, Key, b_value, rank_of, separating_values, value_in_words

SAME_POSITION_MM = 0.02
"""Images closer than this along the normal lie at one position; no scanner steps so finely."""

NOTHING = Text(en="", zh="")

ORDER = Text(en="order of instance numbers", zh="实例编号顺序")

MAX_SEPARATORS = 3
"""So many attributes together at most tell stacks apart."""

MIN_SHARE = 0.5
"""Each stack has at least this share of the positions of the longest, or they are not alike."""

MAX_REPEATED_SHARE = 0.1
"""Up to this share of the positions, or one, may have more than one image without being stacks."""


@dataclass(frozen=True, eq=False)
class ImageStack:
    """Images with one at each position; `label` says what tells them from others of the series."""

    frames: tuple[Frame, ...]
    planes: tuple[Plane, ...]
    label: Text


@dataclass(frozen=True, eq=False)
class Separation:
    """What became of images at the same positions.

    `stacks` are in ascending order of what separates them, named in `separator`; there are none
    where nothing does. `twins` had the same pixels as others at their positions, `repeated` were
    acquired again at a few positions, and only the last of them counts.
    """

    stacks: tuple[ImageStack, ...]
    separator: Text = NOTHING
    twins: tuple[Frame, ...] = ()
    repeated: tuple[Frame, ...] = ()


@dataclass(frozen=True, eq=False)
class _Image:
    """An image, the number of its position along the normal, and its value of each separator."""

    frame: Frame
    plane: Plane
    place: int
    values: dict[str, Hashable]


def separate_stacks(frames: Sequence[Frame], planes: Sequence[Plane]) -> Separation:
    """Split parallel images into stacks with one image at each position.

    Where a single attribute does not, two or three together may; where none does, the order of
    Instance Number does if each position has as many images.
    """
    images = _placed(frames, planes)
    if _is_one_stack(images):
        return Separation((_stack(images),))
    varying = [keyword for keyword in SEPARATORS if _varies_at_a_place(images, keyword)]
    images, twins = _without_twins(images, varying)
    single, repeated = _last_of_each(images)
    if len(repeated) <= max(1, MAX_REPEATED_SHARE * len(single)):
        frames_repeated = tuple(image.frame for image in repeated)
        return Separation((_stack(single),), twins=twins, repeated=frames_repeated)
    for balanced in (True, False):
        for count in range(1, MAX_SEPARATORS + 1):
            for keywords in combinations(varying, count):
                groups = _grouped(images, partial(_key, keywords=keywords))
                if _are_stacks(groups, balanced=balanced):
                    names = [SEPARATORS[keyword] for keyword in keywords]
                    return Separation(_labelled(groups, names, varying), _joined(names), twins)
    groups = _by_order(images)
    return Separation(_labelled(groups, [ORDER], ()), ORDER, twins)


def choose_stack(stacks: Sequence[ImageStack], rule: str) -> ImageStack | None:
    """Choose the stack that a route's rule (CEL) takes; None where it takes none.

    Where there is no rule, or it takes several, the one with the most images; among equals the
    first: the shortest echo, the lowest b-value, the earliest phase.
    """
    taken = [
        stack
        for number, stack in enumerate(stacks, 1)
        if not rule or matches_stack(rule, described(stack), len(stack.frames), number)
    ]
    return max(taken, key=lambda stack: len(stack.frames)) if taken else None


def described(stack: ImageStack) -> Dataset:
    """Return the header of a stack's first image, with its b-value in the public attribute."""
    header = copy(stack.frames[0].header)
    value = b_value(header)
    if value is not None:
        header.DiffusionBValue = value
    return header


def _placed(frames: Sequence[Frame], planes: Sequence[Plane]) -> list[_Image]:
    """Number the positions along the normal."""
    normal = np.cross(planes[0].row_direction, planes[0].column_direction)
    along = np.array([plane.position @ normal for plane in planes])
    order = np.argsort(along, kind="stable")
    places = np.empty(len(order), int)
    places[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) >= SAME_POSITION_MM)])
    several = places.max() + 1 < len(places)
    return [
        _Image(*item, separating_values(item[0].header) if several else {})
        for item in zip(frames, planes, places.tolist(), strict=True)
    ]


def _last_of_each(images: Sequence[_Image]) -> tuple[list[_Image], list[_Image]]:
    """Split into the last image at each position, by Instance Number, and those before it."""
    last: dict[int, _Image] = {}
    before = []
    for image in sorted(images, key=lambda image: _number(image.frame.header, "InstanceNumber")):
        if image.place in last:
            before.append(last[image.place])
        last[image.place] = image
    return list(last.values()), before


def _is_one_stack(images: Sequence[_Image]) -> bool:
    return len({image.place for image in images}) == len(images)


def _varies_at_a_place(images: Sequence[_Image], keyword: str) -> bool:
    found: dict[int, Hashable] = {}
    return any(
        found.setdefault(image.place, image.values[keyword]) != image.values[keyword]
        for image in images
    )


def _without_twins(
    images: Sequence[_Image], varying: Sequence[str]
) -> tuple[list[_Image], tuple[Frame, ...]]:
    """Drop images that nothing but their UIDs tells from another at their position."""
    kept, twins = [], []
    digests: dict[int, str] = {}
    alike = _grouped(images, lambda image: (image.place, *_key(image, varying)))
    for group in alike.values():
        seen: set[Key] = set()
        several = len({id(image.frame.instance) for image in group}) > 1
        for image in group:
            content = _content(image.frame, digests) if several else (id(image),)
            if content in seen:
                twins.append(image.frame)
            else:
                kept.append(image)
                seen.add(content)
    return kept, tuple(twins)


def _content(frame: Frame, digests: dict[int, str]) -> Key:
    """What makes a frame's values; `digests` keeps those of whole instances."""
    instance = frame.instance
    if id(instance) not in digests:
        pixels = instance.pixel_bytes(0, instance.pixel_bytes_available)
        digests[id(instance)] = sha256(pixels).hexdigest()
    rescale = [text_of(frame.header, name) for name in ("RescaleSlope", "RescaleIntercept")]
    return digests[id(instance)], instance.transfer_syntax, frame.index, frame.tile, *rescale


def _grouped(images: Sequence[_Image], key: Callable[[_Image], Key]) -> dict[Key, list[_Image]]:
    groups: dict[Key, list[_Image]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return groups


def _are_stacks(groups: dict[Key, list[_Image]], *, balanced: bool) -> bool:
    sizes = [len(group) for group in groups.values()]
    if balanced:
        large_enough = min(sizes) >= MIN_SHARE * max(sizes)
    else:
        at_place = Counter(image.place for group in groups.values() for image in group)
        whole = max(sizes) >= MIN_SHARE * len(at_place)
        large_enough = whole and len(sizes) <= 2 * max(at_place.values())
    return large_enough and len(sizes) > 1 and all(map(_is_one_stack, groups.values()))


def _by_order(images: Sequence[_Image]) -> dict[Key, list[_Image]]:
    """Split by rank of Instance Number at each position; nothing where positions differ."""
    at_place = _grouped(images, lambda image: (image.place,)).values()
    numbers = {
        id(image): (_number(image.frame.header, "InstanceNumber"), image.frame.number or 0)
        for image in images
    }
    groups: dict[Key, list[_Image]] = defaultdict(list)
    for group in at_place:
        if len({numbers[id(image)] for image in group}) < len(group):
            return {}
        for rank, image in enumerate(sorted(group, key=lambda image: numbers[id(image)]), 1):
            groups[(float(rank),)].append(image)
    return groups if len({len(group) for group in at_place}) == 1 else {}


def _labelled(
    groups: dict[Key, list[_Image]], names: Sequence[Text], varying: Sequence[str]
) -> tuple[ImageStack, ...]:
    """Make stacks of the groups, in ascending order of all that varies, the most telling first."""
    keys = sorted(groups, key=lambda key: rank_of((*_key(groups[key][0], varying), *key)))
    return tuple(_stack(groups[key], _label(names, key)) for key in keys)


def _label(names: Sequence[Text], key: Key) -> Text:
    said = [(name, value_in_words(value)) for name, value in zip(names, key, strict=True)]
    return Text(
        en=", ".join(f"{name.en} {value}" for name, value in said),
        zh="，".join(f"{name.zh} {value}" for name, value in said),
    )


def _stack(images: Sequence[_Image], label: Text = NOTHING) -> ImageStack:
    return ImageStack(
        tuple(image.frame for image in images), tuple(image.plane for image in images), label
    )


def _key(image: _Image, keywords: Sequence[str]) -> Key:
    return tuple(image.values[keyword] for keyword in keywords)


def _number(header: Dataset, keyword: str) -> float:
    numbers = numbers_of(header, keyword, 1)
    return 0.0 if numbers is None else numbers[0]


def _joined(names: Sequence[Text]) -> Text:
    return Text(en=" and ".join(n.en for n in names), zh="、".join(n.zh for n in names))
