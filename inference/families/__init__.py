"""Model families: how each kind of vision-language model sees a volume.

A family is one module with a `Reader`, and one line here. `docs/models.md` says how to write one.
"""

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from inference.bundle import SEGMENT, VISION, Bundle, BundleError
from inference.families.llava import PICTURES_AT_ONCE, LlavaReader
from inference.families.m3d_lamed import M3dReader
from inference.families.overread_vlm import HeadReader
from inference.families.reading import Reader
from inference.language import Language
from inference.manifest import ForegroundVolume, HeadGrid, KeySlices
from inference.providers import Profile
from inference.runtime import Graph

T = TypeVar("T", bound=BaseModel)

OpenGraph = Callable[[str, Profile], Graph]
"""Starts one of the bundle's graphs by its file name, for the shapes that it will be run on."""


def _overread_vlm(bundle: Bundle, graph: OpenGraph, _language: Language) -> Reader:
    spec = _expect(bundle, HeadGrid)
    vision = graph(VISION, _always(bundle, volume=(1, len(spec.windows_hu), *spec.size)))
    return HeadReader(spec, vision)


def _llava(bundle: Bundle, graph: OpenGraph, language: Language) -> Reader:
    spec = _expect(bundle, KeySlices)
    one, most = (1, 3, spec.size, spec.size), (PICTURES_AT_ONCE, 3, spec.size, spec.size)
    profile = Profile({"pixels": (one, most, most)}, fp16=_is_half(bundle))
    return LlavaReader(spec, bundle.manifest.findings, graph(VISION, profile), language)


def _m3d_lamed(bundle: Bundle, graph: OpenGraph, language: Language) -> Reader:
    spec, width = _expect(bundle, ForegroundVolume), bundle.manifest.decoder.width
    volume = (1, 1, *spec.size)
    seg = None
    if SEGMENT in bundle.manifest.files:
        seg = graph(SEGMENT, _always(bundle, volume=volume, prompt=(1, width)))
    return M3dReader(spec, graph(VISION, _always(bundle, volume=volume)), seg, language)


FAMILIES: dict[str, Callable[[Bundle, OpenGraph, Language], Reader]] = {
    "llava": _llava,
    "m3d_lamed": _m3d_lamed,
    "overread_vlm": _overread_vlm,
}


def open_reader(bundle: Bundle, graph: OpenGraph, language: Language) -> Reader:
    """The reader of the bundle's family; BundleError where this version has none."""
    family = bundle.manifest.family
    if family not in FAMILIES:
        raise BundleError(
            f"{bundle.folder}: model family {family!r} is not known here "
            f"(known: {', '.join(FAMILIES)}). Use a newer version of Overread."
        )
    return FAMILIES[family](bundle, graph, language)


def _always(bundle: Bundle, **shapes: tuple[int, ...]) -> Profile:
    """Each input has one shape, whatever the study."""
    fixed = {name: (shape, shape, shape) for name, shape in shapes.items()}
    return Profile(fixed, fp16=_is_half(bundle))


def _is_half(bundle: Bundle) -> bool:
    return bundle.manifest.decoder.precision == "fp16"


def _expect(bundle: Bundle, kind: type[T]) -> T:
    preprocessing = bundle.manifest.preprocessing
    if not isinstance(preprocessing, kind):
        raise BundleError(
            f"{bundle.folder}: preprocessing {preprocessing.kind!r} is not what the family "
            f"{bundle.manifest.family!r} takes. Convert the model again."
        )
    return preprocessing
