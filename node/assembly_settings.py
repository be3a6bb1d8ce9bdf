"""The section [assembly] of the configuration: what may become a volume."""

from pydantic import Field

from node.section import Section

MAX_GAP = 3.0
"""A step of more expected steps than this is refused, unless the node's settings say otherwise."""


class AssemblySettings(Section):
    """What may become a volume."""

    max_gap: float = Field(
        default=MAX_GAP, ge=1, le=100, description="widest gap that is filled, in usual steps"
    )
