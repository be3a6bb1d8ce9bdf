"""The attributes that tell images at one position apart, and their values in a header."""

from collections.abc import Hashable, Sequence

from pydicom import Dataset

from inference.assessment import Text
from node.image_header import private_value
from node.instances import numbers_of, text_of, value_of

MAX_DIMENSIONS = 8
"""So many dimensions of a multi-frame instance are looked at (PS3.3 C.7.6.17)."""

SEPARATORS = {
    "EchoTime": Text(en="echo time", zh="回波时间"),
    "DiffusionBValue": Text(en="diffusion b-value", zh="扩散 b 值"),
    "DiffusionGradientOrientation": Text(en="diffusion direction", zh="扩散方向"),
    "TemporalPositionIdentifier": Text(en="temporal position", zh="时相"),
    "ImageType": Text(en="image type", zh="图像类型"),
    "ComplexImageComponent": Text(en="complex component", zh="复数分量"),
    "ASLContext": Text(en="labelling", zh="标记状态"),
    "VelocityEncodingDirection": Text(en="velocity encoding", zh="速度编码方向"),
    "DiffusionDirectionality": Text(en="diffusion directionality", zh="扩散方向性"),
    "StackID": Text(en="stack", zh="层组"),
    "InversionTime": Text(en="inversion time", zh="反转时间"),
    "FlipAngle": Text(en="flip angle", zh="翻转角"),
    "ConvolutionKernel": Text(en="convolution kernel", zh="卷积核"),
    "KVP": Text(en="tube voltage", zh="管电压"),
    "TriggerTime": Text(en="trigger time", zh="触发时间"),
    "NominalPercentageOfCardiacPhase": Text(en="cardiac phase", zh="心动周期时相"),
    "AcquisitionNumber": Text(en="acquisition number", zh="采集编号"),
    "SequenceName": Text(en="sequence name", zh="序列名称"),
    "SliceThickness": Text(en="slice thickness", zh="层厚"),
    **{
        f"DimensionIndexValues {number}": Text(en=f"dimension {number}", zh=f"维度 {number}")
        for number in range(1, MAX_DIMENSIONS + 1)
    },
    "AcquisitionTime": Text(en="acquisition time", zh="采集时间"),
    "ContentTime": Text(en="content time", zh="内容时间"),
}
"""Attributes that tell images at one position apart, the most telling first."""

PRIVATE_B_VALUES = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C),
    ("Philips Imaging DD 001", 0x2001, 0x03),
    ("GEMS_PARM_01", 0x0043, 0x39),
)
"""Private creator, group and element of the b-value where the public attribute is absent."""

GE_B_VALUE_OFFSET = 1e9
"""Some GE systems add this to the b-value."""

Key = tuple[Hashable, ...]


def separating_values(header: Dataset) -> dict[str, Hashable]:
    """Return the value of each separator, None or empty where it is not given."""
    values = {keyword: _value(header, keyword) for keyword in SEPARATORS}
    dimensions = value_of(header, "DimensionIndexValues")
    several = dimensions if isinstance(dimensions, Sequence) else [dimensions]
    for number, value in enumerate(several[:MAX_DIMENSIONS], 1):
        is_number = isinstance(value, (int, float))
        values[f"DimensionIndexValues {number}"] = float(value) if is_number else None
    return values


def b_value(header: Dataset) -> float | None:
    """Return the diffusion b-value in s/mm2, also where only a vendor's attribute has it."""
    public = numbers_of(header, "DiffusionBValue", 1)
    if public is not None:
        return public[0]
    for creator, group, element in PRIVATE_B_VALUES:
        value = private_value(header, group, creator, element)
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        try:
            return float(value[0] if several else value) % GE_B_VALUE_OFFSET
        except (TypeError, ValueError, IndexError):  # absent, or no number
            continue
    return None


def rank_of(key: Key) -> list[tuple[int, float, str]]:
    """Put first what is not given (an unweighted image's b-value), then numbers, then text."""
    return [
        (1, value, "")
        if isinstance(value, float)
        else (0, 0.0, "")
        if value in (None, "")
        else (2, 0.0, str(value))
        for value in key
    ]


def value_in_words(value: Hashable) -> str:
    """Return a separator's value as a label says it; directions are rounded."""
    if value is None or value == "":
        return "(none)"
    if isinstance(value, float):
        return f"{value:g}"
    try:
        return "\\".join(f"{float(part):.2f}" for part in str(value).split("\\"))
    except ValueError:
        return str(value)


def _value(header: Dataset, keyword: str) -> Hashable:
    if keyword == "DiffusionBValue":
        return b_value(header)
    number = numbers_of(header, keyword, 1)
    if number is not None:
        return number[0]
    value = value_of(header, keyword)
    if value is None or isinstance(value, str):
        return text_of(header, keyword)
    try:
        return "\\".join(map(str, value))
    except TypeError:
        return str(value)
