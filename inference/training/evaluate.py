"""Calibrate and measure the packaged bundle on unseen simulated heads, through the node's own path.

    python -m inference.training.evaluate [--heads 240] [--calibration-heads 160]

Needs no torch. Writes calibration and figures into the bundle's manifest (which changes its
digest) and prints them. No head is used for both.
"""

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.special import logit

from inference.assessment import Presence
from inference.bundle import MANIFEST, PACKAGED, write_manifest
from inference.calibration import calibrate, reliability
from inference.manifest import Manifest
from inference.model import Model, load_model
from inference.phantom import HeadPhantom, Lesion
from inference.providers import SessionSettings
from inference.simulation import scan_grid, volume_of
from inference.training.heads import FIELD_MM, PLANES, REACH_MM

FIRST_SEED, FIRST_CALIBRATION_SEED = 9_000_000, 8_000_000
"""Training starts at 1,000,000 and never comes here."""

SIZEABLE_MM = 10.0
PROCESSES = 2


@dataclass(frozen=True)
class Case:
    """One head: what was true, what was said."""

    lesion: Lesion | None
    presence: Presence
    probability: float
    dice: float
    side_right: bool | None
    withheld: bool


@cache
def _model(bundle: Path) -> Model:
    return load_model(bundle, SessionSettings(threads=1))


def scan(seed: int, *, bundle: Path) -> Case:
    """Scan one head on a random axial, coronal, sagittal or oblique grid and assess it.

    Heads with an even seed have a haemorrhage.
    """
    rng = np.random.default_rng([seed, 3])
    phantom = HeadPhantom(seed, haemorrhage=seed % 2 == 0)
    slice_mm, pixel_mm = rng.uniform(2.0, 5.0), rng.uniform(0.9, 1.5)
    plane = str(rng.choice(PLANES))
    pixels = int(FIELD_MM / pixel_mm)
    shape = (int(REACH_MM[plane] / slice_mm), pixels, pixels)
    x, y, z = rng.uniform(-12, 12, 3) * (rng.random() < 0.5)
    affine = scan_grid(
        phantom,
        shape,
        (slice_mm, pixel_mm, pixel_mm),
        plane=plane,
        reverse=bool(rng.random() < 0.5),
        turn_degrees=(x, y, z),
    )
    hu, truth = phantom.render(affine, shape)
    assessment = _model(bundle).assess(volume_of(hu, affine), at=datetime.now(UTC))
    if not assessment.record.completed:
        raise RuntimeError(f"seed {seed} refused: {assessment.record.limitations[0].en}")
    finding = assessment.record.findings[0]
    mask = assessment.masks.get(1, np.zeros(shape, dtype=bool))
    dice = 2 * float((mask & truth).sum()) / max(1, int(mask.sum() + truth.sum()))
    found = finding.presence is Presence.PRESENT and phantom.lesion is not None
    return Case(
        lesion=phantom.lesion,
        presence=finding.presence,
        probability=finding.probability or 0.0,
        dice=dice,
        side_right=finding.laterality is phantom.lesion.side if found and phantom.lesion else None,
        withheld=assessment.record.narrative is None,
    )


def summarise(cases: list[Case]) -> dict[str, float]:
    """Figures over all cases; an undetermined answer counts as neither present nor absent."""
    bleeding = [case for case in cases if case.lesion is not None]
    sizeable = [case for case in bleeding if case.lesion and case.lesion.diameter_mm >= SIZEABLE_MM]
    clear = [case for case in cases if case.lesion is None]
    found = [case for case in bleeding if case.presence is Presence.PRESENT]
    truth = [case.lesion is not None for case in cases]
    trust = reliability([case.probability for case in cases], truth)
    return {
        "heads": len(cases),
        "sensitivity": _share(case.presence is Presence.PRESENT for case in bleeding),
        "specificity": _share(case.presence is Presence.ABSENT for case in clear),
        "sensitivity_10_mm": _share(case.presence is Presence.PRESENT for case in sizeable),
        "undetermined": sum(case.presence is Presence.UNDETERMINED for case in cases),
        "median_dice": round(float(np.median([case.dice for case in found])), 4) if found else 0.0,
        "side_accuracy": _share(bool(case.side_right) for case in found),
        "narratives_withheld": sum(case.withheld for case in cases),
        "brier_score": round(trust.brier, 4),
        "expected_calibration_error": round(trust.expected_error, 4),
    }


def _share(outcomes: Iterable[bool]) -> float:
    values = list(outcomes)
    return round(sum(values) / len(values), 4) if values else 0.0


def main() -> None:
    """Calibrate and evaluate the packaged bundle, and record what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, default=PACKAGED / "head_ct")
    parser.add_argument("--heads", type=int, default=240)
    parser.add_argument("--calibration-heads", type=int, default=160)
    arguments = parser.parse_args()
    folder: Path = arguments.bundle
    manifest = _uncalibrated(Manifest.model_validate_json((folder / MANIFEST).read_bytes()))
    write_manifest(manifest, folder)
    cases = _cases(folder, FIRST_CALIBRATION_SEED, arguments.calibration_heads)
    odds = [float(logit(case.probability)) for case in cases]
    measured = {manifest.findings[0].name: (odds, [case.lesion is not None for case in cases])}
    manifest = calibrate(manifest, measured)
    write_manifest(manifest, folder)
    print(manifest.findings[0].calibration)
    cases = _cases(folder, FIRST_SEED, arguments.heads)
    for index, case in enumerate(cases):
        if (case.lesion is not None) != (case.presence is Presence.PRESENT) or case.withheld:
            print(FIRST_SEED + index, case, flush=True)
        if case.side_right is False:
            print(FIRST_SEED + index, "side", case.lesion, flush=True)
    figures = summarise(cases)
    write_manifest(manifest.model_copy(update={"performance": figures}), folder)
    print(figures)


def _uncalibrated(manifest: Manifest) -> Manifest:
    findings = tuple(
        finding.model_copy(update={"calibration": None}) for finding in manifest.findings
    )
    return manifest.model_copy(update={"findings": findings, "performance": None})


def _cases(bundle: Path, first_seed: int, heads: int) -> list[Case]:
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        seeds = range(first_seed, first_seed + heads)
        return list(pool.map(partial(scan, bundle=bundle), seeds, chunksize=4))


if __name__ == "__main__":
    main()
