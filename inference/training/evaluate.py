"""Measure the packaged bundle on unseen simulated heads, through the node's own path; no torch.

    python -m inference.training.evaluate [--heads 240]

Writes the figures into the bundle's manifest (which changes its digest) and prints them.
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

from inference.assessment import Presence
from inference.bundle import MANIFEST, PACKAGED, Manifest, Performance
from inference.model import Model, load_model
from inference.phantom import HeadPhantom, Lesion
from inference.providers import SessionSettings
from inference.simulation import scan_grid, volume_of
from inference.training.heads import FIELD_MM, PLANES, REACH_MM

FIRST_SEED = 9_000_000
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


def summarise(cases: list[Case]) -> Performance:
    """Figures over all cases; an undetermined answer counts as neither present nor absent."""
    bleeding = [case for case in cases if case.lesion is not None]
    sizeable = [case for case in bleeding if case.lesion and case.lesion.diameter_mm >= SIZEABLE_MM]
    clear = [case for case in cases if case.lesion is None]
    found = [case for case in bleeding if case.presence is Presence.PRESENT]
    sides = [case.side_right for case in found]
    return Performance(
        heads=len(cases),
        sensitivity=_share(case.presence is Presence.PRESENT for case in bleeding),
        specificity=_share(case.presence is Presence.ABSENT for case in clear),
        sensitivity_10_mm=_share(case.presence is Presence.PRESENT for case in sizeable),
        undetermined=sum(case.presence is Presence.UNDETERMINED for case in cases),
        median_dice=round(float(np.median([case.dice for case in found])), 4) if found else 0.0,
        side_accuracy=_share(bool(side) for side in sides),
        narratives_withheld=sum(case.withheld for case in cases),
    )


def _share(outcomes: Iterable[bool]) -> float:
    values = list(outcomes)
    return round(sum(values) / len(values), 4) if values else 0.0


def main() -> None:
    """Evaluate the packaged bundle and record the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, default=PACKAGED / "head_ct")
    parser.add_argument("--heads", type=int, default=240)
    arguments = parser.parse_args()
    job = partial(scan, bundle=arguments.bundle)
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        cases = list(pool.map(job, range(FIRST_SEED, FIRST_SEED + arguments.heads), chunksize=4))
    for index, case in enumerate(cases):
        if (case.lesion is not None) != (case.presence is Presence.PRESENT) or case.withheld:
            print(FIRST_SEED + index, case, flush=True)
        if case.side_right is False:
            print(FIRST_SEED + index, "side", case.lesion, flush=True)
    performance = summarise(cases)
    path = arguments.bundle / MANIFEST
    manifest = Manifest.model_validate_json(path.read_bytes())
    measured = manifest.model_copy(update={"performance": performance})
    path.write_text(measured.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    print(performance.model_dump_json(indent=1))


if __name__ == "__main__":
    main()
