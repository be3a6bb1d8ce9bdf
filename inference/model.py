"""The public face of a model: a Volume in, an Assessment out, the same way for every family."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from inference.assessment import (
    Assessment,
    AssessmentRecord,
    Finding,
    ModelIdentity,
    NotForThisModel,
    Presence,
    Text,
    not_assessed,
)
from inference.bundle import EMBED, TOKENIZER, Bundle, BundleError, decoder_file, load_bundle
from inference.decoder import Decoder
from inference.families import open_reader
from inference.families.reading import Found, Reading
from inference.finding import finding_of, segment_of
from inference.grammar import GrammarError, JsonGrammar, assessment_schema, parse_structured
from inference.grounding import Grounded, ground
from inference.language import Language, Seen
from inference.manifest import FindingSpec, KeySlices
from inference.providers import Profile, SessionSettings
from inference.runtime import Graph
from inference.score import answer, probability
from inference.volume import Volume

KEY_SLICES = 4
STRUCTURED_BYTES = 45
"""Of a structured answer for each finding, beside its name; a token is one byte at least."""

MAX_CONTEXT = 1000
"""Characters of clinical text that are put before a question."""

_UNCALIBRATED = Text(
    en="Probabilities are the model's own and have not been calibrated on cases.",
    zh="概率为模型原始输出，未经病例校准。",
)
_NOT_ASKED_AGAIN = Text(
    en="The model's answers could not be checked by asking again: the text was cut off.",
    zh="未能通过再次提问核对模型答案：文本被截断。",
)
_CONTRADICTS_ITSELF = Text(
    en="The model answered otherwise when it was asked again.",
    zh="模型再次作答时结论不一致。",
)


def load_model(bundle_dir: Path, settings: SessionSettings) -> "Model":
    """Verify the bundle and start its graphs.

    Raises BundleError where the bundle cannot be trusted, RuntimeProviderError where the execution
    provider that was asked for would not run it.
    """
    return Model(bundle_dir, settings)


@dataclass(frozen=True)
class Reply:
    """Answer to a free question: the model's own odds of yes as a probability, and its text."""

    question: str
    probability: float
    text: str


@dataclass(frozen=True)
class _Answer:
    """What came out for one finding, and where it is seen."""

    spec: FindingSpec
    finding: Finding
    found: Found | None


