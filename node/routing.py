"""Which model for which series: rules in CEL over DICOM attributes of the series.

A rule such as `Modality == "CT" && SliceThickness <= 2.5` sees the attributes below under their
DICOM keywords, and `NumberOfInstances`. An absent or empty attribute is "" , 0.0 or [] by its type,
so that a rule never fails because a scanner left something out.
"""

import difflib
import re
from collections.abc import Sequence

import cel
from pydicom import Dataset

_TEXT = (
    "BodyPartExamined",
    "ConvolutionKernel",
    "InstitutionName",
    "Manufacturer",
    "ManufacturerModelName",
    "Modality",
    "PatientSex",
    "ProtocolName",
    "ScanningSequence",
    "SequenceName",
    "SeriesDescription",
    "StationName",
    "StudyDescription",
)
_NUMBERS = (
    "AcquisitionNumber",
    "DiffusionBValue",
    "EchoTime",
    "FlipAngle",
    "InversionTime",
    "KVP",
    "MagneticFieldStrength",
    "RepetitionTime",
    "SliceThickness",
    "TemporalPositionIdentifier",
    "TriggerTime",
)
_LISTS = ("ImageType",)
VARIABLES = (*_TEXT, *_NUMBERS, *_LISTS, "NumberOfInstances")
STACK_VARIABLES = (*VARIABLES, "StackNumber")
_LOOP_VARIABLE = re.compile(r"\.(?:all|exists|exists_one|filter|map)\(\s*(\w+)\s*,")


def check_expression(expression: str, variables: tuple[str, ...] = VARIABLES) -> None:
    """Raise ValueError, saying what to mend, unless the rule can be evaluated."""
    program = cel.compile(expression)
    known = {*variables, *_LOOP_VARIABLE.findall(expression)}
    for variable in program.variables():
        if variable not in known:
            close = difflib.get_close_matches(variable, variables, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(variables)}"
            raise ValueError(f"'{variable}' is not an attribute that a rule can use; {hint}")
    result = _execute(
        expression,
        dict.fromkeys(_TEXT, "")
        | dict.fromkeys(_NUMBERS, 0.0)
        | {keyword: [] for keyword in _LISTS}
        | {"NumberOfInstances": 0, "StackNumber": 0},
    )
    if not isinstance(result, bool):
        raise ValueError(f"a rule answers true or false, this one gives {type(result).__name__}")  # noqa: TRY004  # pydantic collects ValueErrors


def matches(expression: str, header: Dataset, instances: int) -> bool:
    """Whether a series goes this way; `header` is that of any of its `instances` instances."""
    return _execute(expression, _attributes(header, instances)) is True


def matches_stack(expression: str, header: Dataset, images: int, number: int) -> bool:
    """Whether a rule takes one of several stacks at the same positions.

    `header` is that of the stack's first image, `number` the stack's place from 1.
    """
    attributes = _attributes(header, images) | {"StackNumber": number}
    return _execute(expression, attributes) is True


def _attributes(header: Dataset, instances: int) -> dict[str, object]:
    attributes: dict[str, object] = {"NumberOfInstances": instances}
    for keyword in _TEXT:
        value = header.get(keyword)
        multiple = not isinstance(value, str) and isinstance(value, Sequence)
        attributes[keyword] = "\\".join(map(str, value)) if multiple else str(value or "")
    for keyword in _NUMBERS:
        try:
            attributes[keyword] = float(header.get(keyword) or 0.0)
        except (TypeError, ValueError):
            attributes[keyword] = 0.0
    for keyword in _LISTS:
        value = header.get(keyword) or []
        attributes[keyword] = [value] if isinstance(value, str) else [str(one) for one in value]
    return attributes


def _execute(expression: str, attributes: dict[str, object]) -> object:
    try:
        return cel.compile(expression).execute(attributes)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the rule cannot be evaluated: {error}") from error
