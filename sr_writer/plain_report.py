"""The report of an assessment as plain text: for the status page, the PDF and the terminal."""

from collections.abc import Iterable

from inference.assessment import AssessmentRecord, Text
from sr_writer.wording import about_model, finding_line, intended_use, narrative, statements

LIMITATIONS = Text(en="Limitations:", zh="局限：")


def report_text(record: AssessmentRecord) -> Text:
    """Return the report as plain text, one language each; nothing of it identifies a patient."""
    model, written = record.model, narrative(record)
    limitations = (
        Text(en=each.en and f"- {each.en}", zh=each.zh and f"- {each.zh}")
        for each in record.limitations
    )
    paragraphs = [
        [*statements(record), *map(finding_line, record.findings)],
        [] if written is None else [written],
        [LIMITATIONS, *limitations] if record.limitations else [],
        [about_model(model), intended_use(model)],
    ]
    return Text(
        en=_joined([said.en for said in paragraph] for paragraph in paragraphs),
        zh=_joined([said.zh for said in paragraph] for paragraph in paragraphs),
    )


def _joined(paragraphs: Iterable[Iterable[str]]) -> str:
    """Return the paragraphs with a line between them, without what is not said in a language."""
    lines = ("\n".join(line for line in paragraph if line) for paragraph in paragraphs)
    return "\n\n".join(paragraph for paragraph in lines if paragraph)
