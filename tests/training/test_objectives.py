"""The loss of packs is that of the plain definition, pair by pair, however the step is dealt."""

import math
from itertools import combinations

import pytest
import torch

from reward_model.rendering import Rendered
from training.batches import collate
from training.examples import Comparison, Example
from training.objectives import LossType, Objective, UnfitData


def ranking(k: int, line: int, *, margin: float | None = None) -> Example:
    """K responses, in the order of their ranks."""
    sequences = tuple(Rendered(None, [line + 1, i]) for i in range(k))
    return Example(sequences, tuple(Comparison(a, b, margin) for a, b in combinations(range(k), 2)), line, b"")


EXAMPLES = [ranking(2, 0, margin=0.5), ranking(4, 1, margin=1.0), ranking(3, 2, margin=2.0)]


def reward(tokens: list[int]) -> float:
    return math.sin(3.0 * tokens[0] + tokens[1])


def plain(loss_type: LossType, smoothing: float, centring: float) -> float:
    """The sum over examples of the mean over their pairs."""
    total = 0.0
    for example in EXAMPLES:
        rewards = [reward(one.token_ids) for one in example.sequences]
        losses = []
        for one in example.comparisons:
            assert one.margin is not None
            difference = rewards[one.chosen] - rewards[one.rejected]
            if loss_type == "bradley_terry":
                difference -= one.margin
            won, lost = math.log1p(math.exp(-difference)), math.log1p(math.exp(difference))
            loss = (1 - smoothing) * won + smoothing * lost
            loss *= one.margin if loss_type == "scaled_bradley_terry" else 1
            losses.append(loss + centring * (rewards[one.chosen] + rewards[one.rejected]) ** 2)
        total += sum(losses) / len(losses)
    return total


@pytest.mark.parametrize("budget", [1, 7, 100])
@pytest.mark.parametrize(("smoothing", "centring"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.5)])
@pytest.mark.parametrize("loss_type", ["bradley_terry", "scaled_bradley_terry"])
def test_a_step_costs_the_same_in_any_packs(
    loss_type: LossType, smoothing: float, centring: float, budget: int
) -> None:
    objective = Objective(loss_type, smoothing, centring)
    total = 0.0
    for pack in collate(EXAMPLES, max_batch_tokens=budget)["step"].packs:
        runs = torch.split(pack.batch.input_ids, pack.batch.cu_seqlens.diff().tolist())
        rewards = torch.tensor([reward(runs[end].tolist()) for end in pack.batch.ends.tolist()])
        total += objective(rewards[:, None], rewards, pack).item()
    assert total == pytest.approx(plain(loss_type, smoothing, centring), rel=1e-5)


def test_the_gradient_of_a_ranking_is_that_of_its_pairs() -> None:
    rewards = torch.tensor([0.3, -0.2, 1.0, 0.1], requires_grad=True)
    (pack,) = collate([ranking(4, 0)], max_batch_tokens=100)["step"].packs
    (measured,) = torch.autograd.grad(Objective()(rewards[:, None], rewards, pack), rewards)
    losses = [-torch.nn.functional.logsigmoid(rewards[a] - rewards[b]) for a, b in combinations(range(4), 2)]
    (expected,) = torch.autograd.grad(torch.stack(losses).mean(), rewards)
    assert measured.tolist() == pytest.approx(expected.tolist(), abs=1e-7)


RATINGS = ((1.0, math.nan), (2.0, 0.0), (3.0, 4.0))


@pytest.mark.parametrize("sizes", [(3,), (2, 1), (1, 1, 1)])
def test_every_rated_response_weighs_the_same_whichever_stand_together(sizes: tuple[int, ...]) -> None:
    left = [(Rendered(None, [1, i]), ratings) for i, ratings in enumerate(RATINGS)]
    examples = []
    for size in sizes:
        (sequences, ratings), left = zip(*left[:size], strict=True), left[size:]
        examples.append(Example(sequences, (), 1, b"", ratings))
    step = collate(examples, max_batch_tokens=100)["step"]
    values = torch.zeros(3, 2)
    (pack,) = step.packs
    mean = Objective("regression")(values, values[:, 0], pack).item() / step.count
    assert mean == pytest.approx((1 + (4 + 0) / 2 + (9 + 16) / 2) / 3)


@pytest.mark.parametrize(("margin", "message"), [(None, "at line 7: none"), (-1.0, r"at line 7: -1\.0")])
def test_scaling_needs_margins(margin: float | None, message: str) -> None:
    with pytest.raises(UnfitData, match=message):
        Objective("scaled_bradley_terry").check(ranking(2, 7, margin=margin))
    Objective("bradley_terry").check(ranking(2, 7, margin=margin))
