"""What each step of a study's way does, as plain functions of a workbench and a run.

Every step puts its result into the run's folder and may be repeated: a step that was cut off by a
crash runs again and makes the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Event

import structlog
from pydicom import Dataset

from inference.assessment import Assessment, AssessmentRecord, Finding, Presence, Text, not_assessed
from inference.bundle import find_bundle
from inference.model_errors import ModelMemoryError
from inference.process import (
    ModelCancelledError,
    ModelCrashedError,
    ModelProcess,
    ModelTimeoutError,
)
from inference.volume import Volume
from node.assembly import Assembled, assemble
from node.catalogue import Catalogue
from node.clinical_context import clinical_context
from node.commitment_ledger import CommitmentLedger
from node.completeness import routed_series
from node.descriptions import describe
from node.outbox import Outbox
from node.received import Received
from node.remedies import CHECK
from node.resident_model import MODEL_ERRORS, ResidentModel
from node.run_folder import RunFolder
from node.settings import Route, Settings
from node.spool import InstanceKey, Spool
from node.tables import Run
from sr_writer.conformance import check_objects
from sr_writer.fonts import FontMissingError
from sr_writer.key_images import draw_key_slices
from sr_writer.kinds import Kind, SegmentationForm, with_fallbacks
from sr_writer.provenance import Provenance
from sr_writer.results import Result
from sr_writer.source_images import on_images
from sr_writer.wording import percentage
from sr_writer.writing import write_results

log = structlog.get_logger()

RETRY = "run 'overread retry STUDY'"

MODEL_ATTEMPTS = 2
"""How often a study may crash the model, or keep it too long, before it is failed."""


class RunFailedError(Exception):
    """The run cannot go on; the text says what happened, `remedy` what an operator can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy


class WorkerStoppingError(BaseException):
    """The worker ends while a step is at work.

    No Exception, so that the workflow engine notes no outcome: the step is repeated at the next
    start.
    """


@dataclass(frozen=True)
class Workbench:
    """What the steps work with; one a worker process."""

    settings: Settings
    catalogue: Catalogue
    stopping: Event = field(default_factory=Event)
    resident: ResidentModel = field(default_factory=ResidentModel)

    @cached_property
    def spool(self) -> Spool:
        """The received instances."""
        return Spool(self.settings.spool_dir)

    @cached_property
    def outbox(self) -> Outbox:
        """What waits for which peer."""
        return Outbox(self.catalogue, self.settings.delivery)

    @cached_property
    def ledger(self) -> CommitmentLedger:
        """What was asked to be committed."""
        return CommitmentLedger(self.catalogue, self.settings.delivery)

    def folder(self, run_id: str) -> RunFolder:
        """Where the run keeps what it makes."""
        return RunFolder(self.settings.runs_dir / run_id)

    def route(self, run: Run) -> Route:
        """The run's route, as configured now."""
        try:
            return self.settings.route(run.route)
        except KeyError as error:
            raise RunFailedError(
                str(error.args[0]), f"restore the route, restart, then {RETRY}"
            ) from None

    def model(self, run: Run) -> ModelProcess:
        """The route's model, loaded unless it was the last one that was asked for."""
        route = self.route(run)
        try:
            folder = find_bundle(route.model, self.settings.bundle_dirs)
            settings = self.settings
            return self.resident.of(folder, settings.session, settings.limits, self.stopping.is_set)
        except MODEL_ERRORS as error:
            raise RunFailedError(
                f"model {route.model} cannot be used: {error}",
                f"run 'overread check', do what it says, restart, then {RETRY}",
            ) from None

    def series(self, run: Run, series: str) -> Assembled:
        """A series as a volume, or the verdict why not."""
        uids = self.folder(run.id).instances()[series]
        keys = (InstanceKey(run.study_uid, series, uid) for uid in uids)
        paths = tuple(self.spool.path(key) for key in keys)
        return _assembled(paths, self.route(run).stack, self.settings.assembly.max_gap)


