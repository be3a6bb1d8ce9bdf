"""Does a sentence state a finding or its absence? Rules of English and Chinese report language.

What the rules cannot tell apart is `UNCLEAR`, and an unclear sentence is never let through: a
sentence is lost rather than read the wrong way round.
"""

import re
from enum import Enum


class Polarity(Enum):
    """What is said of a finding; a guarded statement ("possible") counts as a statement."""

    STATED = "stated"
    DENIED = "denied"
    UNCLEAR = "unclear"


def polarity(sentence: str, start: int, end: int) -> Polarity:
    """Of the mention at `sentence[start:end]`; the sentence is `plain` text in either language."""
    before, after = sentence[:start], sentence[end:]
    if sentence.rstrip(" \"')]").endswith("?") or _MINUS.search(sentence):
        return Polarity.UNCLEAR
    english, chinese = _english(before, after), _chinese(before, after)
    if english is Polarity.STATED:
        return chinese
    # Denied in both languages at once: whether once or twice cannot be told.
    return english if chinese is Polarity.STATED else Polarity.UNCLEAR


_MINUS = re.compile(r"\(\s*[-−–?]\s*\)")
"""Laboratory style: "haemorrhage (-)"."""


def is_negation(phrase: str) -> bool:
    """Whether the phrase is nothing but a word of negation."""
    return bool(_NO.fullmatch(phrase) or _ZH_NO.fullmatch(phrase))


def word(pattern: str) -> re.Pattern[str]:
    """Pattern of whole Latin words; Chinese letters beside them do not count as letters."""
    return re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])")


# English

_SEEN = (
    r"seen|identified|present|visible|visuali[sz]ed|evident|detected|demonstrated|found|noted|"
    r"observed|appreciated|shown|apparent|confirmed|there|suspected|recogni[sz]ed|revealed"
)
_CANNOT_EXCLUDE = word(
    r"(?:can\s?not|can't|could not|couldn't|is not|isn't|are not|not|never)\s+(?:\w+\s+){0,2}?"
    r"(?:exclude[sd]?|rule[sd]? out)"
)
_NOT_ONLY = word(r"not (?:only|just|merely)")
_ALL_BUT = word(r"all but|anything but|nothing but")
_BREAK = word(
    r"but|however|although|though|whereas|while|yet|despite|nevertheless|nonetheless|still"
)
_NO = word(
    r"no|non|not|without|w/o|none|neither|nor|never|cannot|absence of|absent|free of|free from|"
    r"clear of|unremarkable for|negative for|negatives?|lack of|lacks|lacking|devoid of|"
    r"rules? out|ruled out|excludes?|excluded|excluding|[a-z]+n't|denies|against|rather than|"
    r"instead of"
)
_DOUBT = word(
    r"unlikely|doubt|doubtful|doubted|hardly|barely|scarcely|rarely|no longer|fail|fails|"
    r"failed|if|unless|except|history|prior|previous|previously|former|evaluate|evaluated|assess|"
    r"assessed|query|question|to exclude|to rule out|deny|denied|untrue|false|wrong|incorrect|"
    r"wrongly|artefact|artifact|mimic|mimics|mimicking|zero|nothing|nil|anything|resolved|resorbed|"
    r"disappeared|cleared|resolution|removed|evacuated|opposite|contralateral|ipsilateral|contrary|invisible|"
    r"undetectable|undetected|unseen|ex|status post|s/p|would|should|risk|rule"
)
_HEDGE = word(
    r"possible|possibly|probable|probably|perhaps|maybe|may|might|could|likely|suspect|suspected|"
    r"suspicious|suspicion|questionable|equivocal|uncertain|indeterminate|unclear|presumably|"
    r"apparently|versus|vs"
)
_VERB = word(
    r"is|are|was|were|be|been|has|have|had|there|shows|showed|showing|demonstrates|reveals|"
    r"revealed|contains|involves|involving|depicts|suggests|suggesting|indicates|"
    r"indicating|represents|exists|remains|consistent|compatible|caused|causes|" + _SEEN
)
_DETERMINER = word(r"a|an|the|some|this|these|there|one|two|multiple|several|many")
_PRESUPPOSES = word(
    r"the|this|that|these|those|its|their|known|from|due|with|within|in|around|about|adjacent|near|"
    r"between|by|for|to|other|another|additional|further|more|new|old|change|changes|increase|"
    r"decrease|enlargement|progression|expansion|extension|growth|worsening|improvement|than|because"
)
_OF_WHAT = re.compile(
    r"\s*(?:-related|-associated|associated|related|enlarge|expan|progress|growth|worsen|extension|"
    r"volume|size|change|induced|-induced|risk|mimic)"
)
_NOT_SEEN = word(rf"(?:not|never|[a-z]+n't|cannot)(?: \w+){{0,2}}? (?:{_SEEN})")
_GONE = word(r"absent|excluded|ruled out|negative|none|neither")
_NAY = re.compile(
    r"\s*(?:[:=(.?\-–—]+\s*(?:no|none|nil|absent|negative|not seen|0)(?: evidence| signs?)?"
    r"|no|none)\s*(?:[),.;]|$)|-free(?![a-z0-9])"
)
_NAY_OF_WHAT = re.compile(r"\s*[:=(.?\-–—]+\s*(?:no|none|nil|absent|negative|not|0)(?![a-z0-9])")
_OTHERWISE = word(r"not|never|cannot|[a-z]+n't|neither|free")
_LIST = re.compile(r",|(?<![a-z])(?:and|or|nor|with|without|plus)(?![a-z])|[&/]")
_MAX_WORDS = 8
"""Between a word of negation and what it denies."""


