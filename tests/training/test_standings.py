"""Models side by side on the same comparisons."""

import pytest

from training.outcomes import Outcomes
from training.standings import Standing, ensemble, table


def outcomes(*pairs: tuple[float, float]) -> Outcomes:
    chosen, rejected = ([pair[i] for pair in pairs] for i in range(2))
    return Outcomes(chosen, rejected, [1.0] * len(pairs), chosen + rejected)


def test_an_ensemble_is_the_weighted_mean_of_rewards() -> None:
    together = ensemble([outcomes((1, 0), (0, 2)), outcomes((3, 4), (4, 0))], [1.0, 3.0])
    assert together.chosen == [2.5, 3.0]
    assert together.rejected == [3.0, 0.5]
    assert together.rewards == [2.5, 3.0, 3.0, 0.5]
    assert together.labels == [1.0, 1.0]


def test_a_standing_has_what_training_would_have_recorded() -> None:
    made = outcomes((1, 0), (0, 2), (1, 1))
    standing = Standing.of("one", made, ["p", "q", "r"])
    metrics = made.metrics(loss=True)
    assert standing.accuracy.accuracy == pytest.approx(metrics["accuracy"]) == 0.5
    assert standing.loss == metrics["loss"]
    assert standing.reward_std == metrics["reward_std"]


def test_the_table_has_a_line_for_each_model() -> None:
    standings = [Standing.of(name, outcomes((1, 0), (0, 2)), ["p", "q"]) for name in ("a", "a longer name")]
    head, first, second = table(standings).splitlines()
    assert head.split()[0] == "accuracy"
    assert first.split()[:2] == ["a", "50.0%"]
    assert second.startswith("a longer name  ")
    assert len(head) == len(first) == len(second)
