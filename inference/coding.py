"""The coding table: what findings, anatomy and measurements are called in what leaves the node.

`config/coding.toml` is its one source and is packaged beside this module. A code given in full must
contradict neither the table nor the codes of the DICOM standard, as pydicom lists them.
"""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydicom.sr.codedict import Collection, codes

from inference.assessment import PRIVATE_SCHEME, Code, Measurement, Text

MAX_VALUE, MAX_MEANING = 16, 64
"""Characters of a Code Value (SH) and a Code Meaning (LO)."""

RETIRED = ("SRT", "SNM3", "99SDM", "SNMI")
"""Designators of SNOMED codes before SCT (PS3.16 Section 8)."""

SCHEMES = frozenset({"DCM", "FMA", "LN", "NCIt", "RADELEMENT", "RADLEX", "SCT", "UCUM", "UMLS"})
"""Designators that a receiver knows without being told whose they are (PS3.16 Table 8-1)."""

Role = Literal["findings", "sites", "segment_categories", "segment_types"]

_TAKEN_AS: Mapping[Role, tuple[Role, ...]] = {
    "findings": ("findings",),
    "sites": ("sites",),
    "segment_categories": ("segment_categories",),
    "segment_types": ("segment_types", "findings", "sites"),
}
"""Sections in which the concept for a role is looked for, in order."""

