"""Model families: how each kind of vision-language model sees a volume.

A family is one module with a `Reader`, and one line here. `docs/models.md` says how to write one.
"""

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from inference.bundle import SEGMENT, VISION, Bundle, BundleError
from inference.families.llava import LlavaReader
from inference.families.m3d_lamed import M3dReader
from inference.families.overread_vlm import HeadReader
from inference.families.reading import Reader
from inference.language import Language
from inference.manifest import ForegroundVolume, HeadGrid, KeySlices
from inference.runtime import Graph

T = TypeVar("T", bound=BaseModel)

OpenGraph = Callable[[str], Graph]
"""Starts one of the bundle's graphs by its file name."""


def _overread_vlm(bundle: Bundle, graph: OpenGraph, _language: Language) -> Reader:
    return HeadReader(_expect(bundle, HeadGrid), graph(VISION))


def _llava(bundle: Bundle, graph: OpenGraph, language: Language) -> Reader:
    spec = _expect(bundle, KeySlices)
    return LlavaReader(spec, bundle.manifest.findings, graph(VISION), language)


def _m3d_lamed(bundle: Bundle, graph: OpenGraph, language: Language) -> Reader:
    seg = graph(SEGMENT) if SEGMENT in bundle.manifest.files else None
    return M3dReader(_expect(bundle, ForegroundVolume), graph(VISION), seg, language)


FAMILIES: dict[str, Callable[[Bundle, OpenGraph, Language], Reader]] = {
    "llava": _llava,
    "m3d_lamed": _m3d_lamed,
    "overread-vlm": _overread_vlm,
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


def _expect(bundle: Bundle, kind: type[T]) -> T:
    preprocessing = bundle.manifest.preprocessing
    if not isinstance(preprocessing, kind):
        raise BundleError(
            f"{bundle.folder}: preprocessing {preprocessing.kind!r} is not what the family "
            f"{bundle.manifest.family!r} takes. Convert the model again."
        )
    return preprocessing
