"""M3D-LaMed: the whole volume as one picture of 256 tokens, and outlines that it is asked for.

Where the answer says [SEG], the state from which that was chosen tells SegVol what to outline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from inference.assessment import Text
from inference.families.reading import Floats, Found
from inference.foreground import ForegroundInput, foreground_input
from inference.language import Language, Seen
from inference.manifest import QUESTION, FindingSpec, ForegroundVolume
from inference.runtime import Graph
from inference.segmenter import outline, probabilities
from inference.volume import Volume

KEY_SLICES = 4
KEY_SHARE = (0.15, 0.85)
"""Where nothing is found, key slices are spread over this part of the foreground."""

MASK_THRESHOLD = 0.5
"""As published; for findings whose evidence is slices, not an outline."""

_NO_PRIORS = Text(
    en="Prior studies were not looked at: the model takes one volume.",
    zh="未参考既往检查：该模型仅接受一个容积图像。",
)


@dataclass(frozen=True, eq=False)
class M3dReading:
    """One volume, looked at."""

    volume: Volume
    model_input: ForegroundInput
    tokens: Floats
    limitations: tuple[Text, ...]
    seg: Graph | None
    language: Language

    @property
    def pictures(self) -> tuple[Floats, ...]:
        """The whole volume is one picture."""
        return (self.tokens,)

    @property
    def captions(self) -> dict[int, str]:
        """None: there is one picture."""
        return {}

    def evidence(self, finding: FindingSpec) -> Found | None:
        """What the model outlines when it is asked to; None where it does not, or nothing.

        The side is left open: where the patient's middle is, is not known for every body part.
        """
        if self.seg is None or (prompt := self._prompt(finding)) is None:
            return None
        volume = self.model_input.values[None, None]
        logits = self.seg({"volume": volume, "prompt": prompt})["mask_logits"][0]
        affines = (self.model_input.affine, self.volume.grid.affine)
        slices, rows, columns = self.volume.grid.spatial_shape
        spec = finding.segment
        threshold = spec.mask_threshold if spec else MASK_THRESHOLD
        mask = outline(
            logits,
            *affines,
            (slices, rows, columns),
            threshold=threshold,
            min_volume_ml=spec.min_volume_ml if spec else 0.0,
        )
        found = Found.outlined(
            mask, None, partial(probabilities, logits, *affines, mask, threshold=threshold)
        )
        if found is None or spec is not None:
            return found
        return Found(found.slices, found.best_slice)

    def key_slices(self) -> tuple[int, ...]:
        """Slices spread over what shows any foreground."""
        first, last = self.model_input.slices
        spread = first + (last - first) * np.linspace(*KEY_SHARE, KEY_SLICES)
        return tuple(sorted({round(float(index)) for index in spread}))

    def _prompt(self, finding: FindingSpec) -> Floats | None:
        """State (1, width) of what is to be outlined; several are averaged, as published."""
        prompts = self.language.prompts
        if prompts.segment is None or prompts.segment_id is None:
            return None
        question = prompts.segment.replace(QUESTION, finding.question)
        states = self.language.states_at(self._seen, question, prompts.segment_id)
        return states.mean(axis=0, keepdims=True) if len(states) else None

    @cached_property
    def _seen(self) -> Seen:
        return self.language.look(self.pictures)


class M3dReader:
    """Reads volumes with the graphs of an `m3d_lamed` bundle; `seg` is None where it has none."""

    def __init__(
        self, preprocessing: ForegroundVolume, vision: Graph, seg: Graph | None, language: Language
    ) -> None:
        self._preprocessing, self._vision = preprocessing, vision
        self._seg, self._language = seg, language

    def read(self, volume: Volume, priors: Sequence[Volume]) -> M3dReading:
        """Look at one volume; raises NotForThisModel where it is nothing for the model."""
        model_input = foreground_input(volume, self._preprocessing)
        seen = self._vision({"volume": model_input.values[None, None]})
        return M3dReading(
            volume,
            model_input,
            seen["image_tokens"][0],
            (_NO_PRIORS,) if priors else (),
            self._seg,
            self._language,
        )
