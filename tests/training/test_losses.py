"""The loss has the value and the gradient of its definition, however large the margins."""

import math

import pytest
import torch
from torch import Tensor

from training.losses import bradley_terry, centring, regression, scaled_bradley_terry, smoothed

EXTREMES = [0.0, 1e-30, 1.0, 88.0, 89.0, 1e3, 1e30]


def reference(chosen: list[float], rejected: list[float], margin: list[float]) -> tuple[float, list[float]]:
    """Mean of log(1 + exp(-d)) in float64, and its derivative after each chosen reward."""
    differences = [c - r - m for c, r, m in zip(chosen, rejected, margin, strict=True)]
    losses = [max(-d, 0) + math.log1p(math.exp(-abs(d))) for d in differences]
    slopes = [-1 / (1 + math.exp(d)) if d < 700 else 0.0 for d in differences]
    n = len(differences)
    return math.fsum(losses) / n, [slope / n for slope in slopes]


def random_rewards(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(n, generator=torch.Generator().manual_seed(n)) * 5).to(dtype)


@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_value_and_gradient_match_the_definition(n: int, with_margin: bool) -> None:
    chosen, rejected = random_rewards(n).requires_grad_(), random_rewards(n + 1)[:n].requires_grad_()
    margin = random_rewards(n + 2)[:n].abs() if with_margin else None
    loss = bradley_terry(chosen, rejected, margin).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    value, gradient = reference(
        chosen.tolist(), rejected.tolist(), margin.tolist() if margin is not None else [0.0] * n
    )
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx(gradient, rel=1e-4, abs=1e-7)
    assert torch.equal(rejected.grad, -chosen.grad)


def test_equal_rewards_cost_log_two() -> None:
    zero = torch.zeros(3)
    assert bradley_terry(zero, zero).tolist() == pytest.approx([math.log(2)] * 3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", EXTREMES)
def test_extreme_margins_stay_finite(size: float, sign: int) -> None:
    chosen = torch.tensor([sign * size]).requires_grad_()
    loss = bradley_terry(chosen, torch.zeros(1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert chosen.grad is not None
    assert math.isfinite(loss.item())
    assert -1 <= chosen.grad.item() <= 0


def test_loss_is_that_of_the_differences_alone() -> None:
    chosen, rejected = random_rewards(9).double(), random_rewards(10)[:9].double()
    assert bradley_terry(chosen + 3, rejected + 3).tolist() == pytest.approx(bradley_terry(chosen, rejected).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rewards_are_computed_in_fp32(dtype: torch.dtype) -> None:
    chosen, rejected = random_rewards(33, dtype), random_rewards(34, dtype)[:33]
    loss = bradley_terry(chosen, rejected)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, bradley_terry(chosen.float(), rejected.float()))


def test_double_precision_rewards_stay_double() -> None:
    assert bradley_terry(torch.ones(1).double(), torch.zeros(1).double()).dtype == torch.float64


def test_margin_asks_for_more_than_the_right_order() -> None:
    chosen, rejected = torch.tensor([1.0]), torch.tensor([0.0])
    assert bradley_terry(chosen, rejected, torch.tensor([1.0])).item() == pytest.approx(math.log(2))
    assert bradley_terry(chosen, rejected).item() < math.log(2)


@pytest.mark.parametrize(
    "shapes", [((3,), (1,), None), ((3, 1), (3, 1), None), ((3,), (3,), (1,)), ((0,), (0,), None), ((), (), None)]
)
def test_shapes_that_would_be_broadcast_are_refused(
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None],
) -> None:
    chosen, rejected, margin = (None if shape is None else torch.zeros(shape) for shape in shapes)
    assert chosen is not None
    assert rejected is not None
    with pytest.raises(ValueError, match="one length"):
        bradley_terry(chosen, rejected, margin)


def test_a_soft_label_weighs_both_outcomes() -> None:
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])
    label = torch.tensor([0.8, 0.5])
    expected = 0.0
    for d, p in ((0.5, 0.8), (-3.0, 0.5)):
        expected -= (p * math.log(1 / (1 + math.exp(-d))) + (1 - p) * math.log(1 / (1 + math.exp(d)))) / 2
    assert bradley_terry(chosen, rejected, label=label).mean().item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(bradley_terry(chosen, rejected, label=torch.ones(2)), bradley_terry(chosen, rejected))


def gradient(loss: Tensor, *inputs: Tensor) -> list[list[float]]:
    return [one.tolist() for one in torch.autograd.grad(loss.sum(), inputs)]


def test_a_tie_pulls_both_rewards_together() -> None:
    chosen, rejected = torch.tensor([2.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    ((slope,), (opposite,)) = gradient(bradley_terry(chosen, rejected, label=torch.tensor([0.5])), chosen, rejected)
    assert slope == pytest.approx(1 / (1 + math.exp(-3)) - 0.5)
    assert opposite == pytest.approx(-slope)


def test_a_scaled_pair_counts_as_many_times_as_its_margin_says() -> None:
    chosen, rejected = random_rewards(5).requires_grad_(), random_rewards(6)[:5].requires_grad_()
    margin = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0])
    value, slopes = reference(chosen.tolist(), rejected.tolist(), [0.0] * 5)
    loss = scaled_bradley_terry(chosen, rejected, margin)
    assert loss.tolist() == pytest.approx((margin * bradley_terry(chosen, rejected)).tolist())
    assert bradley_terry(chosen, rejected).mean().item() == pytest.approx(value, rel=1e-5)
    measured = gradient(loss, chosen, rejected)
    expected = [5 * m * slope for m, slope in zip(margin.tolist(), slopes, strict=True)]
    assert measured[0] == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert measured[1] == pytest.approx([-slope for slope in expected], rel=1e-4, abs=1e-7)


def test_smoothing_turns_each_label_round_now_and_then() -> None:
    chosen, rejected = random_rewards(7).requires_grad_(), random_rewards(8)[:7].requires_grad_()
    label, epsilon = torch.linspace(0.5, 1, 7), 0.1
    loss = bradley_terry(chosen, rejected, label=smoothed(label, epsilon))
    as_said, turned = (bradley_terry(chosen, rejected, label=p) for p in (label, 1 - label))
    assert loss.tolist() == pytest.approx(((1 - epsilon) * as_said + epsilon * turned).tolist())
    expected = gradient((1 - epsilon) * as_said + epsilon * turned, chosen, rejected)
    for measured, plain in zip(gradient(loss, chosen, rejected), expected, strict=True):
        assert measured == pytest.approx(plain, abs=1e-6)


def test_centring_pushes_the_sum_of_both_rewards_to_zero() -> None:
    chosen, rejected = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([3.0, 2.0], requires_grad=True)
    assert centring(chosen, rejected).tolist() == [16.0, 0.0]
    assert gradient(centring(chosen, rejected), chosen, rejected) == [[8.0, 0.0], [8.0, 0.0]]


def test_regression_is_the_mean_squared_error_of_what_was_rated() -> None:
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    ratings = torch.tensor([[0.0, 4.0], [torch.nan, 1.0], [torch.nan, torch.nan]])
    loss = regression(predicted, ratings)
    assert loss.tolist() == [(1 + 4) / 2, 9.0, 0.0]
    assert gradient(loss, predicted) == [[[1.0, -2.0], [0.0, 6.0], [0.0, 0.0]]]


@pytest.mark.parametrize("shapes", [((3, 2), (3, 1)), ((3,), (3,)), ((2, 3), (3, 2))])
def test_ratings_that_would_be_broadcast_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"must be \[n, k\] both"):
        regression(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
