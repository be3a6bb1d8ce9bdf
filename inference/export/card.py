"""What a checkpoint does not say of itself, in TOML: its maker, its purpose, what to ask it."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inference.assessment import Text
from inference.export.graphs import ExportError
from inference.manifest import FindingSpec, mistakes_of


class Card(BaseModel):
    """The part of a manifest that a person writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=64)
    manufacturer: str = Field(min_length=1, max_length=64)
    licence: str = Field(min_length=1)
    demonstration: bool
    intended_use: Text
    statement: Text
    preprocessing: dict[str, Any] = Field(
        default_factory=dict, description="in place of what the family does by itself"
    )
    findings: tuple[FindingSpec, ...] = Field(min_length=1)

    @field_validator("findings")
    @classmethod
    def _each_once(cls, findings: tuple[FindingSpec, ...]) -> tuple[FindingSpec, ...]:
        if len({finding.name for finding in findings}) < len(findings):
            raise ValueError("two findings have the same name")
        return findings


def load_card(path: Path) -> Card:
    """Read a card; raises ExportError with every mistake in it."""
    try:
        return Card.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise ExportError(f"{path}: {mistakes_of(error)}. See docs/models.md, Card.") from error
