"""What is wrong with a configuration, in sentences: which key, why, and what to write instead."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails


def sentence_of(detail: ErrorDetails, settings: type[BaseModel]) -> str:
    """One mistake that `settings` found, as `key: what is wrong; remedy`."""
    key = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if detail["type"] == "extra_forbidden":
        known = _known_keys(detail["loc"], settings)
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{key}: is missing; add it (see config/overread.toml)"
    return f"{key}: {message} (found {_shown(detail['input'])})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(location: tuple[int | str, ...], settings: type[BaseModel]) -> list[str]:
    """Keys that are valid where an unknown one was found."""
    section: Any = settings
    for part in location[:-1]:
        if isinstance(part, str):  # a number is the place in a list of sections
            annotation = section.model_fields[part].annotation
            section = next(iter(get_args(annotation)), annotation)
    return sorted(section.model_fields)
