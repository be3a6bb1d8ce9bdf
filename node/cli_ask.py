"""`overread models check` and `ask`: a model, started as the worker would."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from inference.assessment import NotForThisModel, Text
from inference.bundle import BundleError, find_bundle
from inference.decoder import SequenceTooLongError
from inference.model import Model, load_model
from inference.model_errors import ModelMemoryError, RuntimeProviderError
from inference.volume import Volume
from node.assembly import assemble
from node.cli_bundles import print_codes
from node.command_line import console, fail, files_of
from node.settings import Settings
from sr_writer.wording import finding_line, percentage

MODEL_ERRORS = (BundleError, ModelMemoryError, RuntimeProviderError, SequenceTooLongError)


def check_model(settings: Settings, name: str) -> None:
    """Start a bundle's model, and print its codes and what it runs on."""
    model = _model(name, settings)
    print_codes(model.manifest)
    console.print(f"{name} is intact and runs on {model.provider}; digest {model.identity.digest}")
    for degraded in model.degraded:
        console.print(f"[yellow]degraded[/] {degraded.en}")


def ask_model(
    settings: Settings,
    name: str,
    paths: Sequence[Path],
    questions: Sequence[str],
    priors: Sequence[Path],
    *,
    context: str,
) -> None:
    """Print what a model finds in a series, or its answers to `questions`."""
    volume = _volume(paths)
    earlier = [_volume([path]) for path in priors]
    model = _model(name, settings)
    try:
        if questions:
            _free_questions(model, volume, earlier, context, questions)
            return
        assessment = model.assess(volume, at=datetime.now(UTC), context=context, priors=earlier)
    except NotForThisModel as refusal:
        fail(refusal.reason.en)
    except MODEL_ERRORS as error:
        fail(str(error))
    record = assessment.record
    for finding in record.findings:
        console.print(finding_line(finding).en, highlight=False)
    if record.narrative is not None:
        console.print(f"model text, not verified: {record.narrative.en}", highlight=False)
    for limitation in record.limitations:
        console.print(f"limitation: {limitation.en}", style="yellow", highlight=False)


def _free_questions(
    model: Model, volume: Volume, priors: Sequence[Volume], context: str, questions: Sequence[str]
) -> None:
    for reply in model.ask(volume, questions, context=context, priors=priors):
        share = percentage(reply.probability)
        console.print(f"{reply.question}\n  yes {share} (not calibrated); text: {reply.text}")


def _model(name: str, settings: Settings) -> Model:
    try:
        return load_model(find_bundle(name, settings.bundle_dirs), settings.session)
    except MODEL_ERRORS as error:
        fail(str(error))


def _volume(paths: Sequence[Path]) -> Volume:
    assembled = assemble(tuple(file for path in paths for file in files_of(path)))
    if assembled.volume is None:
        reason = assembled.verdict.reason or Text(en="no volume", zh="")
        fail(f"{', '.join(map(str, paths))}: {reason.en}")
    return assembled.volume
