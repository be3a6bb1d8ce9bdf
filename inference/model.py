"""The public face of the built-in vision-language model: a Volume in, an Assessment out."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np

from inference.assessment import (
    Assessment,
    AssessmentRecord,
    Code,
    Evidence,
    Finding,
    Laterality,
    Mask,
    Measurement,
    ModelIdentity,
    Presence,
    Segment,
    Text,
    not_assessed,
)
from inference.bundle import FindingSpec, load_bundle
from inference.decode import TextDecoder
from inference.grounding import contradiction
from inference.midline import find_midline, side_of
from inference.preprocess import ModelInput, NotForThisModel, prepare
from inference.providers import SessionSettings
from inference.runtime import Graph
from inference.score import answer, yes_probability
from inference.segmenter import long_axis_mm, outline, within_skull
from inference.volume import Volume

SEGMENT = 1
"""The built-in model outlines one thing."""

KEY_SLICES = 4
HEAD_SHARE = (0.25, 0.85)
"""Where nothing is found, key slices are spread over this part of the enclosed head."""

VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
LONG_AXIS = Code(value="103339001", scheme="SCT", meaning="Long axis")
MILLILITRE = Code(value="mL", scheme="UCUM", meaning="milliliter")
MILLIMETRE = Code(value="mm", scheme="UCUM", meaning="millimeter")


def load_model(bundle_dir: Path, settings: SessionSettings) -> "Model":
    """Verify the bundle and start its graphs.

    Raises BundleError where the bundle cannot be trusted, RuntimeProviderError where the provider
    that `settings` ask for would not run it, ModelMemoryError where it does not fit.
    """
    return Model(bundle_dir, settings)


class Model:
    """A loaded bundle. One call of `assess` at a time."""

    def __init__(self, bundle_dir: Path, settings: SessionSettings) -> None:
        bundle = load_bundle(bundle_dir)
        self._manifest = bundle.manifest
        graphs = [
            Graph(bundle.file(name), settings)
            for name in ("vision.onnx", "embed.onnx", "decoder.fp32.onnx")
        ]
        self._vision, embed, decoder = graphs
        self._text = TextDecoder(bundle, embed, decoder)
        self.identity: ModelIdentity = bundle.identity
        self.provider = self._vision.provider
        self._degraded = tuple({graph.degraded: None for graph in graphs if graph.degraded})

    def assess(
        self, volume: Volume, *, at: datetime, progress: Callable[[str], None] | None = None
    ) -> Assessment:
        """What the model says of `volume`, with evidence; the same volume gives the same answer.

        A volume that is not what the model is for is not assessed, and the reason says why.
        """
        tell = progress or (lambda _: None)
        manifest, spec = self._manifest, self._manifest.finding
        tell("preparing")
        try:
            model_input = prepare(volume, manifest.preprocessing)
        except NotForThisModel as refusal:
            return not_assessed(self.identity, (refusal.reason, manifest.statement), at)
        tell("looking")
        seen = self._vision({"volume": model_input.channels[None]})
        image = self._text.read_image(seen["image_tokens"])
        language = manifest.language
        probability = yes_probability(
            self._text.ask(image, spec.question), language.yes_id, language.no_id
        )
        tell("outlining")
        affine = volume.grid.affine
        mask = outline(
            within_skull(seen["mask_logits"][0], model_input.enclosed),
            model_input.affine,
            affine,
            _shape(volume),
            threshold=spec.mask_threshold,
            min_volume_ml=spec.min_volume_ml,
        )
        presence, reason = answer(probability, spec, evidence=bool(mask.any()))
        finding, segments = self._finding(
            volume, model_input, mask, presence=presence, probability=probability, reason=reason
        )
        tell("writing")
        narrative: Text | None = Text(
            en=self._text.write(image, language.prompts.en),
            zh=self._text.write(image, language.prompts.zh),
        )
        limitations = (*volume.limitations, *self._degraded, manifest.statement)
        why = contradiction(narrative, finding, spec.words) if narrative else None
        if why is not None:
            narrative, limitations = None, (*limitations, why)
        record = AssessmentRecord(
            model=self.identity,
            completed=True,
            findings=(finding,),
            segments=segments,
            key_slices=_key_slices(finding, model_input, volume),
            narrative=narrative,
            limitations=limitations,
            assessed_at=at,
            provider=self.provider,
        )
        return Assessment(record, {segment.number: mask for segment in segments})

    def _finding(
        self,
        volume: Volume,
        model_input: ModelInput,
        mask: Mask,
        *,
        presence: Presence,
        probability: float,
        reason: Text | None,
    ) -> tuple[Finding, tuple[Segment, ...]]:
        spec = self._manifest.finding
        evidence, laterality = None, None
        measurements: tuple[Measurement, ...] = ()
        segments: tuple[Segment, ...] = ()
        if presence is Presence.PRESENT:
            evidence = _evidence(mask)
            laterality = _laterality(volume, model_input, mask)
            measurements = _measurements(volume, mask)
            segments = (_segment(spec),)
        finding = Finding(
            name=spec.name,
            label=spec.label,
            code=spec.code,
            presence=presence,
            probability=probability,
            threshold=spec.threshold,
            site=spec.site,
            laterality=laterality,
            evidence=evidence,
            measurements=measurements,
            reason=reason,
        )
        return finding, segments


def _shape(volume: Volume) -> tuple[int, int, int]:
    slices, rows, columns = volume.grid.spatial_shape
    return slices, rows, columns


def _segment(spec: FindingSpec) -> Segment:
    return Segment(
        number=SEGMENT,
        label=spec.label.en,
        category=spec.segment_category,
        type=spec.segment_type,
        site=spec.site,
    )


def _evidence(mask: Mask) -> Evidence:
    area = mask.sum(axis=(1, 2))
    slices = tuple(int(index) for index in np.flatnonzero(area))
    return Evidence(segment=SEGMENT, slices=slices, best_slice=int(area.argmax()))


def _laterality(volume: Volume, model_input: ModelInput, mask: Mask) -> Laterality | None:
    midline = find_midline(model_input.hu, model_input.enclosed, model_input.affine)
    return side_of(mask, volume.grid.affine, midline)


def _measurements(volume: Volume, mask: Mask) -> tuple[Measurement, ...]:
    affine = volume.grid.affine
    volume_ml = round(int(mask.sum()) * volume.voxel_volume_ml, 2)
    axis_mm = round(long_axis_mm(mask, affine), 1)
    return (
        Measurement(code=VOLUME, value=volume_ml, unit=MILLILITRE, segment=SEGMENT),
        Measurement(code=LONG_AXIS, value=axis_mm, unit=MILLIMETRE, segment=SEGMENT),
    )


def _key_slices(finding: Finding, model_input: ModelInput, volume: Volume) -> tuple[int, ...]:
    """Slices through the finding, the best one among them; else spread over the head."""
    if finding.evidence is not None:
        slices = np.array(finding.evidence.slices)
        inner = np.quantile(slices, np.linspace(0.15, 0.85, KEY_SLICES), method="nearest")
        return tuple(sorted({int(index) for index in inner} | {finding.evidence.best_slice}))
    points = np.array(np.nonzero(model_input.enclosed))
    mapping = np.linalg.inv(volume.grid.affine) @ model_input.affine
    along = mapping[0, :3] @ points + mapping[0, 3]
    spread = np.quantile(along, np.linspace(*HEAD_SHARE, KEY_SLICES))
    last = volume.grid.spatial_shape[0] - 1
    return tuple(sorted({int(np.clip(round(float(index)), 0, last)) for index in spread}))