def _english(before: str, after: str) -> Polarity:
    text = _CANNOT_EXCLUDE.sub("possible", f"{before}\x00{after}")
    text = _ALL_BUT.sub("doubtful", _NOT_ONLY.sub("also", text))
    before, after = _clause(text, _BREAK)
    if _DOUBT.search(before) or _DOUBT.search(after):
        return Polarity.UNCLEAR
    cues = list(_NO.finditer(before))
    denied: bool | None = False
    between = ""
    if cues:
        between = before[cues[-1].end() :]
        rest = before[: cues[-1].start()]
        denied = _governs(between, after)
        open_cue = len(cues) > 1 and not _LIST.search(rest[cues[-2].end() :])
        if denied and (open_cue or _OF_WHAT.match(after)):
            return Polarity.UNCLEAR
        before = rest if denied else before
    return _with_what_follows(denied, before, after)


def _with_what_follows(denied: bool | None, before: str, after: str) -> Polarity:
    """Take in the predicate behind the mention ("is not seen")."""
    predicate, *others = _LIST.split(after, maxsplit=1)
    gone = _GONE.search(predicate)
    refused = bool(_NAY.match(after) or gone or _NOT_SEEN.search(predicate))
    turned = _OTHERWISE.search(predicate) or (not refused and _NAY_OF_WHAT.match(after))
    if denied is None or (denied and (refused or turned)) or (gone and turned):
        return Polarity.UNCLEAR
    if refused and _VERB.search(before):
        return Polarity.UNCLEAR  # "there is a haemorrhage that was not seen before"
    if not denied and not refused:
        shared = not _VERB.search(before + predicate) and others
        if turned or (shared and (_NOT_SEEN.search(others[0]) or _GONE.search(others[0]))):
            return Polarity.UNCLEAR  # "haemorrhage, mass and shift are not seen"
        return Polarity.STATED
    return Polarity.UNCLEAR if _HEDGE.search(before + predicate) else Polarity.DENIED


def _governs(between: str, after: str) -> bool | None:
    """Whether a negation reaches over `between` to the mention; None where it may or may not."""
    either = word("or|nor").search(between)
    if ":" in between or len(between.split()) > _MAX_WORDS:
        return None
    if _VERB.search(between) and not word("there|be").fullmatch(between.strip()):
        return None if either else False
    *_, tail = re.split(r",|(?<![a-z])and(?![a-z])", between)
    if tail != between:
        if _DETERMINER.search(tail):
            return None if word("of|for").search(between) else False
        closed = either or re.search(r"^[^.;]*?(?<![a-z])(?:or|nor)(?![a-z])", after)
        return True if closed and "," in between else None
    return None if _PRESUPPOSES.search(between) else True


def _clause(text: str, breaks: re.Pattern[str]) -> tuple[str, str]:
    """What stands before and behind the mention (a NUL) in its clause."""
    before, after = text.split("\x00", maxsplit=1)
    return (
        re.split(r"[;。!]", breaks.split(before)[-1])[-1],
        re.split(r"[;。!]", breaks.split(after)[0])[0],
    )


# Chinese

