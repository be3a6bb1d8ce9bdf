"""The built-in model: a CT head on one upright grid, an outline with every look.

Its vision graph reads all windows of the grid at once and gives image tokens and mask logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from inference.assessment import Text
from inference.families.reading import Floats, Found
from inference.manifest import FindingSpec, HeadGrid
from inference.midline import Midline, find_midline, side_of
from inference.preprocess import ModelInput, prepare
from inference.runtime import Graph
from inference.segmenter import outline, probabilities, within_skull
from inference.volume import Volume

KEY_SLICES = 4
HEAD_SHARE = (0.25, 0.85)
"""Where nothing is found, key slices are spread over this part of the enclosed head."""

_NO_PRIORS = Text(
    en="Prior studies were not looked at: the model reads one study.",
    zh="未参考既往检查：该模型仅读取单次检查。",
)


@dataclass(frozen=True, eq=False)
class HeadReading:
    """One head, looked at."""

    volume: Volume
    model_input: ModelInput
    tokens: Floats
    mask_logits: Floats
    limitations: tuple[Text, ...]

    @property
    def pictures(self) -> tuple[Floats, ...]:
        """The whole head is one picture."""
        return (self.tokens,)

    @property
    def captions(self) -> dict[int, str]:
        """None: there is one picture."""
        return {}

    def evidence(self, finding: FindingSpec) -> Found | None:
        """The outline inside the skull, and its side of the head's own midline."""
        if finding.segment is None:
            return None
        logits = within_skull(self.mask_logits, self.model_input.enclosed)
        affines = (self.model_input.affine, self.volume.grid.affine)
        slices, rows, columns = self.volume.grid.spatial_shape
        threshold = finding.segment.mask_threshold
        mask = outline(
            logits,
            *affines,
            (slices, rows, columns),
            threshold=threshold,
            min_volume_ml=finding.segment.min_volume_ml,
        )
        side = side_of(mask, self.volume.grid.affine, self._midline) if mask.any() else None
        return Found.outlined(
            mask, side, partial(probabilities, logits, *affines, mask, threshold=threshold)
        )

    def key_slices(self) -> tuple[int, ...]:
        """Slices spread over the brain."""
        points = np.array(np.nonzero(self.model_input.enclosed))
        mapping = np.linalg.inv(self.volume.grid.affine) @ self.model_input.affine
        along: npt.NDArray[np.float64] = mapping[0, :3] @ points + mapping[0, 3]
        spread = np.quantile(along, np.linspace(*HEAD_SHARE, KEY_SLICES))
        last = self.volume.grid.spatial_shape[0] - 1
        return tuple(sorted({int(np.clip(round(float(index)), 0, last)) for index in spread}))

    @cached_property
    def _midline(self) -> Midline:
        seen = self.model_input
        return find_midline(seen.hu, seen.enclosed, seen.affine)


class HeadReader:
    """Reads CT heads with the vision graph of an `overread_vlm` bundle."""

    def __init__(self, preprocessing: HeadGrid, vision: Graph) -> None:
        self._preprocessing, self._vision = preprocessing, vision

    def read(self, volume: Volume, priors: Sequence[Volume]) -> HeadReading:
        """Look at one head; raises NotForThisModel where it is none."""
        model_input = prepare(volume, self._preprocessing)
        seen = self._vision({"volume": model_input.channels[None]})
        return HeadReading(
            volume,
            model_input,
            seen["image_tokens"][0],
            seen["mask_logits"][0],
            (_NO_PRIORS,) if priors else (),
        )
