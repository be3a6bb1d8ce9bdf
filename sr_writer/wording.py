"""What a report says in words, in English and Chinese; nothing of it identifies a patient."""

from inference.assessment import (
    AssessmentRecord,
    Finding,
    Laterality,
    ModelIdentity,
    Presence,
    Text,
)

UNVERIFIED = Text(
    en="Unverified second opinion by an artificial intelligence. No physician has reviewed it; "
    "it does not replace the radiologist's report.",
    zh="人工智能第二意见，未经核实。未经医师审阅，不能替代放射科医师的报告。",
)
DEMONSTRATION = Text(en="Demonstration model, not for clinical use.", zh="演示模型，不得用于临床。")
NOT_ASSESSED = Text(en="No assessment was made of this series.", zh="未对本序列进行评估。")
NARRATIVE_WITHHELD = Text(en="The model gave no narrative text.", zh="模型未给出文字描述。")

_PRESENCE = {
    Presence.PRESENT: Text(en="present", zh="存在"),
    Presence.ABSENT: Text(en="absent", zh="未见"),
    Presence.UNDETERMINED: Text(en="undetermined", zh="无法判定"),
}
_LATERALITY = {
    Laterality.LEFT: Text(en="left", zh="左侧"),
    Laterality.RIGHT: Text(en="right", zh="右侧"),
    Laterality.BILATERAL: Text(en="bilateral", zh="双侧"),
}
_QUANTITY = {  # code value -> Chinese name, where the standard's meaning is English only
    "118565006": "体积",
    "103339001": "长径",
    "103340004": "短径",
}


def statements(record: AssessmentRecord) -> tuple[Text, ...]:
    """Return what must be said before anything else: who speaks, and how far it can be trusted."""
    said = [UNVERIFIED]
    if record.model.demonstration:
        said.append(DEMONSTRATION)
    if not record.completed:
        said.append(NOT_ASSESSED)
    elif record.narrative is None:
        said.append(NARRATIVE_WITHHELD)
    return tuple(said)


def percentage(share: float) -> str:
    """Return a probability in words that never claim certainty."""
    if share > 0.999:
        return "> 99.9%"
    return f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def probability(finding: Finding) -> Text | None:
    """Return the sentence that says what the probability is the probability of."""
    if finding.probability is None:
        return None
    share, threshold = percentage(finding.probability), percentage(finding.threshold)
    return Text(
        en=f"Probability that the finding is present: {share}; decision threshold {threshold}.",
        zh=f"该征象存在的概率：{share}；判定阈值 {threshold}。",
    )


def intended_use(model: ModelIdentity) -> Text:
    """Return the sentence that says what the model was made for."""
    return Text(
        en=f"Intended use: {model.intended_use.en}", zh=f"预期用途：{model.intended_use.zh}"
    )


def finding_line(finding: Finding) -> Text:
    """Return one finding and all that is known of it, in one line."""
    presence = _PRESENCE[finding.presence]
    english = f"{finding.label.en}: {presence.en}"
    chinese = f"{finding.label.zh}：{presence.zh}"
    if finding.probability is not None:
        english += f" (probability {percentage(finding.probability)})"
        chinese += f"（概率 {percentage(finding.probability)}）"
    if finding.laterality is not None:
        english += f", {_LATERALITY[finding.laterality].en}"
        chinese += f"，{_LATERALITY[finding.laterality].zh}"
    for measurement in finding.measurements:
        amount = f"{measurement.value:.1f} {measurement.unit.value}"
        english += f", {measurement.code.meaning.lower()} {amount}"
        quantity = _QUANTITY.get(measurement.code.value, measurement.code.meaning)
        chinese += f"，{quantity} {amount}"
    if finding.reason is not None:
        english += f". {finding.reason.en}"
        chinese += f"。{finding.reason.zh}"
    return Text(en=english, zh=chinese)
