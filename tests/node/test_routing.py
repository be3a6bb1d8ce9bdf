"""Rules: what they see of a series, and that what a scanner left out never breaks one."""

import pytest
from pydicom import Dataset

from node.routing import matches
from node.rules import VARIABLES, check_expression


def series(**attributes):
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ('Modality == "CT"', True),
        ('Modality == "MR"', False),
        ("SliceThickness <= 2.5", True),
        ("SliceThickness <= 1", False),
        ('ImageType.exists(t, t == "AXIAL")', True),
        ('SeriesDescription.contains("Kopf")', True),
        ('SeriesDescription.matches("(?i)kopf") && NumberOfInstances >= 100', True),
        ('BodyPartExamined == ""', True),
        ("EchoTime > 0.0", False),
    ],
)
def test_a_rule_sees_the_series(rule, expected):
    check_expression(rule)
    header = series(
        Modality="CT",
        SliceThickness="2.0",
        SeriesDescription="Kopf nativ",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
    )
    assert matches(rule, header, 160) is expected


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_absent_attribute_is_empty_not_an_error(variable):
    matches(
        f"size(string({variable})) == 0 || true"
        if variable != "ImageType"
        else "size(ImageType) == 0",
        Dataset(),
        1,
    )


def test_a_misspelt_attribute_is_found_before_it_matters():
    with pytest.raises(ValueError, match="did you mean SliceThickness"):
        check_expression('Modality == "CT" && SliceThicknes < 2.0')


def test_an_attribute_with_one_value_is_a_list_of_one():
    assert matches('"LOCALIZER" in ImageType', series(ImageType="LOCALIZER"), 1)
