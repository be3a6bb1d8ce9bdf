import pytest

from inference.assessment import Code, Evidence, Finding, Laterality, Presence, Text
from inference.grounding import contradiction
from inference.manifest import WordsOf

CODE = Code(value="1386000", scheme="SCT", meaning="Intracranial hemorrhage")
WORDS = WordsOf(
    present=Text(en="haemorrhage", zh="出血"),
    absent=Text(en="no hyperdense intracranial haemorrhage", zh="未见"),
    midline=Text(en="midline", zh="中线"),
    regions=(Text(en="frontal", zh="额叶"), Text(en="deep", zh="深部")),
)
NONE_SEEN = Text(en="No hyperdense intracranial haemorrhage is seen.", zh="未见颅内高密度出血。")
ON_THE_LEFT = Text(
    en="There is a large hyperdense haemorrhage in the left frontal region.",
    zh="左侧额叶区域可见大的高密度出血灶。",
)
MIDLINE = Text(
    en="There is a small hyperdense haemorrhage near the midline in the deep region.",
    zh="中线附近深部区域可见小的高密度出血灶。",
)


def finding(presence: Presence, laterality: Laterality | None = None) -> Finding:
    return Finding(
        name="intracranial_haemorrhage",
        label=Text(en="Intracranial haemorrhage", zh="颅内出血"),
        code=CODE,
        presence=presence,
        threshold=0.5,
        laterality=laterality,
        evidence=Evidence(segment=1, slices=(3,), best_slice=3),
    )


@pytest.mark.parametrize(
    ("text", "presence", "laterality", "agrees"),
    [
        (NONE_SEEN, Presence.ABSENT, None, True),
        (NONE_SEEN, Presence.PRESENT, Laterality.LEFT, False),
        (NONE_SEEN, Presence.UNDETERMINED, None, False),
        (ON_THE_LEFT, Presence.PRESENT, Laterality.LEFT, True),
        (ON_THE_LEFT, Presence.PRESENT, Laterality.RIGHT, False),
        (ON_THE_LEFT, Presence.PRESENT, None, True),
        (ON_THE_LEFT, Presence.PRESENT, Laterality.BILATERAL, True),
        (ON_THE_LEFT, Presence.ABSENT, None, False),
        (MIDLINE, Presence.PRESENT, Laterality.RIGHT, False),
        (MIDLINE, Presence.PRESENT, None, True),
        (
            Text(en=ON_THE_LEFT.en, zh=ON_THE_LEFT.zh.replace("额叶", "深部")),
            Presence.PRESENT,
            Laterality.LEFT,
            False,
        ),
        (Text(en=ON_THE_LEFT.en, zh=NONE_SEEN.zh), Presence.PRESENT, Laterality.LEFT, False),
        (
            Text(en=ON_THE_LEFT.en, zh=ON_THE_LEFT.zh.replace("左", "右")),
            Presence.PRESENT,
            Laterality.LEFT,
            False,
        ),
        (Text(en="", zh=""), Presence.ABSENT, None, False),
    ],
)
def test_only_a_narrative_that_agrees_is_let_through(
    text: Text, presence: Presence, laterality: Laterality | None, agrees: bool
) -> None:
    why = contradiction(text, finding(presence, laterality), WORDS)
    assert (why is None) == agrees
    assert why is None or ("withheld" in why.en and "屏蔽" in why.zh)
