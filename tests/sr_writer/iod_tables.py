"""Makes `sr_writer/iod_tables.json` of the module tables of PS3.3 that highdicom carries.

    python -m tests.sr_writer.iod_tables

highdicom reads 22 MB of JSON for these, through no public function, which takes seconds: the gate
has a hundredth of it, and a test says that it still is what highdicom has.
"""

from importlib.resources import files

import orjson
from pydicom.datadict import tag_for_keyword
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

LABEL_MAP_SEGMENTATION = UID("1.2.840.10008.5.1.4.1.1.66.7")

SOP_CLASSES = (
    SecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ParametricMapStorage,
    SegmentationStorage,
    LABEL_MAP_SEGMENTATION,
    BasicTextSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    KeyObjectSelectionDocumentStorage,
    EncapsulatedPDFStorage,
)
CHECKED_ELSEWHERE = {"sr-document-content"}
"""Content items: highdicom's table runs the macros of all value types together."""
CODE = {"CodeValue", "CodingSchemeDesignator", "CodeMeaning"}
"""Items with these are coded entries (PS3.3 Section 8.8), which the gate knows by themselves."""


def standard(name):
    """One of highdicom's tables."""
    return orjson.loads((files("highdicom") / "_standard" / f"{name}.json").read_bytes())


def module_tree(attributes):
    """Attributes of a module: keyword -> type, or type and what is within the items."""
    root = {}
    for attribute in attributes:
        level = root
        for sequence in attribute["path"]:
            level = level.setdefault(sequence, ["", {}])[1]
        level.setdefault(attribute["keyword"], ["", {}])[0] = attribute["type"]
    return required_only(root)


def required_only(level):
    """What is of Type 1 or 2, and what leads there."""
    found = {}
    for keyword, (type_, items) in sorted(level.items()):
        if tag_for_keyword(keyword) is None:
            continue  # highdicom's tables are newer than pydicom's dictionary
        within = items
        if set(items) >= CODE:
            within = {k: items[k] for k in items if k.endswith("Sequence")}
            within.pop("EquivalentCodeSequence", None)
        inner = required_only(within)
        own = type_ if type_ in {"1", "2"} else ""
        if own or inner:
            found[keyword] = [own, inner] if inner else own
    return found


def tables() -> bytes:
    """The file that the gate reads."""
    modules = standard("module_attribute_map")
    iods, names = standard("iod_module_map"), standard("sop_class_iod_map")
    classes = {
        uid: {
            module["key"]: module["usage"]
            for module in iods[names[uid]]
            if module["key"] not in CHECKED_ELSEWHERE
        }
        for uid in map(str, SOP_CLASSES)
    }
    used = sorted({module for usages in classes.values() for module in usages})
    trees = {key: module_tree(modules.get(key, [])) for key in used}
    lines = [
        ",\n".join(
            f"{orjson.dumps(k).decode()}:{orjson.dumps(v).decode()}" for k, v in each.items()
        )
        for each in (classes, trees)
    ]
    return f'{{"classes":{{\n{lines[0]}\n}},\n"modules":{{\n{lines[1]}\n}}}}\n'.encode()


if __name__ == "__main__":
    from pathlib import Path

    path = Path(__file__).parents[2] / "sr_writer" / "iod_tables.json"
    path.write_bytes(tables())
    print(path, path.stat().st_size)
