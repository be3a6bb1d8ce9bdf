"""Why a model cannot run on this machine: errors that cross from its process to the caller.

The caller does not import what runs the model.
"""

from inference.assessment import Text
from inference.providers import SHOWN, Provider


class RuntimeProviderError(Exception):
    """The execution provider that was asked for is not there or did not take the graph."""

    def __init__(self, provider: Provider, reason: Text, remedy: str) -> None:
        super().__init__(provider, reason, remedy)  # so that it can be pickled
        self.provider, self.reason, self.remedy = provider, reason, remedy

    def __str__(self) -> str:
        shown = SHOWN[self.provider]
        return f"{shown} cannot be used: {self.reason.en}. Do this: {self.remedy}."


class ModelMemoryError(Exception):
    """The model and what it works on do not fit into the memory that it may have."""
