"""Rules in CEL over DICOM attributes: what they may name, whether one can be evaluated, its value.

`node.routing` gives them the attributes of a series. Rules are checked with the configuration,
which every command and every role reads: no DICOM library is imported here.
"""

import difflib
import re

import cel

TEXT = (
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
NUMBERS = (
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
LISTS = ("ImageType",)
VARIABLES = (*TEXT, *NUMBERS, *LISTS, "NumberOfInstances")
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
    result = evaluate(
        expression,
        dict.fromkeys(TEXT, "")
        | dict.fromkeys(NUMBERS, 0.0)
        | {keyword: [] for keyword in LISTS}
        | {"NumberOfInstances": 0, "StackNumber": 0},
    )
    if not isinstance(result, bool):
        raise ValueError(f"a rule answers true or false, this one gives {type(result).__name__}")  # noqa: TRY004  # pydantic collects ValueErrors


def evaluate(expression: str, attributes: dict[str, object]) -> object:
    """What a rule gives for these values of its variables; ValueError where it gives none."""
    try:
        return cel.compile(expression).execute(attributes)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the rule cannot be evaluated: {error}") from error
