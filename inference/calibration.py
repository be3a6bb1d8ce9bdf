"""Platt scaling: what a model's log-odds are worth, measured on cases whose truth is known.

A calibration holds for what made the log-odds and for nothing else, so it carries the digest of
that: graphs, tokenizer, preprocessing, prompts and question. How reliable the probabilities are
is measured here as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from inference.manifest import Calibration, FindingSpec, Manifest, scored_by

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

MIN_CASES = 20
"""Of each class: ten for each of the two coefficients."""

BINS = 10
"""Of equal width over 0..1, for the expected calibration error."""


class CalibrationError(ValueError):
    """The cases do not make a calibration; the message says why."""


@dataclass(frozen=True)
class Reliability:
    """How far probabilities are from what happened; both 0 at best and 1 at worst."""

    brier: float
    expected_error: float


def fit(log_odds: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """Slope and intercept of P(finding) = logistic(slope x log-odds + intercept).

    `log_odds` (cases,), natural logarithm; `labels` (cases,) true where the finding is there.
    Maximum likelihood with Platt's targets, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that cases
    that part cleanly give finite coefficients. Raises CalibrationError.
    """
    odds, truth = _cases(log_odds, labels)
    present = int(truth.sum())
    absent = truth.size - present
    if min(present, absent) < MIN_CASES:
        raise CalibrationError(
            f"{present} cases with the finding and {absent} without; "
            f"a calibration needs {MIN_CASES} of each"
        )
    centre, spread = float(odds.mean()), float(odds.std())
    # Rounding alone gives equal numbers a spread.
    if spread <= 1e-9 * max(1.0, abs(centre)):
        raise CalibrationError(_uninformative("is the same for every case"))
    target = np.where(truth, (present + 1) / (present + 2), 1 / (absent + 2))
    slope, intercept = _most_likely((odds - centre) / spread, target)
    if slope <= 0:
        raise CalibrationError(_uninformative("does not rise with the finding"))
    return slope / spread, intercept - slope * centre / spread


def calibrate(
    manifest: Manifest, measured: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]
) -> Manifest:
    """The manifest with `measured` findings calibrated.

    `measured` maps a finding's name to its log-odds and labels, both (cases,); the other findings
    stay as they are. Raises CalibrationError, which names the finding.
    """
    unknown = sorted(set(measured) - {finding.name for finding in manifest.findings})
    if unknown:
        raise CalibrationError(f"{manifest.name} has no finding {', '.join(unknown)}")
    findings = tuple(
        _calibrated(finding, *measured[finding.name], scored_by(manifest, finding))
        if finding.name in measured
        else finding
        for finding in manifest.findings
    )
    return manifest.model_copy(update={"findings": findings})


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Reliability:
    """Brier score and expected calibration error of probabilities (cases,) against the truth."""
    chance, truth = _cases(probabilities, labels)
    if chance.size == 0 or chance.min() < 0 or chance.max() > 1:
        raise CalibrationError("reliability needs probabilities from 0 to 1, one at least")
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)
    surplus = np.bincount(bins, weights=chance - truth, minlength=BINS)
    return Reliability(
        brier=float(np.mean((chance - truth) ** 2)),
        expected_error=float(np.abs(surplus).sum() / chance.size),
    )


def _cases(numbers: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Labels]:
    values, truth = np.asarray(numbers, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise CalibrationError(f"numbers {values.shape} but labels {truth.shape}, one a case each")
    if not np.isfinite(values).all():
        raise CalibrationError(
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} cases are not finite"
        )
    if not np.isin(truth, (0, 1)).all():
        raise CalibrationError("labels are true or false (1 or 0)")
    return values, truth.astype(np.bool_)


def _most_likely(odds: Floats, target: Floats) -> tuple[float, float]:
    """Coefficients of least cross entropy; the problem is convex, so the start does not matter."""

    def loss(coefficients: Floats) -> tuple[float, Floats]:
        score = coefficients[0] * odds + coefficients[1]
        error = expit(score) - target
        value = np.mean(np.logaddexp(0.0, score) - target * score)
        return float(value), np.array([np.mean(error * odds), np.mean(error)])

    result = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9})
    # BFGS also stops where rounding leaves nothing to gain; what counts is that the slope is flat.
    if np.abs(result.jac).max() > 1e-6:
        raise CalibrationError(f"the fit did not converge: {result.message}")
    return float(result.x[0]), float(result.x[1])


def _uninformative(why: str) -> str:
    return f"the model's answer is not informative: its log-odds {why}"


def _calibrated(
    finding: FindingSpec, log_odds: npt.ArrayLike, labels: npt.ArrayLike, digest: str
) -> FindingSpec:
    try:
        slope, intercept = fit(log_odds, labels)
    except CalibrationError as error:
        raise CalibrationError(f"{finding.name}: {error}") from error
    calibration = Calibration(
        slope=slope, intercept=intercept, cases=np.size(labels), scored_by=digest
    )
    return finding.model_copy(update={"calibration": calibration})
