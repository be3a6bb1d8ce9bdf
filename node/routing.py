"""Which model for which series: what a rule sees of a series, and whether it takes it.

A rule such as `Modality == "CT" && SliceThickness <= 2.5` sees the attributes that `node.rules`
lists under their DICOM keywords, and `NumberOfInstances`. An absent or empty attribute is "" , 0.0
or [] by its type, so that a rule never fails because a scanner left something out.
"""

from collections.abc import Sequence

from pydicom import Dataset

from node.rules import LISTS, NUMBERS, TEXT, evaluate


def matches(expression: str, header: Dataset, instances: int) -> bool:
    """Whether a series goes this way; `header` is that of any of its `instances` instances."""
    return evaluate(expression, _attributes(header, instances)) is True


def matches_stack(expression: str, header: Dataset, images: int, number: int) -> bool:
    """Whether a rule takes one of several stacks at the same positions.

    `header` is that of the stack's first image, `number` the stack's place from 1.
    """
    attributes = _attributes(header, images) | {"StackNumber": number}
    return evaluate(expression, attributes) is True


def _attributes(header: Dataset, instances: int) -> dict[str, object]:
    attributes: dict[str, object] = {"NumberOfInstances": instances}
    for keyword in TEXT:
        value = header.get(keyword)
        multiple = not isinstance(value, str) and isinstance(value, Sequence)
        attributes[keyword] = "\\".join(map(str, value)) if multiple else str(value or "")
    for keyword in NUMBERS:
        try:
            attributes[keyword] = float(header.get(keyword) or 0.0)
        except (TypeError, ValueError):
            attributes[keyword] = 0.0
    for keyword in LISTS:
        value = header.get(keyword) or []
        attributes[keyword] = [value] if isinstance(value, str) else [str(one) for one in value]
    return attributes
