"""Does a narrative say what the findings say? A sentence that does not is dropped, not mended.

Rules read the text, no model does. They know a finding by the words, the label and the code
meaning that the bundle gives: a synonym ("bleed"), a misspelling, a region, a severity, an age or
a cause goes unread, and so does a claim over several sentences but for one that opens with "it".
A sentence that names no finding stays as model text. Where the rules cannot tell what is said,
the sentence is dropped: true sentences are lost, and more of them than of false ones are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from inference.assessment import Finding, Laterality, Measurement, Presence, Text
from inference.claims import Claim, Names, Side, Size
from inference.manifest import FindingSpec
from inference.polarity import Polarity
from inference.sentences import join, plain, sentences

LENGTH_TOLERANCE_MM, VOLUME_TOLERANCE_ML, TOLERANCE = 2.0, 0.5, 0.2
"""A size agrees within this of what was measured, or within this share of it if that is more."""

_ALLOWED: dict[Laterality | None, frozenset[Side]] = {
    Laterality.LEFT: frozenset({"left"}),
    Laterality.RIGHT: frozenset({"right"}),
    Laterality.BILATERAL: frozenset({"left", "right", "both"}),
    None: frozenset({"left", "right", "both", "midline"}),
}
"""Sides that a sentence may name; a finding without a side leaves it open."""

_OPPOSITE: dict[Laterality | None, frozenset[Side]] = {
    Laterality.LEFT: frozenset({"right"}),
    Laterality.RIGHT: frozenset({"left"}),
}

_PER_UNIT = {"mm": ("mm", 1.0), "cm": ("mm", 10.0), "mL": ("mL", 1.0), "ml": ("mL", 1.0)}
"""UCUM unit of a measurement: the unit that sizes are compared in, and how many make one."""

_UNREADABLE = Text(
    en="what it says of {en} cannot be told",
    zh="无法判断其对“{zh}”的描述",
)
_UNDETERMINED = Text(en="{en} is undetermined", zh="“{zh}”无法判定")
_PRESENCE = Text(
    en="it contradicts the answer on {en}",
    zh="与“{zh}”的判定结果相矛盾",
)
_SIDE = Text(
    en="it names another side of {en} than the evidence shows",
    zh="“{zh}”的侧别与影像依据不符",
)
_SIDE_UNSEEN = Text(
    en="it names a side of {en}, and the evidence shows none",
    zh="所述“{zh}”的侧别无影像依据",
)
_SIZE = Text(
    en="it gives a size of {en} that was not measured",
    zh="“{zh}”的大小与测量结果不符",
)
_PLACE = Text(
    en="the two languages name different places of {en}",
    zh="中英文描述的“{zh}”部位不一致",
)
_TOO_LONG = Text(en="it is too long to be read", zh="句子过长，无法判读")
_GONE = Text(
    en="nothing of the narrative is left in {en}",
    zh="{zh}描述已无保留内容",
)
_ENGLISH, _CHINESE = Text(en="English", zh="英文"), Text(en="Chinese", zh="中文")


@dataclass(frozen=True)
class Grounded:
    """What is left of a narrative: model text that contradicts no finding.

    `narrative` is None where nothing is left; a language of which nothing is left is "".
    `dropped` counts sentences in both languages, `reasons` says why, each reason once.
    """

    narrative: Text | None
    dropped: int
    reasons: tuple[Text, ...]


@dataclass(frozen=True)
class _Sentence:
    text: str
    claims: tuple[Claim, ...]
    why: Text | None
    """Why it must be dropped."""


def ground(narrative: Text, findings: Sequence[Finding], specs: Sequence[FindingSpec]) -> Grounded:
    """The sentences of `narrative` that agree with `findings`, in their order.

    A sentence that names a finding must state it where it is present and deny it where it is
    absent; its sides must be the finding's, its sizes (mm, cm, mL) must have been measured. No
    sentence may speak of a finding that is undetermined, or in `specs` but not in `findings`.
    """
    answers = {finding.name: finding for finding in findings}
    labels = {spec.name: spec.label for spec in specs}
    names = Names(specs)
    english, chinese = (
        _judged(text, names, answers, labels) for text in (narrative.en, narrative.zh)
    )
    for spec in specs:
        if _places_differ(spec, english, chinese):
            why = _about(_PLACE, spec.label)
            english, chinese = (_without(spec.name, why, said) for said in (english, chinese))
    kept = Text(en=_kept(english), zh=_kept(chinese))
    dropped = [one.why for one in (*english, *chinese) if one.why is not None]
    gone = [
        _about(_GONE, language)
        for language, before, after in (
            (_ENGLISH, english, kept.en),
            (_CHINESE, chinese, kept.zh),
        )
        if not after and (before or kept.en or kept.zh)
    ]
    return Grounded(
        kept if kept.en or kept.zh else None, len(dropped), tuple(dict.fromkeys([*dropped, *gone]))
    )


def _judged(
    text: str, names: Names, answers: dict[str, Finding], labels: dict[str, Text]
) -> list[_Sentence]:
    judged: list[_Sentence] = []
    before: tuple[str, ...] = ()
    for sentence in sentences(text):
        try:
            claims = names.claims(sentence, before)
        except ValueError:
            judged.append(_Sentence(sentence, (), _TOO_LONG))
            continue
        reasons = (
            _about(reason, labels[claim.finding])
            for claim in claims
            if (reason := _disagreement(claim, answers.get(claim.finding))) is not None
        )
        judged.append(_Sentence(sentence, claims, next(reasons, None)))
        before = tuple(dict.fromkeys(claim.finding for claim in claims))
    return judged


def _disagreement(claim: Claim, finding: Finding | None) -> Text | None:
    """Why the claim may not be made of the finding; the text still wants the finding's label."""
    if finding is None or finding.presence is Presence.UNDETERMINED:
        return _UNDETERMINED
    if claim.polarity is Polarity.UNCLEAR:
        return _UNREADABLE
    if claim.polarity is Polarity.DENIED:
        return None if _may_be_denied(claim, finding) else _PRESENCE
    if finding.presence is Presence.ABSENT:
        return _PRESENCE
    return _misplaced(claim, finding)


