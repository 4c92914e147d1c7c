"""From score differences to probabilities: one temperature, fitted on held-out pairs.

Under Bradley-Terry the margin of two rewards is a log-odds, but a trained model is usually over- or
under-confident; dividing by a temperature T repairs that without changing any ranking (Guo et al. 2017,
arXiv 1706.04599). Pure Python: knows neither models nor files.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev, quantiles

TEMPERATURE_BOUNDS = (0.05, 20.0)
#: Fewer pairs than this say too little about T to call the result calibrated.
MIN_PAIRS = 100
#: The pairs of one prompt are not independent: a single ranking of fifteen responses has a hundred of them.
MIN_GROUPS = 30
#: Standard deviation of the prior on log T: weak, worth about one pair, it only matters when the data say nothing.
PRIOR_STD = 1.0
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Calibration:
    """How margins become probabilities.

    Attributes:
        temperature: T; P(a beats b) = sigmoid((score_a - score_b) / T).
        calibrated: false when T should not be trusted, for the `reason` given.
        pairs: how many held-out pairs T was fitted on.
        metrics: ece, brier and nll, each `_before` (T = 1) and `_after` (cross-fitted).
    """

    temperature: float = 1.0
    calibrated: bool = False
    reason: str | None = "not fitted"
    pairs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for a temperature that cannot divide anything."""
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            msg = f"a temperature must be positive, not {self.temperature!r}"
            raise ValueError(msg)

    @property
    def trusted(self) -> float:
        """The temperature to divide by: T, or 1 where T should not be trusted."""
        return self.temperature if self.calibrated else 1.0

    def probability(self, margin: float) -> float:
        """P(the first beats the second) for `margin` = first score - second score."""
        return sigmoid(margin / self.trusted)


UNCALIBRATED = Calibration()


@dataclass(frozen=True, slots=True)
class RewardStatistics:
    """The distribution of held-out rewards that scores are normalised with and drift is measured against.

    Attributes:
        mean, std: of all chosen and rejected rewards together.
        deciles: the nine inner edges of ten equally populated bins.
        n: how many rewards.
    """

    mean: float
    std: float
    deciles: tuple[float, ...]
    n: int

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that describe no distribution."""
        numbers = (self.mean, self.std, *self.deciles)
        if not all(map(math.isfinite, numbers)) or self.std < 0 or len(self.deciles) != 9:
            msg = f"not the statistics of rewards: {self}"
            raise ValueError(msg)


def reward_statistics(rewards: Sequence[float]) -> RewardStatistics:
    """Summarises `rewards` (two or more finite floats)."""
    return RewardStatistics(fmean(rewards), pstdev(rewards), tuple(quantiles(rewards, n=10)), len(rewards))


def sigmoid(x: float) -> float:
    """Logistic function that neither overflows nor loses small probabilities."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    z = math.exp(x)
    return z / (1.0 + z)


