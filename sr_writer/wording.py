"""What a report says in words, in English and Chinese; nothing of it identifies a patient."""

from inference.assessment import (
    AssessmentRecord,
    Evidence,
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
PDF_TITLE = Text(en="AI second opinion, unverified", zh="人工智能第二意见，未经核实")
DEMONSTRATION = Text(en="Demonstration model, not for clinical use.", zh="演示模型，不得用于临床。")
NOT_ASSESSED = Text(en="No assessment was made of this series.", zh="未对本序列进行评估。")
NARRATIVE_WITHHELD = Text(en="The model gave no narrative text.", zh="模型未给出文字描述。")
MODEL_TEXT = Text(en="Text written by the model, not verified: ", zh="模型生成文本，未经核实：")
"""Opens whatever words are the model's own: they are no finding."""

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
    elif narrative(record) is None:
        said.append(NARRATIVE_WITHHELD)
    return tuple(said)


def notice(model: ModelIdentity) -> str:
    """Return what stands on every object that is not a report, in both languages."""
    said = [UNVERIFIED, DEMONSTRATION] if model.demonstration else [UNVERIFIED]
    return "\n".join([*(each.en for each in said), *(each.zh for each in said)])


def narrative(record: AssessmentRecord) -> Text | None:
    """Return the model's own words, called that, a language it did not write in empty."""
    if record.narrative is None:
        return None
    english, chinese = record.narrative.en.strip(), record.narrative.zh.strip()
    if not english and not chinese:
        return None
    return Text(
        en=MODEL_TEXT.en + english if english else "", zh=MODEL_TEXT.zh + chinese if chinese else ""
    )


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


def about_model(model: ModelIdentity) -> Text:
    """Return the sentence that says which model it was."""
    return Text(
        en=f"Model: {model.name} {model.version}, {model.manufacturer}.",
        zh=f"模型：{model.name} {model.version}，{model.manufacturer}。",
    )


def intended_use(model: ModelIdentity) -> Text:
    """Return the sentence that says what the model was made for."""
    use = model.intended_use
    return Text(en=use.en and f"Intended use: {use.en}", zh=use.zh and f"预期用途：{use.zh}")


def seen_on(evidence: Evidence) -> Text:
    """Return the slices that show a finding, counted from 1, and that no outline does."""
    slices = sorted({*evidence.slices, evidence.best_slice})
    runs: list[list[int]] = []
    for number in (index + 1 for index in slices):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    english = ", ".join(f"{run[0]} to {run[-1]}" if run[1:] else f"{run[0]}" for run in runs)
    chinese = "、".join(f"{run[0]}至{run[-1]}" if run[1:] else f"{run[0]}" for run in runs)
    english = f"slices {english}" if slices[1:] else f"slice {english}"
    chinese = f"第{chinese}层"
    if slices[1:]:
        english += f" (best on {evidence.best_slice + 1})"
        chinese += f"（第{evidence.best_slice + 1}层最清楚）"
    if evidence.segment is None:
        english += ", without outline"
        chinese += "，无轮廓"
    return Text(en=english, zh=chinese)


def place_label(finding: Finding, *, is_outlined: bool) -> Text:
    """Return what stands at the box around a finding: what it is, who says so, and how exactly."""
    english = f"{finding.label.en or finding.label.zh} (AI, unverified)"
    chinese = f"{finding.label.zh or finding.label.en}（人工智能，未经核实）"
    if not is_outlined:
        english += ", somewhere on this image"
        chinese += "，位于本图像某处"
    return Text(en=english, zh=chinese)


def finding_line(finding: Finding) -> Text:
    """Return one finding and all that is known of it, in one line."""
    presence = _PRESENCE[finding.presence]
    english = f"{finding.label.en or finding.label.zh}: {presence.en}"
    chinese = f"{finding.label.zh or finding.label.en}：{presence.zh}"
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
    if finding.evidence is not None and finding.evidence.segment is None:
        seen = seen_on(finding.evidence)
        english += f", seen on {seen.en}"
        chinese += f"，见于{seen.zh}"
    if finding.reason is not None:
        english += finding.reason.en and f". {finding.reason.en}"
        chinese += finding.reason.zh and f"。{finding.reason.zh}"
    return Text(en=english, zh=chinese)
