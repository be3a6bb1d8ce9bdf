"""Sentences of a narrative against findings; what must never be kept counts most."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.assessment import Code, Evidence, Finding, Laterality, Measurement, Presence, Text
from inference.grounding import Grounded, ground
from inference.manifest import FindingSpec
from inference.sentences import plain, sentences
from tests.inference.manifests import HAEMORRHAGE, SHIFT

BLEED = HAEMORRHAGE.model_copy(
    update={
        "name": "bleed",
        "label": Text(en="Bleed", zh="血肿"),
        "words": HAEMORRHAGE.words.model_copy(update={"present": Text(en="bleed", zh="血肿")}),
        "code": Code(value="1", scheme="99OVERREAD", meaning="Bleeding"),
    }
)
SPECS = (HAEMORRHAGE, SHIFT)
MILLIMETRE = Code(value="mm", scheme="UCUM", meaning="millimeter")
MILLILITRE = Code(value="mL", scheme="UCUM", meaning="milliliter")
AXIS = Code(value="103339001", scheme="SCT", meaning="Long axis")
STATES: dict[str, tuple[Presence, Laterality | None]] = {
    "left": (Presence.PRESENT, Laterality.LEFT),
    "right": (Presence.PRESENT, Laterality.RIGHT),
    "both": (Presence.PRESENT, Laterality.BILATERAL),
    "open": (Presence.PRESENT, None),
    "absent": (Presence.ABSENT, None),
    "undetermined": (Presence.UNDETERMINED, None),
}


def finding(spec: FindingSpec, state: str, length_mm: float = 30.0) -> Finding:
    """Present ones measure `length_mm` along and 14 mL."""
    presence, laterality = STATES[state]
    sizes = ((length_mm, MILLIMETRE), (14.0, MILLILITRE)) if presence is Presence.PRESENT else ()
    return Finding(
        name=spec.name,
        label=spec.label,
        code=spec.code,
        presence=presence,
        threshold=0.5,
        laterality=laterality,
        evidence=Evidence(segment=1, slices=(3,), best_slice=3) if sizes else None,
        measurements=tuple(
            Measurement(code=AXIS, value=value, unit=unit, segment=1) for value, unit in sizes
        ),
    )


def grounded(text: Text, haemorrhage: str, shift: str = "absent"):
    findings = (finding(HAEMORRHAGE, haemorrhage), finding(SHIFT, shift, length_mm=5.0))
    return ground(text, findings, SPECS)


def keeps(sentence: str, haemorrhage: str, shift: str = "absent") -> bool:
    return grounded(Text(en=sentence, zh=""), haemorrhage, shift).dropped == 0


# Sentence, states of the haemorrhage in which it is kept; the midline shift is absent.
READ = [
    ("There is a large haemorrhage.", "left right both open"),
    ("A haemorrhage is seen in the left frontal lobe.", "left both open"),
    ("Right-sided intracranial hemorrhage.", "right both open"),
    ("RIGHT HAEMORRHAGE", "right both open"),
    ("There is left haemorrhage; none on the right.", "left open"),
    ("Haemorrhage in the left frontal and right parietal lobes.", "both open"),
    ("Bilateral haemorrhages are present.", "both open"),
    ("Haemorrhage near the midline.", "open"),
    ("No haemorrhage is seen.", "absent"),
    ("No acute intracranial haemorrhage.", "absent"),
    ("There is no evidence of haemorrhage.", "absent"),
    ("No haemorrhage, mass or midline shift.", "absent"),
    ("No mass, haemorrhage, or midline shift is seen.", "absent"),
    ("No mass, haemorrhage.", ""),
    ("Haemorrhage is not seen.", "absent"),
    ("Intracranial haemorrhage has not been identified.", "absent"),
    ("Haemorrhage is absent.", "absent"),
    ("Haemorrhage: none.", "absent"),
    ("Haemorrhage - no", "absent"),
    ("Haemorrhage-free brain.", "absent"),
    ("Absence of haemorrhage.", "absent"),
    ("The brain is free of haemorrhage.", "absent"),
    ("Neither haemorrhage nor fracture is seen.", "absent"),
    ("The scan doesn't show haemorrhage.", "absent"),
    ("Haemorrhage is ruled out.", "absent"),
    ("No haemorrhage on the left.", "right absent"),
    ("No midline shift, but a haemorrhage is seen.", "left right both open"),
    ("No midline shift, a haemorrhage is seen.", "left right both open"),
    ("There is no midline shift and a haemorrhage is seen on the left.", "left both open"),
    ("No midline shift, large haemorrhage on the left.", ""),
    ("No fracture, haemorrhage is seen in the left lobe.", ""),
    ("Haemorrhage with no midline shift.", "left right both open"),
    ("Haemorrhage without midline shift on the right.", "right both open"),
    ("CT without contrast shows haemorrhage on the right.", "right both open"),
    ("Possible haemorrhage.", "left right both open"),
    ("Haemorrhage cannot be excluded.", "left right both open"),
    ("We can't rule out haemorrhage.", "left right both open"),
    ("Haemorrhage is not excluded.", "left right both open"),
    ("Haemorrhage is unlikely.", ""),
    ("There is possibly no haemorrhage.", ""),
    ("No suspicious haemorrhage.", "absent"),
    ("It is not true that there is no haemorrhage.", ""),
    ("It is not without haemorrhage.", ""),
    ("No absence of haemorrhage.", ""),
    ("Haemorrhage is not absent.", ""),
    ("Not only haemorrhage is seen.", "left right both open"),
    ("Haemorrhage is all but excluded.", ""),
    ("Haemorrhage, mass and fracture are not seen.", ""),
    ("There is a haemorrhage that was not seen before.", ""),
    ("No mass effect from the haemorrhage.", ""),
    ("No change in the left haemorrhage.", ""),
    ("No haemorrhage-related mass effect.", ""),
    ("Calcification rather than haemorrhage.", "absent"),
    ("History of haemorrhage.", ""),
    ("Is there a haemorrhage?", ""),
    ("If haemorrhage is seen, call.", ""),
    ("The left haemor\u200brhage.", "left both open"),
    ("Ｌｅｆｔ ｈａｅｍｏｒｒｈａｇｅ.", "left both open"),
    ("No left but right-sided haemorrhage.", "right open"),
    ("Haemorrhage on the right, not on the left.", "right open"),
    ("Haemorrhage of 3.1 x 2 cm.", "left right both open"),
    ("Haemorrhage of 30 mm, 14 mL.", "left right both open"),
    ("A 5 cm haemorrhage.", ""),
    ("A 90-ml haemorrhage.", ""),
    ("A haemorrhage of five centimetres.", ""),
    ("A haemorrhage of 4 cm2.", ""),
    ("No haemorrhage over 5 mm.", "absent"),
    ("Haemorrhage and 5 mm midline shift.", ""),
    ("The ventricles are normal.", "left right both open absent undetermined"),
    ("An infarct on the right.", "left right both open absent undetermined"),
    ("Subtle bleed.", "left right both open absent undetermined"),
    ("Left haemorrhage, the right hemisphere is normal.", "left open"),
    ("Haemorrhage is anything but absent.", ""),
    ("Haemorrhage (not seen).", "absent"),
    ("No intracranial haemorrhage or haemorrhage elsewhere.", "absent"),
    ("There is no haemorrhage but haemorrhage on the left.", ""),
    ("No abnormality other than haemorrhage.", ""),
    ("No abnormality except left haemorrhage.", ""),
    ("Nothing but haemorrhage is seen.", ""),
    ("I never said there is no haemorrhage.", ""),
    ("Haemorrhage is denied.", ""),
    ("Haemorrhage no longer seen.", ""),
    ("Right haemorrhage is not seen, left haemorrhage is seen.", "left"),
    ("Haemorrhage of 30 mm in the left frontal lobe, i.e. large.", "left both open"),
    ("Haemorrhage in the left e.g. frontal lobe measuring 3.0 cm.", "left both open"),
    ("haemorrhage " * 100, ""),
    # Chinese
    ("左侧及右侧出血", "both open"),
    ("左、右侧额叶出血", "both open"),
    ("左右两侧出血", "both open"),
    ("未见出血，但左侧可见出血", ""),
    ("未发现明显出血。", "absent"),
    ("未见明确颅内出血征象。", "absent"),
    ("出血征象不明显", ""),
    ("非出血", ""),
    ("否认无出血", ""),
    ("无外伤史，可见出血", "left right both open"),
    ("除出血外未见异常", "left right both open"),
    ("左侧额叶可见出血灶。", "left both open"),
    ("右侧颅内出血", "right both open"),
    ("右側顱內出血", "right both open"),
    ("双侧出血。", "both open"),
    ("中线附近可见出血。", "open"),
    ("未见颅内高密度出血。", "absent"),
    ("无出血。", "absent"),
    ("無出血。", "absent"),
    ("颅内没有出血征象", "absent"),
    ("未见出血、占位及中线移位。", "absent"),
    ("出血未见。", "absent"),
    ("出血不存在。", "absent"),
    ("出血：无", "absent"),
    ("出血阴性。", "absent"),
    ("已排除出血。", "absent"),
    ("不能排除出血。", "left right both open"),
    ("可能有出血。", "left right both open"),
    ("可能无出血。", ""),
    ("并非没有出血。", ""),
    ("不是无出血", ""),
    ("无中线移位，但可见出血。", "left right both open"),
    ("无中线移位，可见左侧出血。", "left both open"),
    ("出血无中线移位。", "left right both open"),
    ("左侧出血，右侧未见异常。", "left open"),
    ("不规则出血灶。", "left right both open"),
    ("出血密度不均匀。", "left right both open"),
    ("未见出血增大。", ""),
    ("未见骨折，出血。", ""),
    ("出血、占位未见。", ""),
    ("有无出血？", ""),
    ("出血已吸收。", ""),
    ("出血约3cm左右。", "left right both open"),
    ("出血约５０毫米。", ""),
    ("出血约五厘米。", ""),
    ("出血量约14毫升。", "left right both open"),
    ("无左侧出血", "right absent"),
    ("非左侧而是右侧出血", ""),
    ("脑室系统正常。", "left right both open absent undetermined"),
    ("未见：出血", "absent"),
    ("以下均未见：出血、骨折", "absent"),
    # lists
    ("No evidence of:\n- haemorrhage\n- mass", ""),
    ("No evidence of:\n- mass.\n- haemorrhage.", ""),
    ("Seen:\n- left haemorrhage\n- no mass", ""),
    ("未见：\n1、占位\n2、出血", "absent"),
    ("Negative findings: haemorrhage, mass.", ""),
    ("- No mass\n- Left haemorrhage", "left both open"),
    ("Haemorrhage - no shift.", ""),
    ("left\x01haemorrhage", "left both open"),
    # both in one
    ("未见 haemorrhage。", "absent"),
    ("No 出血 is seen.", "absent"),
    ("No 未见 haemorrhage.", ""),
    ("左侧 haemorrhage", "left both open"),
]


@pytest.mark.parametrize(("sentence", "kept_in"), READ, ids=[one for one, _ in READ])
def test_a_sentence_is_kept_only_where_it_agrees(sentence: str, kept_in: str) -> None:
    assert {state for state in STATES if keeps(sentence, state)} == set(kept_in.split())


@pytest.mark.parametrize(
    ("sentence", "shift", "kept"),
    [
        ("Haemorrhage with midline shift.", "open", True),
        ("Haemorrhage with midline shift.", "absent", False),
        ("Haemorrhage, no shift of the midline.", "open", False),
        ("Haemorrhage with 5 mm midline shift.", "open", True),
        ("Haemorrhage with 30 mm midline shift.", "open", False),
        ("Left haemorrhage and midline shift to the right.", "right", True),
        ("Left haemorrhage and midline shift to the right.", "left", False),
        ("左侧出血伴中线移位5mm。", "open", True),
        ("左侧出血伴中线移位15mm。", "open", False),
        ("左侧出血，无中线移位。", "absent", True),
        ("左侧出血，无中线移位。", "open", False),
    ],
)
def test_each_finding_has_its_own_words_sides_and_sizes(
    sentence: str, shift: str, kept: bool
) -> None:
    assert keeps(sentence, "left", shift) == kept


def test_no_left_but_right_sided_bleed() -> None:
    text = Text(en="No left but right-sided bleed.", zh="")
    for state, kept in (("right", True), ("left", False), ("absent", False)):
        assert (ground(text, [finding(BLEED, state)], [BLEED]).dropped == 0) == kept


NONE_SEEN = Text(en="No hyperdense intracranial haemorrhage is seen.", zh="未见颅内高密度出血。")
ON_THE_LEFT = Text(
    en="There is a large hyperdense haemorrhage in the left frontal region.",
    zh="左侧额叶区域可见大的高密度出血灶。",
)
MIDLINE = Text(
    en="There is a small hyperdense haemorrhage near the midline in the deep region.",
    zh="中线附近深部区域可见小的高密度出血灶。",
)
DEEP = Text(en=ON_THE_LEFT.en, zh=ON_THE_LEFT.zh.replace("额叶", "深部"))
RIGHT_IN_CHINESE = Text(en=ON_THE_LEFT.en, zh=ON_THE_LEFT.zh.replace("左", "右"))


@pytest.mark.parametrize(
    ("text", "state", "english", "chinese"),
    [
        (NONE_SEEN, "absent", True, True),
        (NONE_SEEN, "left", False, False),
        (NONE_SEEN, "undetermined", False, False),
        (ON_THE_LEFT, "left", True, True),
        (ON_THE_LEFT, "right", False, False),
        (ON_THE_LEFT, "open", True, True),
        (ON_THE_LEFT, "both", True, True),
        (ON_THE_LEFT, "absent", False, False),
        (MIDLINE, "right", False, False),
        (MIDLINE, "open", True, True),
        (DEEP, "left", False, False),
        (Text(en=ON_THE_LEFT.en, zh=NONE_SEEN.zh), "left", True, False),
        (RIGHT_IN_CHINESE, "left", True, False),
        (RIGHT_IN_CHINESE, "open", False, False),
    ],
)
def test_the_built_in_models_sentences(
    text: Text, state: str, english: bool, chinese: bool
) -> None:
    left = grounded(text, state)
    kept = Text(en=text.en if english else "", zh=text.zh if chinese else "")
    assert left.narrative == (kept if english or chinese else None)
    assert left.dropped == 2 - english - chinese
    assert any("Chinese" in why.en for why in left.reasons) == (not chinese)
    assert any("English" in why.en for why in left.reasons) == (not english)


def test_the_other_sentences_stay_in_their_order() -> None:
    text = Text(
        en="The skull is intact. There is a right haemorrhage. It measures 3.0 cm. "
        "The ventricles are not dilated, e.g. the third.",
        zh="颅骨完整。右侧可见出血。脑室无扩张。",
    )
    left = grounded(text, "left")
    assert left.narrative == Text(
        en="The skull is intact. It measures 3.0 cm. "
        "The ventricles are not dilated, e.g. the third.",
        zh="颅骨完整。脑室无扩张。",
    )
    assert left.dropped == 2
    assert [why.zh for why in left.reasons] == ["“颅内出血”的侧别与影像依据不符"]


@pytest.mark.parametrize(
    ("following", "kept"),
    [
        ("It is on the left.", True),
        ("It is on the right.", False),
        ("This measures 9 cm.", False),
        ("The lesion is not present.", False),
        ("位于右侧。", True),
        ("其位于右侧。", False),
    ],
)
def test_it_is_the_finding_of_the_sentence_before(following: str, kept: bool) -> None:
    assert keeps(f"There is a haemorrhage. {following}", "left") == kept


def test_an_answer_that_is_not_there_is_not_spoken_of() -> None:
    text = Text(en="No midline shift. Normal skull.", zh="")
    left = ground(text, [finding(HAEMORRHAGE, "absent")], SPECS)
    assert left.narrative == Text(en="Normal skull.", zh="")
    assert left.reasons[0].en == "Midline shift is undetermined"


def test_nothing_was_said() -> None:
    assert ground(Text(en="", zh=" \n"), [], SPECS) == Grounded(None, 0, ())


def test_a_phrase_of_absence_without_the_name() -> None:
    words = SHIFT.words.model_copy(update={"absent": Text(en="midline is central", zh="中线居中")})
    spec = SHIFT.model_copy(update={"words": words})
    for sentence in ("The midline is central.", "中线居中。"):
        for state, kept in (("absent", 0), ("open", 1), ("undetermined", 1)):
            said = Text(en=sentence, zh="")
            assert ground(said, [finding(spec, state)], [spec]).dropped == kept


VOCABULARY = (
    "haemorrhage haemorrhages left right right-sided bilateral midline no not without or and but "
    ", . ; : ? ( ) is seen absent there a the with 30 mm 5 cm shift frontal it 3.5 none - "
    "左侧 右 出血 未见 无 可见 不 ， 。 、 但 ： \N{ZERO WIDTH SPACE}"
)
WORDS = st.sampled_from([*VOCABULARY.split(), "\n", "\n\n", "\n- "])
PHRASES = st.lists(WORDS, max_size=14).map(" ".join)
TEXTS = st.one_of(st.text(max_size=300), PHRASES, PHRASES.map(lambda text: text.replace(" ", "")))
NEGATED = re.compile(r"no|not|without|absent|未|无|不")


@settings(max_examples=300, deadline=None)
@given(en=TEXTS, zh=TEXTS, haemorrhage=st.sampled_from(list(STATES)))
def test_what_is_kept_is_a_part_of_what_was_said(en: str, zh: str, haemorrhage: str) -> None:
    left = grounded(Text(en=en, zh=zh), haemorrhage)
    if left.narrative is None:
        return
    for said, kept in ((en, left.narrative.en), (zh, left.narrative.zh)):
        at = 0
        for sentence in sentences(kept):
            at = said.index(sentence, at) + len(sentence)
    assert (left.dropped > 0) <= (len(left.reasons) > 0)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, haemorrhage=st.sampled_from(list(STATES)))
def test_what_is_kept_is_kept_again(text: str, haemorrhage: str) -> None:
    once = grounded(Text(en=text, zh=""), haemorrhage).narrative
    if once is not None:
        assert grounded(once, haemorrhage).narrative == once


@settings(max_examples=500, deadline=None)
@given(
    before=st.lists(WORDS, max_size=6).map(" ".join),
    after=st.lists(WORDS, max_size=6).map(" ".join),
)
def test_no_kept_sentence_puts_the_finding_on_the_other_side(before: str, after: str) -> None:
    left = grounded(Text(en=f"{before} haemorrhage {after}", zh=""), "left").narrative
    for sentence in sentences(left.en) if left else ():
        text = plain(sentence)
        # What is denied of the right is no claim of it.
        if ("hemorrhage" in text or "出血" in text) and not NEGATED.search(text):
            assert "right" not in text
            assert "右" not in text


@pytest.mark.parametrize(
    "text",
    ["a" * 10**6, "no " * 10**5, "." * 10**6, "haemorrhage" * 10**5, "haemorrhage. " * 10**4,
     "\n " * 10**5, "intracranial - " * 10**5, "9" * 10**6 + " mm haemorrhage", "未见" * 10**5],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_text_is_read_in_time(text: str) -> None:
    start = time.process_time()
    grounded(Text(en=text, zh=text), "absent")
    assert time.process_time() - start < 8


def test_a_side_is_dropped_where_the_evidence_has_none() -> None:
    seen = finding(HAEMORRHAGE, "open").model_copy(
        update={
            "evidence": Evidence(segment=None, slices=(3,), best_slice=3),
            "laterality": None,
            "measurements": (),
        }
    )
    text = Text(en="There is a left haemorrhage. There is a haemorrhage.", zh="左侧可见出血。")
    found = ground(text, [seen], [HAEMORRHAGE])
    assert found.narrative == Text(en="There is a haemorrhage.", zh="")
    assert found.dropped == 2
    assert "evidence shows none" in found.reasons[0].en