def _may_be_denied(claim: Claim, finding: Finding) -> bool:
    if finding.presence is Presence.ABSENT:
        return True
    # "None on the left" is true of a finding on the right.
    return claim.sides | claim.sides_denied == _OPPOSITE.get(finding.laterality)


def _misplaced(claim: Claim, finding: Finding) -> Text | None:
    if claim.sides and finding.evidence is not None and finding.evidence.segment is None:
        return _SIDE_UNSEEN
    allowed = _ALLOWED[finding.laterality]
    own = allowed if finding.laterality is not None else frozenset()
    if claim.sides - allowed or claim.sides_denied & own:
        return _SIDE
    if claim.sizes is None or not all(_measured(size, finding) for size in claim.sizes):
        return _SIZE
    return None


def _measured(size: Size, finding: Finding) -> bool:
    return any(_equal(size, measurement) for measurement in finding.measurements)


def _equal(size: Size, measurement: Measurement) -> bool:
    unit, factor = _PER_UNIT.get(measurement.unit.value, ("", 0.0))
    absolute = LENGTH_TOLERANCE_MM if unit == "mm" else VOLUME_TOLERANCE_ML
    value = measurement.value * factor
    return unit == size.unit and abs(size.value - value) <= max(absolute, TOLERANCE * value)


def _places_differ(
    spec: FindingSpec, english: Sequence[_Sentence], chinese: Sequence[_Sentence]
) -> bool:
    """Whether both languages place the finding, and not in the same regions or on the same side."""
    regions = [_regions(spec, said) for said in (english, chinese)]
    sides = [
        {
            side
            for one in said
            if one.why is None
            for claim in one.claims
            if claim.finding == spec.name and claim.polarity is Polarity.STATED
            for side in claim.sides
        }
        for said in (english, chinese)
    ]
    return any(all(pair) and pair[0] != pair[1] for pair in (regions, sides))


def _regions(spec: FindingSpec, said: Sequence[_Sentence]) -> set[int]:
    texts = [plain(one.text) for one in said if one.why is None and _names(one, spec.name)]
    return {
        number
        for number, region in enumerate(spec.words.regions)
        if any(plain(word) in text for text in texts for word in (region.en, region.zh) if word)
    }


def _without(name: str, why: Text, said: Sequence[_Sentence]) -> list[_Sentence]:
    return [
        _Sentence(one.text, one.claims, why) if one.why is None and _names(one, name) else one
        for one in said
    ]


def _names(sentence: _Sentence, name: str) -> bool:
    return any(claim.finding == name for claim in sentence.claims)


def _kept(said: Sequence[_Sentence]) -> str:
    return join([one.text for one in said if one.why is None])


def _about(reason: Text, subject: Text) -> Text:
    return Text(en=reason.en.format(en=subject.en), zh=reason.zh.format(zh=subject.zh))
