"""What the conversion of a checkpoint hands to whoever writes the bundle's manifest."""

from dataclasses import dataclass

from inference.manifest import DecoderShape, Preprocessing, Prompts, Splice


@dataclass(frozen=True)
class Converted:
    """The graphs and the tokenizer are written; this is what the manifest must say of them.

    `family` names the module under `inference.families`; `parity_error` is the largest difference
    from torch over all graphs; `tools` are the exporters' versions.
    """

    family: str
    preprocessing: Preprocessing
    splice: Splice
    prompts: Prompts
    decoder: DecoderShape
    parity_error: float
    tools: dict[str, str]