_ZH_CANNOT_EXCLUDE = re.compile(
    r"(?:不能|不可|不|无法|难以|未能|尚未|未)(?:完全|够|予)*(?:排除|除外)"
)
_ZH_HARMLESS = re.compile(
    r"非常|非增强|不规则|不均匀|不均|不对称|不同|不等|不清楚|不清|不全|不良|不整|不齐|无论|无创|不少|"
    r"不断|不但|不仅|未来|常|大小不一|不一|不完全"
)
_ZH_BREAK = re.compile(r"但是|但|然而|不过|反而|却|只是|仅")
_ZH_NO = re.compile(
    r"未见|未发现|未显示|未检出|未出现|未提示|未观察到|未探及|未查见|没有|没见|没|无|不存在|缺乏|排除|除外|"
    r"否认|不伴|未伴|不含|并非|而非|不是|不支持|不考虑|阴性"
)
_ZH_UNSURE = re.compile(
    r"不|非|未|否|勿|莫|假|误|伪|若|如果|既往|病史|史|复查|评估|除非|风险|术后|吗|是否|有无|吸收|消失|好转|清除|"
    r"零|可能性.{0,3}[小低]"
)
_ZH_HEDGE = re.compile(r"可能|疑|待排|待查|或许|倾向|似|大概|也许|考虑")
_ZH_STATES = re.compile(r"可见|见有|见到|存在|显示|提示|发现|伴|有|为|示|见")
_ZH_PRESUPPOSES = re.compile(
    r"引起|导致|所致|周围|继发|新发|新增|新的|其他|其它|其余|变化|增大|扩大|该|此"
)
_ZH_OF_WHAT = re.compile(
    r"\s*(?:灶|量|范围)?\s*(?:较前|明显)?(?:变化|增大|扩大|增多|进展|引起|导致|所致|周围|继发|相关)"
)
_ZH_NOT_SEEN = re.compile(
    r"\s*(?:的|征象|病灶|灶|影|表现|改变|迹象|密度|信号|等|均|也|亦|尚|可|目前|基本|已|者|[:=(\-])*\s*"
    r"(?:未见|未发现|未显示|未检出|未出现|不存在|没有|阴性|排除|除外|无|不明显)"
    r"(?:明显|显示|确切|异常|发现|了|[)。.!\s])*"
)
_ZH_ENDS_UNSEEN = re.compile(
    r"(?:未见|未发现|未显示|不存在|没有|阴性|排除|无)(?:明显|显示|异常|[。.\s])*$"
)
_ZH_PAUSE = re.compile(r"[,;。!]")
_ZH_AND = re.compile(r"[、及和与或]")
_ZH_MAX_LETTERS = 20


def _chinese(before: str, after: str) -> Polarity:
    text = _ZH_CANNOT_EXCLUDE.sub("可能", f"{before}\x00{after}")
    before, after = _clause(_ZH_HARMLESS.sub("", text), _ZH_BREAK)
    *earlier, before = _ZH_PAUSE.split(before)
    after = _ZH_PAUSE.split(after)[0]
    cues = list(_ZH_NO.finditer(before))
    refused = bool(_ZH_NOT_SEEN.fullmatch(after))
    if _ZH_UNSURE.search(_ZH_NO.sub("", before)) or _ZH_UNSURE.search(_ZH_NO.sub("", after)):
        return Polarity.UNCLEAR
    denied = _zh_denied(cues, before, after)
    if denied is None or (denied and refused) or (refused and _ZH_STATES.search(before)):
        return Polarity.UNCLEAR
    if denied or refused:
        return Polarity.UNCLEAR if _ZH_HEDGE.search(before + after) else Polarity.DENIED
    shared = _ZH_AND.match(after) and _ZH_ENDS_UNSEEN.search(after)
    # A bare name behind a denied one: a list that goes on, or something new?
    bare = (
        bool(earlier and _ZH_NO.search(earlier[-1]))
        and not cues
        and not _ZH_STATES.search(before + after)
    )
    return Polarity.UNCLEAR if shared or bare else Polarity.STATED


def _zh_denied(cues: list[re.Match[str]], before: str, after: str) -> bool | None:
    """Whether the last negation before the mention reaches it; None where it may or may not."""
    if not cues:
        return False
    between = before[cues[-1].end() :]
    if len(cues) > 1 and not _ZH_AND.search(before[cues[-2].end() : cues[-1].start()]):
        return None
    states = _ZH_STATES.search(between)
    if states:
        return False if states.group() in ("可见", "见有", "见到", "显示", "发现") else None
    unclear = (
        len(between) > _ZH_MAX_LETTERS
        or _ZH_PRESUPPOSES.search(between)
        or _ZH_OF_WHAT.match(after)
    )
    return None if unclear else True