# Verhoeff's check digit, the last of a SNOMED CT identifier: the dihedral group of order 10.
_PRODUCT = [
    [(a + b) % 5 + 5 * (b // 5) if a < 5 else (a - b) % 5 + 5 * (1 - b // 5) for b in range(10)]
    for a in range(10)
]
_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


class Concept(BaseModel):
    """One entry of the table: its code, and what people are shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: str
    value: str = Field(min_length=1, max_length=MAX_VALUE)
    meaning: str = Field(min_length=1, max_length=MAX_MEANING)
    en: str = ""
    zh: str

    @property
    def code(self) -> Code:
        """As objects carry it."""
        return Code(value=self.value, scheme=self.scheme, meaning=self.meaning)

    @property
    def label(self) -> Text:
        """As people are shown it."""
        return Text(en=self.en or self.meaning, zh=self.zh)


class Quantity(Concept):
    """Something that is measured, with the keys of the units that fit it."""

    units: tuple[str, ...] = Field(min_length=1)


class CodingTable(BaseModel):
    """`coding.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: dict[str, Concept]
    sites: dict[str, Concept]
    segment_categories: dict[str, Concept]
    segment_types: dict[str, Concept]
    quantities: dict[str, Quantity]
    units: dict[str, Concept]
    lateralities: dict[str, Concept]

    @model_validator(mode="after")
    def _units_are_there(self) -> "CodingTable":
        for key, quantity in self.quantities.items():
            missing = [unit for unit in quantity.units if unit not in self.units]
            if missing:
                raise ValueError(f"quantities.{key}: no [units] entry for {', '.join(missing)}")
        return self

    def concepts(self, role: Role) -> dict[str, Concept]:
        """What may be named for a role, by key."""
        found: dict[str, Concept] = {}
        for section in reversed(_TAKEN_AS[role]):
            found |= getattr(self, section)
        return found

    def meanings(self) -> dict[tuple[str, str], str]:
        """Code Meaning by Coding Scheme Designator and Code Value."""
        sections = (getattr(self, name) for name in type(self).model_fields)
        every = [concept for section in sections for concept in section.values()]
        return {(concept.scheme, concept.value): concept.meaning for concept in every}


@lru_cache(maxsize=1)
def coding_table() -> CodingTable:
    """The table that comes with the software."""
    text = (files("inference") / "coding.toml").read_text(encoding="utf-8")
    return CodingTable.model_validate(tomllib.loads(text))


def concept_of(role: Role, key: str) -> Concept:
    """The concept that `key` names; raises ValueError, which names similar keys."""
    known = coding_table().concepts(role)
    if key in known:
        return known[key]
    alike = get_close_matches(key, known, n=3)
    hint = f" (did you mean {' or '.join(map(repr, alike))}?)" if alike else ""
    raise ValueError(
        f"{key!r} is not among the {role.replace('_', ' ')} of the coding table{hint}. Name one of "
        "config/coding.toml, or give the code: { scheme = ..., value = ..., meaning = ... }; where "
        f"no terminology has it, with scheme {PRIVATE_SCHEME!r}"
    )


def with_codes(fields: Mapping[str, Any], roles: Mapping[str, Role], label: str) -> dict[str, Any]:
    """`fields` with the keys of concepts replaced by codes, each code checked.

    `roles` are the fields that hold a code, `label` is what the model calls the thing. Raises
    ValueError: which label, which field, what to do.
    """
    made = dict(fields)
    for field, role in roles.items():
        given = made.get(field)
        if given is None:
            raise ValueError(
                f"label {label!r} has no {field}: add {field} = KEY, one of the "
                f"{role.replace('_', ' ')} of config/coding.toml, or the code itself"
            )
        try:
            if isinstance(given, str):
                made[field] = concept_of(role, given).code
            else:
                made[field] = Code.model_validate(given)
            check_code(made[field])
        except ValueError as error:
            raise ValueError(f"label {label!r}, {field}: {error}") from None
    return made


def check_code(code: Code) -> None:
    """Raise ValueError where a code cannot be right."""
    which = f"({code.value}, {code.scheme}, {code.meaning!r})"
    if not 1 <= len(code.value) <= MAX_VALUE or not 1 <= len(code.meaning) <= MAX_MEANING:
        raise ValueError(f"{which} has a value over {MAX_VALUE} or a meaning over {MAX_MEANING}")
    if code.scheme in RETIRED:
        raise ValueError(f"{which} is of a retired coding scheme: give the SCT code")
    if code.scheme != PRIVATE_SCHEME and code.scheme not in SCHEMES:
        raise ValueError(
            f"{which} is of no known coding scheme: use SCT, DCM or RADLEX, or where none has the "
            f"concept {PRIVATE_SCHEME}"
        )
    if code.scheme == "SCT" and not _is_snomed_identifier(code.value):
        raise ValueError(f"{which} is mistyped: its check digit is wrong")
    _check_meaning(code, which)


def is_checked(code: Code) -> bool:
    """Whether the table or the standard has the code; else its meaning is only the card's word."""
    return bool(_meanings_of(code.scheme, code.value))


def measurement(quantity: str, value: float, unit: str, segment: int) -> Measurement:
    """A measurement of the table's quantity in one of the units that fit it; else ValueError."""
    table = coding_table()
    measured = table.quantities[quantity]
    if unit not in measured.units:
        raise ValueError(f"{quantity} is not measured in {unit}, but {', '.join(measured.units)}")
    return Measurement(
        code=measured.code, value=value, unit=table.units[unit].code, segment=segment
    )


def _check_meaning(code: Code, which: str) -> None:
    if code.scheme in {PRIVATE_SCHEME, "UCUM"}:
        return
    meanings = _meanings_of(code.scheme, code.value)
    if meanings:
        if _plain(code.meaning) not in {_plain(meaning) for meaning in meanings}:
            raise ValueError(f"{which} contradicts the standard: it means {sorted(meanings)[0]!r}")
        return
    same = _values_of(code.scheme, _plain(code.meaning))
    if same:
        raise ValueError(f"{which} contradicts the standard: that is {' or '.join(same)}")


def _meanings_of(scheme: str, value: str) -> set[str]:
    own = coding_table().meanings().get((scheme, value))
    return {own} if own is not None else _standard().get((scheme, value), set())


def _values_of(scheme: str, plain: str) -> list[str]:
    every = [*coding_table().meanings().items()]
    every += [(code, meaning) for code, meanings in _standard().items() for meaning in meanings]
    return sorted(
        {code[1] for code, meaning in every if code[0] == scheme and _plain(meaning) == plain}
    )


@lru_cache(maxsize=1)
def _standard() -> dict[tuple[str, str], set[str]]:
    """Code Meanings by scheme and value, of the context groups of PS3.16 and SNOMED's own names."""
    found: dict[tuple[str, str], set[str]] = {}
    for scheme in codes.schemes():
        for code in Collection(scheme).concepts.values():
            found.setdefault((scheme, code.value), set()).add(code.meaning)
    return found


def _plain(meaning: str) -> str:
    """Without case and SNOMED's "(disorder)": neither makes another concept."""
    return re.sub(r"\s*\([a-z ]+\)$", "", meaning).casefold()


def _is_snomed_identifier(value: str) -> bool:
    if not re.fullmatch(r"[1-9][0-9]{5,17}", value):
        return False
    check = 0
    for place, digit in enumerate(reversed(value)):
        permuted = int(digit)
        for _ in range(place % 8):
            permuted = _PERMUTATION[permuted]
        check = _PRODUCT[check][permuted]
    return check == 0
