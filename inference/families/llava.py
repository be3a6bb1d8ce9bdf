"""The LLaVA shape (LLaVA-Med, HuatuoGPT-Vision, Qilin-Med-VL): key slices as pictures.

A prior examination goes first, as one montage of its own slices. What the model says of all
pictures together is evidence only with a slice that says the same alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference.assessment import NotForThisModel, Text
from inference.families.reading import Floats, Found
from inference.key_slices import Lightbox
from inference.language import Language, Seen
from inference.manifest import FindingSpec, KeySlices
from inference.runtime import Graph
from inference.volume import Volume

Scores = npt.NDArray[np.float64]

PICTURES_AT_ONCE = 4
"""More make the image encoder no faster, and cost memory."""

MAX_PRIORS = 1
PRIOR, CURRENT = "Prior study:\n", "Current study:\n"


class SliceScores:
    """Log-odds (findings,) of each slice of one volume, shown to the model alone."""

    def __init__(
        self, box: Lightbox, findings: Sequence[FindingSpec], vision: Graph, language: Language
    ) -> None:
        self._box, self._vision, self._language = box, vision, language
        self._questions = [finding.question for finding in findings]
        self._scores: dict[int, Scores] = {}
        self._seen: Seen | None = None

    def of(self, slices: Sequence[int]) -> Scores:
        """(slices, findings); each slice is looked at once."""
        for index in slices:
            if index not in self._scores:
                tokens = image_tokens(self._vision, self._box.pictures([index]))
                self._seen = self._language.look(tokens, reuse=self._seen)
                self._scores[index] = self._language.log_odds(self._seen, self._questions)
        return np.stack([self._scores[index] for index in slices])

    def best(self, slices: Sequence[int], count: int) -> tuple[int, ...]:
        """The `count` slices that stand out most for any finding, in viewing order.

        A slice stands out by how far its log-odds are above the mean of all, so that a question
        that the model likes to affirm does not decide alone.
        """
        scores = self.of(slices)
        outstanding = (scores - scores.mean(axis=0)).max(axis=1)
        order = np.argsort(-outstanding, kind="stable")[:count]
        return self._box.in_viewing_order([slices[place] for place in order])


@dataclass(frozen=True, eq=False)
class LlavaReading:
    """One volume, looked at: `slices` of it in viewing order, behind those of a prior."""

    pictures: tuple[Floats, ...]
    slices: tuple[int, ...]
    captions: Mapping[int, str]
    limitations: tuple[Text, ...]
    findings: tuple[str, ...]
    scores: SliceScores

    def evidence(self, finding: FindingSpec) -> Found | None:
        """The slice that, shown alone, speaks most for the finding; None where none does."""
        own = self.scores.of(self.slices)[:, self.findings.index(finding.name)]
        place = int(own.argmax())
        if own[place] <= 0:
            return None
        return Found((self.slices[place],), self.slices[place])

    def key_slices(self) -> tuple[int, ...]:
        """Every slice that was shown."""
        return tuple(sorted(self.slices))


class LlavaReader:
    """Reads volumes with the vision graph of a `llava` bundle and asks for `findings`."""

    def __init__(
        self,
        preprocessing: KeySlices,
        findings: Sequence[FindingSpec],
        vision: Graph,
        language: Language,
    ) -> None:
        self._preprocessing, self._findings = preprocessing, tuple(findings)
        self._vision, self._language = vision, language

    def read(self, volume: Volume, priors: Sequence[Volume]) -> LlavaReading:
        """Look at one volume, and at the last of `priors`; raises NotForThisModel.

        A prior that is not for the model is left out, and the limitations say so.
        """
        spec = self._preprocessing
        box = Lightbox(volume, spec)
        scores = SliceScores(box, self._findings, self._vision, self._language)
        if spec.rule == "scored":
            slices = scores.best(box.candidates(), spec.count)
        else:
            slices = box.spread(spec.count)
        before, limitations = self._prior_pictures(priors)
        return LlavaReading(
            pictures=(*before, *image_tokens(self._vision, box.present(slices))),
            slices=slices,
            captions={0: PRIOR, len(before): CURRENT} if before else {},
            limitations=(_seen_of(len(slices), volume.grid.spatial_shape[0]), *limitations),
            findings=tuple(finding.name for finding in self._findings),
            scores=scores,
        )

    def _prior_pictures(self, priors: Sequence[Volume]) -> tuple[tuple[Floats, ...], list[Text]]:
        """Image tokens of a montage of the last prior that can be read, and what must be said."""
        pictures: list[Floats] = []
        left_out = max(0, len(priors) - MAX_PRIORS)
        for prior in priors[-MAX_PRIORS:]:
            try:
                box = Lightbox(prior, self._preprocessing)
            except NotForThisModel:
                left_out += 1
                continue
            pictures += image_tokens(
                self._vision, box.montage(box.spread(self._preprocessing.count))
            )
        said = [_PRIOR_SHOWN] if pictures else []
        return tuple(pictures), [*said, _priors_left_out(left_out)] if left_out else said


def image_tokens(vision: Graph, pictures: Floats) -> list[Floats]:
    """Tokens (tokens, width) of each of the normalised pictures (n, 3, size, size)."""
    tokens: list[Floats] = []
    for start in range(0, len(pictures), PICTURES_AT_ONCE):
        block = pictures[start : start + PICTURES_AT_ONCE]
        tokens += list(vision({"pixels": block})["image_tokens"])
    return tokens


_PRIOR_SHOWN = Text(
    en="The model was also shown a prior study; its text may speak of either.",
    zh="模型同时参考了一次既往检查；其文字描述可能涉及任一次检查。",
)


def _seen_of(shown: int, slices: int) -> Text:
    return Text(
        en=f"The model saw {shown} of {slices} slices, as pictures.",
        zh=f"模型仅以图片形式查看了{slices}层中的{shown}层。",
    )


def _priors_left_out(count: int) -> Text:
    return Text(
        en=f"Prior studies that were not looked at: {count}.",
        zh=f"未参考的既往检查：{count}次。",
    )