def shares(scores: Sequence[float], temperature: float) -> list[float]:
    """softmax(scores / T), in input order; sums to 1."""
    top = max(scores)
    weights = [math.exp((score - top) / temperature) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def fit(
    margins: Sequence[float], groups: Sequence[Hashable] | None = None, labels: Sequence[float] | None = None
) -> Calibration:
    """Fits T on held-out margins.

    Args:
        margins: chosen minus rejected score per pair, finite.
        groups: one key per pair (its prompt); pairs of one group stay in one fold. Default: each pair its own.
        labels: probability that the chosen response is the better one; default 1.

    Returns:
        The maximum a posteriori T under a log-normal prior at 1, within TEMPERATURE_BOUNDS, with its quality measured
        out of fold. `calibrated` is false at a bound, below MIN_PAIRS pairs or MIN_GROUPS groups.
    """
    if not margins:
        return Calibration(reason="no held-out pairs to fit on")
    soft = [1.0] * len(margins) if labels is None else labels
    temperature = _fit_temperature(margins, soft)
    keys = groups if groups is not None else range(len(margins))
    reason = _doubt(temperature, len(margins), len(set(keys)))
    return Calibration(temperature, reason is None, reason, len(margins), _quality(margins, soft, keys))


def _doubt(temperature: float, pairs: int, groups: int) -> str | None:
    if pairs < MIN_PAIRS:
        return f"fitted on {pairs} pairs, fewer than {MIN_PAIRS}"
    if groups < MIN_GROUPS:
        return f"fitted on the pairs of {groups} prompts, fewer than {MIN_GROUPS}"
    low, high = TEMPERATURE_BOUNDS
    if temperature <= low * 1.001 or temperature >= high * 0.999:
        return f"the fitted temperature {temperature:.3g} lies at the bound of [{low}, {high}]"
    return None


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _nll(margin: float, label: float) -> float:
    return label * _softplus(-margin) + (1 - label) * _softplus(margin)


def _fit_temperature(margins: Sequence[float], labels: Sequence[float]) -> float:
    """Minimises NLL + (log T)^2 / (2 PRIOR_STD^2) over log T."""

    def objective(log_t: float) -> float:
        scale = math.exp(-log_t)
        prior = log_t**2 / (2 * PRIOR_STD**2)
        return math.fsum(_nll(margin * scale, p) for margin, p in zip(margins, labels, strict=True)) + prior

    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    # The NLL need not be convex in log T: a coarse grid finds the valley, golden section its floor.
    steps = 40
    grid = [low + (high - low) * i / steps for i in range(steps + 1)]
    best = min(range(steps + 1), key=lambda i: objective(grid[i]))
    return math.exp(_golden_section(objective, grid[max(best - 1, 0)], grid[min(best + 1, steps)]))


def _golden_section(objective: Callable[[float], float], low: float, high: float) -> float:
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = objective(a), objective(b)
    while high - low > 1e-6:
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = objective(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = objective(b)
    return (low + high) / 2


def _quality(margins: Sequence[float], labels: Sequence[float], groups: Sequence[Hashable]) -> dict[str, float]:
    """ECE, Brier and NLL at T = 1 and cross-fitted: each fold is judged by the T of the other folds."""
    fold_of = {group: i % FOLDS for i, group in enumerate(dict.fromkeys(groups))}
    folds = [fold_of[group] for group in groups]
    scaled = [0.0] * len(margins)
    for fold in set(folds):
        rest = [i for i, other in enumerate(folds) if other != fold]
        temperature = _fit_temperature([margins[i] for i in rest], [labels[i] for i in rest]) if rest else 1.0
        for i, other in enumerate(folds):
            if other == fold:
                scaled[i] = margins[i] / temperature
    before, after = margin_quality(margins, labels), margin_quality(scaled, labels)
    return {f"{k}_before": v for k, v in before.items()} | {f"{k}_after": v for k, v in after.items()}


def margin_quality(margins: Sequence[float], labels: Sequence[float] | None = None) -> dict[str, float]:
    """ECE of the predicted winner, Brier score and NLL (in nats) of sigmoid(margin), chosen minus rejected.

    `labels` are the probabilities that the chosen responses are the better ones; default 1.
    """
    soft = [1.0] * len(margins) if labels is None else labels
    pairs = list(zip(margins, soft, strict=True))
    wins = [sigmoid(margin) for margin in margins]
    # Which response of a pair comes first is arbitrary, so confidence is that of the predicted winner.
    confidences = [max(p, 1 - p) for p in wins]
    return {
        "ece": expected_calibration_error(confidences, [agreement(margin, p) for margin, p in pairs]),
        "brier": fmean(p * (1 - win) ** 2 + (1 - p) * win**2 for win, p in zip(wins, soft, strict=True)),
        "nll": fmean(_nll(margin, p) for margin, p in pairs),
    }


def agreement(margin: float, label: float = 1.0) -> float:
    """Expected agreement with the judge: the label where chosen won, one minus it where it lost, 0.5 for a tie."""
    return label if margin > 0 else 0.5 if margin == 0 else 1 - label


def expected_calibration_error(probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10) -> float:
    """Mean absolute gap between predicted and observed frequency over `bins` equal-mass bins.

    Equal mass rather than equal width, so that no bin is nearly empty (Nixon et al. 2019, arXiv 1904.01685).

    Args:
        probabilities: predictions in [0, 1].
        outcomes: 1 where the prediction came true, 0 where not, 0.5 for a tie.
    """
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    n = len(order)
    gap = 0.0
    for b in range(bins):
        members = order[b * n // bins : (b + 1) * n // bins]
        gap += abs(math.fsum(probabilities[i] - outcomes[i] for i in members))
    return gap / n if n else 0.0
