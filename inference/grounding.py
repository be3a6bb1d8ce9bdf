"""Does a narrative say what the findings say? One that does not is withheld, not mended."""

from inference.assessment import Finding, Laterality, Presence, Text
from inference.manifest import WordsOf

_SIDES = {
    Laterality.LEFT: Text(en="left", zh="左侧"),
    Laterality.RIGHT: Text(en="right", zh="右侧"),
}

_WITHHELD = Text(
    en="The model's narrative is withheld: {en}.",
    zh="模型生成的描述已被屏蔽：{zh}。",
)


def contradiction(narrative: Text, finding: Finding, words: WordsOf) -> Text | None:
    """Why the narrative must be withheld, or None where it agrees with the finding."""
    stated = {
        _stated(narrative.en.lower(), words.present.en, words.absent.en),
        _stated(narrative.zh, words.present.zh, words.absent.zh),
    }
    if None in stated:
        return _withheld("it does not say whether the finding is there", "未说明是否存在该征象")
    if finding.presence is Presence.UNDETERMINED:
        return _withheld("the finding is undetermined", "该征象无法判定")
    if stated != {finding.presence is Presence.PRESENT}:
        return _withheld("it contradicts the finding", "与判定结果相矛盾")
    if finding.presence is Presence.PRESENT:
        if _sides(narrative) - _allowed(finding.laterality) or (
            finding.laterality is not None
            and words.midline is not None
            and _has(narrative, words.midline)
        ):
            return _withheld(
                "it names another side than the segmentation shows", "所述侧别与分割结果不符"
            )
        if any((word.en in narrative.en) != (word.zh in narrative.zh) for word in words.regions):
            return _withheld("the two languages name different regions", "中英文描述的部位不一致")
    return None


def _stated(text: str, present: str, absent: str) -> bool | None:
    """Whether the text states the finding (True), its absence (False) or neither (None)."""
    if absent in text:
        return False
    return True if present in text else None


def _sides(narrative: Text) -> set[Laterality]:
    english = narrative.en.lower().split()
    return {
        side
        for side, word in _SIDES.items()
        if word.en in _bare(english) or word.zh in narrative.zh
    }


def _has(narrative: Text, word: Text) -> bool:
    return word.en in narrative.en or word.zh in narrative.zh


def _bare(words: list[str]) -> set[str]:
    return {word.strip(".,;:") for word in words}


def _allowed(laterality: Laterality | None) -> set[Laterality]:
    """Sides that a text may name; one on both or on no side leaves it open."""
    if laterality in _SIDES:
        return {laterality}
    return set(_SIDES)


def _withheld(en: str, zh: str) -> Text:
    return Text(en=_WITHHELD.en.format(en=en), zh=_WITHHELD.zh.format(zh=zh))