@lru_cache(maxsize=1)  # assemble, assess and write follow each other on the same series
def _assembled(paths: tuple[Path, ...], stack: str, max_gap: float) -> Assembled:
    return assemble(paths, stack=stack, max_gap=max_gap)


def select(bench: Workbench, run: Run) -> list[str]:
    """Series that the route takes, the likeliest first."""
    instances = bench.folder(run.id).instances()
    series = routed_series(bench.spool, bench.route(run), run.study_uid, instances)
    if not series:
        raise RunFailedError(
            "no series of the study matches the route any more",
            f"correct the route's rule, restart the node, then {RETRY}",
        )
    return series


def assemble_first(bench: Workbench, run: Run, candidates: Sequence[str]) -> str:
    """The first series that is a volume; where none is, the likeliest, to say why."""
    for series in candidates:
        verdict = bench.series(run, series).verdict
        log.info(
            "series.assembled",
            run=run.id,
            series=series,
            geometry=verdict.geometry,
            accepted=verdict.accepted,
            slices=verdict.slices,
        )
        if verdict.accepted:
            return series
    return candidates[0]


def assess(bench: Workbench, run: Run, series: str) -> str:
    """Have the model assess the volume; returns the outcome in a line."""
    folder = bench.folder(run.id)
    if not folder.has_assessment():  # the time of assessment is part of every object made of it
        folder.save_assessment(_assessment(bench, run, bench.series(run, series)))
    return outcome(folder.record())


def _assessment(bench: Workbench, run: Run, assembled: Assembled) -> Assessment:
    try:
        model = bench.model(run)
        for degraded in model.degraded:
            log.warning("model.degraded", run=run.id, reason=degraded.en, remedy=CHECK)
        if assembled.volume is not None:
            return _assessed(bench, run, model, assembled.volume)
    except ModelCancelledError:
        raise WorkerStoppingError from None
    reason = assembled.verdict.reason or Text(en="No volume.", zh="无法组成容积。")
    return not_assessed(model.identity, (reason,), datetime.now(UTC))


def _assessed(bench: Workbench, run: Run, model: ModelProcess, volume: Volume) -> Assessment:
    attempt = 0
    while True:
        attempt += 1
        try:
            return model.assess(
                volume,
                at=datetime.now(UTC),
                context=clinical_context(volume.sources[0]),
                with_probabilities=_are_probabilities_sent(bench, run),
                progress=lambda doing: log.info("series.assessment", run=run.id, doing=doing),
                cancelled=bench.stopping.is_set,
            )
        except MODEL_ERRORS as error:
            said = {"attempt": attempt, "reason": str(error)}
            log.warning("model.ended", run=run.id, **said, remedy=_remedy(error))
            by_chance = isinstance(error, (ModelCrashedError, ModelTimeoutError))
            if not by_chance or attempt == MODEL_ATTEMPTS:
                raise RunFailedError(
                    f"no answer from the model after {attempt} of {MODEL_ATTEMPTS} tries: {error}",
                    _remedy(error),
                ) from None


def _are_probabilities_sent(bench: Workbench, run: Run) -> bool:
    peers = bench.settings.destinations(bench.route(run))
    is_wanted = any(Kind.PARAMETRIC_MAP in peer.objects for peer in peers)
    return is_wanted or bench.route(run).segmentation is SegmentationForm.FRACTIONAL


def _remedy(error: Exception) -> str:
    if isinstance(error, ModelTimeoutError):
        return f"raise inference.timeout_seconds, or take a smaller model; restart, then {RETRY}"
    if isinstance(error, ModelMemoryError):
        return f"raise inference.memory_gb, or take a smaller model; restart, then {RETRY}"
    return f"run 'overread check'; if it finds nothing, report a defect of the model; then {RETRY}"


