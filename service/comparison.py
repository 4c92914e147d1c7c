"""What several scores for one prompt say about each other: ranking, margin, probabilities.

Pure arithmetic on floats: knows neither HTTP nor models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reward_model.calibration import Calibration, shares


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the responses of one comparison relate.

    Attributes:
        ranking: indices of the responses, best first, ties in input order.
        best: the index that leads the ranking.
        margin: best score minus runner-up's, at least 0.
        probability: P(best beats runner-up).
        shares: softmax(scores / T) in input order; sums to 1.
        pairwise: [i][j] is P(i beats j), 0.5 on the diagonal; None unless asked for.
    """

    ranking: list[int]
    best: int
    margin: float
    probability: float
    shares: list[float]
    pairwise: list[list[float]] | None


def compare(scores: Sequence[float], calibration: Calibration, *, pairwise: bool = False) -> Comparison:
    """Compares two or more finite scores under `calibration`'s temperature."""
    # sorted() is stable, also when reversed: equal scores keep their input order.
    ranking = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    margin = scores[ranking[0]] - scores[ranking[1]]
    return Comparison(
        ranking=ranking,
        best=ranking[0],
        margin=margin,
        probability=calibration.probability(margin),
        shares=shares(scores, calibration.temperature),
        pairwise=[[calibration.probability(a - b) for b in scores] for a in scores] if pairwise else None,
    )