class Model:
    """A loaded bundle. One call at a time."""

    def __init__(self, bundle_dir: Path, settings: SessionSettings) -> None:
        bundle = load_bundle(bundle_dir)
        self.manifest = bundle.manifest
        self._graphs: list[Graph] = []

        def graph(name: str, profile: Profile | None = None, *, fused: bool = False) -> Graph:
            path = bundle.file(name)
            self._graphs.append(Graph(path, settings, fused=fused, profile=profile))
            return self._graphs[-1]

        shape = bundle.manifest.decoder
        decoder = Decoder(graph(EMBED), graph(decoder_file(shape.precision), fused=True), shape)
        self.language = Language(bundle, decoder)
        self.reader = open_reader(bundle, graph, self.language)
        self.identity: ModelIdentity = bundle.identity
        self._check_room(bundle)
        self._grammar: JsonGrammar | None = None
        if self.manifest.prompts.structured is not None:
            stops = self.manifest.prompts.stop_ids
            schema = assessment_schema(self.manifest.findings)
            try:
                self._grammar = JsonGrammar(bundle.file(TOKENIZER), shape.vocabulary, stops, schema)
            except GrammarError as error:
                raise BundleError(str(error)) from error

    def _check_room(self, bundle: Bundle) -> None:
        """No study must find out that the cache is too short for the pictures."""
        spec, prompts = self.manifest.preprocessing, self.manifest.prompts
        pictures = 1
        if isinstance(spec, KeySlices) and spec.presentation == "images":
            pictures = spec.count
        questions = [finding.question for finding in self.manifest.findings]
        questions += [prompts.narrative.en, prompts.narrative.zh]
        needed = self.language.positions(pictures, questions)
        if needed >= self.manifest.decoder.max_length:
            raise BundleError(
                f"{bundle.folder}: pictures and questions take {needed} positions, the decoder's "
                f"cache holds {self.manifest.decoder.max_length}. Show fewer slices "
                "(preprocessing.count), or a montage, in the card; then convert again."
            )

    def warm(self) -> None:
        """Run every graph once, so that what it needs is had before a study comes."""
        for graph in self._graphs[2:]:
            graph.warm()
        splice, shape = self.manifest.splice, self.manifest.decoder
        seen = self.language.look([np.zeros((splice.tokens, shape.width), np.float32)])
        self._probabilities(seen)

    @property
    def degraded(self) -> tuple[Text, ...]:
        """What must be said where the graphs do not run as configured."""
        return tuple(dict.fromkeys(graph.degraded for graph in self._graphs if graph.degraded))

    @property
    def provider(self) -> str:
        """ONNX Runtime execution providers in use."""
        return ", ".join(sorted({graph.provider for graph in self._graphs}))

    def assess(
        self,
        volume: Volume,
        *,
        at: datetime,
        context: str = "",
        priors: Sequence[Volume] = (),
        with_probabilities: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> Assessment:
        """What the model says of `volume`, with evidence; the same input gives the same answer.

        `context` is clinical text (indication, history) for families that take it, `priors` are
        earlier volumes of the patient, oldest first. `with_probabilities` adds a map of a byte a
        voxel for each segment. A volume that is not what the model is for is not assessed, and the
        reason says why.
        """
        tell = progress or (lambda _: None)
        tell("looking")
        try:
            reading = self.reader.read(volume, priors)
        except NotForThisModel as refusal:
            return not_assessed(self.identity, (refusal.reason, self.manifest.statement), at)
        seen = self._look(reading, context)
        tell("asking")
        scores = self._probabilities(seen)
        doubted = self._doubted(seen, scores)
        tell("outlining")
        answers = self._answers(volume, reading, scores, doubted or set())
        tell("writing")
        limitations = self._limitations(volume, reading)
        if doubted is None:
            limitations = (*limitations, _NOT_ASKED_AGAIN)
        record = self._record(answers, self._narrative(seen), reading, limitations, at)
        outlined = _outlined(answers)
        masks = {number: found.mask for number, found in outlined if found.mask is not None}
        if not with_probabilities:
            return Assessment(record, masks)
        maps = {number: found.probabilities() for number, found in outlined if found.probabilities}
        return Assessment(record, masks, maps)

    def ask(
        self,
        volume: Volume,
        questions: Sequence[str],
        *,
        context: str = "",
        priors: Sequence[Volume] = (),
    ) -> list[Reply]:
        """Replies to free questions, for trying a model; raises NotForThisModel."""
        seen = self._look(self.reader.read(volume, priors), context)
        odds = self.language.log_odds(seen, questions)
        return [
            Reply(question, probability(float(value), None), self.language.write(seen, question))
            for question, value in zip(questions, odds, strict=True)
        ]

    def _look(self, reading: Reading, context: str) -> Seen:
        said = context[:MAX_CONTEXT]
        return self.language.look(reading.pictures, said, captions=reading.captions)

    def _probabilities(self, seen: Seen) -> list[float]:
        findings = self.manifest.findings
        odds = self.language.log_odds(seen, [finding.question for finding in findings])
        return [
            probability(float(value), finding.calibration)
            for value, finding in zip(odds, findings, strict=True)
        ]

    def _doubted(self, seen: Seen, scores: Sequence[float]) -> set[str] | None:
        """Findings whose probability the model's own structured answer contradicts.

        None where that answer was cut off, so that nothing is known.
        """
        question, findings = self.manifest.prompts.structured, self.manifest.findings
        if question is None or self._grammar is None:
            return set()
        limit = 2 + sum(len(spec.name) + STRUCTURED_BYTES for spec in findings)
        constraint = self._grammar.constraint()
        text = self.language.write(seen, question, limit=limit, constraint=constraint)
        try:
            said = parse_structured(text, findings)
        except GrammarError:  # the cache was full before the answer's end
            return None
        return {
            spec.name
            for spec, score in zip(findings, scores, strict=True)
            if said[spec.name].present == ("no" if score >= spec.threshold else "yes")
        }

    def _answers(
        self, volume: Volume, reading: Reading, scores: Sequence[float], doubted: set[str]
    ) -> list[_Answer]:
        answers: list[_Answer] = []
        for spec, score in zip(self.manifest.findings, scores, strict=True):
            found = reading.evidence(spec) if score >= spec.threshold else None
            presence, reason = answer(score, spec, evidence=found is not None)
            if spec.name in doubted and presence is not Presence.UNDETERMINED:
                presence, reason = Presence.UNDETERMINED, _CONTRADICTS_ITSELF
            outlined = [
                one for one in answers if one.finding.evidence and one.finding.evidence.segment
            ]
            number = len(outlined) + 1
            finding = finding_of(
                volume,
                spec,
                found,
                probability=score,
                presence=presence,
                reason=reason,
                number=number,
            )
            answers.append(_Answer(spec, finding, found))
        return answers

    def _narrative(self, seen: Seen) -> Text:
        asked = self.manifest.prompts.narrative
        english, chinese = (self.language.report(seen, one) for one in (asked.en, asked.zh))
        return Text(en=english, zh=chinese)

    def _record(
        self,
        answers: Sequence[_Answer],
        narrative: Text,
        reading: Reading,
        limitations: Sequence[Text],
        at: datetime,
    ) -> AssessmentRecord:
        findings = tuple(one.finding for one in answers)
        grounded = ground(narrative, findings, self.manifest.findings)
        return AssessmentRecord(
            model=self.identity,
            completed=True,
            findings=findings,
            segments=tuple(
                segment_of(one.spec, one.finding.evidence.segment)
                for one in answers
                if one.finding.evidence and one.finding.evidence.segment
            ),
            key_slices=_key_slices(findings, reading),
            narrative=grounded.narrative,
            limitations=(*limitations, *_left_out(grounded)),
            assessed_at=at,
            provider=self.provider,
        )

    def _limitations(self, volume: Volume, reading: Reading) -> tuple[Text, ...]:
        calibrated = all(finding.calibration for finding in self.manifest.findings)
        return (
            *volume.limitations,
            *reading.limitations,
            *self.degraded,
            *(() if calibrated else (_UNCALIBRATED,)),
            self.manifest.statement,
        )


def _outlined(answers: Sequence[_Answer]) -> list[tuple[int, Found]]:
    """Segment numbers, and what was found of each."""
    return [
        (one.finding.evidence.segment, one.found)
        for one in answers
        if one.found and one.finding.evidence and one.finding.evidence.segment
    ]


def _left_out(grounded: Grounded) -> tuple[Text, ...]:
    """How much of the model's text was dropped, and why."""
    if not grounded.reasons:
        return ()
    english = "; ".join(reason.en for reason in grounded.reasons)
    chinese = "；".join(reason.zh for reason in grounded.reasons)
    return (
        Text(
            en=f"Sentences of the model's text left out: {grounded.dropped} ({english}).",
            zh=f"已屏蔽模型文本{grounded.dropped}句（{chinese}）。",
        ),
    )


def _key_slices(findings: Sequence[Finding], reading: Reading) -> tuple[int, ...]:
    """Slices through each finding, the best one among them; else what shows the reading."""
    chosen: set[int] = set()
    for finding in findings:
        if finding.evidence is not None:
            slices = np.array(finding.evidence.slices)
            inner = np.quantile(slices, np.linspace(0.15, 0.85, KEY_SLICES), method="nearest")
            chosen |= {int(index) for index in inner} | {finding.evidence.best_slice}
    return tuple(sorted(chosen or reading.key_slices()))