def write(bench: Workbench, run: Run, series: str) -> None:
    """Write the objects and pictures of the assessment."""
    folder = bench.folder(run.id)
    assessment = folder.assessment()
    assembled = bench.series(run, series)
    if not assembled.headers:
        raise RunFailedError(
            "no instance of the series can be read, so there is nothing to refer to",
            "send the study again from the PACS as it was acquired",
        )
    record = assessment.record
    provenance = Provenance(
        content=run.id,
        software_version=version("overread"),
        station_name=bench.settings.node.ae_title,
        written_at=record.assessed_at,
    )
    volume = assembled.volume if record.completed else None
    if volume is not None:
        folder.save_record_on_images(on_images(assessment, volume).record)
        folder.save_pictures(draw_key_slices(assessment, volume))
    route = bench.route(run)
    peers = bench.settings.destinations(route)
    try:
        results = write_results(
            assessment,
            assembled.headers,
            volume,
            provenance,
            predecessors=bench.folder(run.supersedes).reports() if run.supersedes else {},
            kinds=with_fallbacks(kind for peer in peers for kind in peer.objects),
            languages={language for peer in peers for language in peer.languages},
            form=route.segmentation,
        )
    except FontMissingError as error:
        raise RunFailedError(str(error), f"do that, then {RETRY}") from None
    _report_form(run, route.segmentation, results)
    folder.save_results(results)


def _report_form(run: Run, asked: SegmentationForm, results: Sequence[Result]) -> None:
    for result in results:
        written = result.dataset.get("SegmentationType", "").lower()
        if result.kind is Kind.SEGMENTATION and written != asked:
            remedy = "none is needed; or ask for another by 'segmentation' of the route"
            log.warning(
                "segmentation.form", run=run.id, asked=asked, written=written, remedy=remedy
            )


def check(bench: Workbench, run: Run, series: str) -> None:
    """The gate: what contradicts its source or the standard is put aside, and the run fails."""
    folder = bench.folder(run.id)
    assembled = bench.series(run, series)
    assessment = folder.assessment()
    objects = folder.objects()
    problems = folder.quarantine_reasons() or check_objects(
        objects,
        assembled.headers,
        assembled.volume,
        model=assessment.record.model,
        assessment=assessment,
    )
    if problems:
        folder.quarantine(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems, the first"
        aside = f"runs/{run.id}/quarantine"
        remedy = f"report this as a defect of Overread, with {aside}/reasons.txt"
        log.error(
            "results.quarantined",
            run=run.id,
            problems=len(problems),
            folder=aside,
            remedy=remedy,
        )
        raise RunFailedError(f"held back, not sent: {count}: {problems[0]}", remedy)
    list_results(bench, run, objects)


def list_results(bench: Workbench, run: Run, objects: Sequence[Dataset]) -> None:
    """Have the catalogue know of a run's objects, for those who ask what is held.

    Of a report in several forms that is the richest: the others are for peers that cannot take it.
    """
    now = datetime.now(UTC)
    richest = bench.folder(run.id).richest()
    objects = [made for made in objects if made.SOPInstanceUID in richest]
    results = [
        Received(
            InstanceKey(made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID),
            sop_class_uid=str(made.SOPClassUID),
            transfer_syntax=str(made.file_meta.TransferSyntaxUID),
            calling_ae_title="",
            received_at=now,
        )
        for made in objects
    ]
    described = {
        (one.key.study, one.key.series): describe(made)
        for one, made in zip(results, objects, strict=True)
    }
    bench.catalogue.add_results(run.id, results, described)


def outcome(record: AssessmentRecord) -> str:
    """One line for the worklist."""
    if not record.completed:
        return "not assessed: " + " ".join(reason.en for reason in record.limitations[:1])
    return "; ".join(_finding_outcome(finding) for finding in record.findings)


def _finding_outcome(finding: Finding) -> str:
    words = [f"{finding.label.en} {finding.presence}"]
    if finding.probability is not None:
        words.append(f"probability {percentage(finding.probability)}")
    if finding.presence is Presence.PRESENT and finding.laterality is not None:
        words.append(finding.laterality)
    return ", ".join(words)
