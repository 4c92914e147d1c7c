"""A batch that fails is searched for the guilty inputs; all others get their scores."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.isolation import Failure, Outcome, Run, launch_isolated, result_of, run_isolated
from service.scorer import DeviceLost
from service.stub import StubScorer

NAN = float("nan")


def inputs(n: int) -> list[Rendered]:
    return [Rendered(None, [i]) for i in range(n)]


def isolated(run: Run, batch: Sequence[Rendered], *, at_launch: bool = True) -> list[Outcome]:
    """Launches `batch` on a device whose first errors show at launch or at the result."""
    device = StubScorer(fault=lambda inputs, _: run(inputs), asynchronous=not at_launch)
    return run_isolated(run, batch, result_of(launch_isolated(device.launch, batch), batch))


class Model:
    """Scores input i as i, except for what goes wrong; counts its runs."""

    def __init__(self, poison: Sequence[int] = (), nan: Sequence[int] = (), most: int = 1000) -> None:
        self.poison, self.nan, self.most = set(poison), set(nan), most
        self.runs: list[int] = []

    def run(self, batch: Sequence[Rendered]) -> list[Score]:
        ids = [one.token_ids[0] for one in batch]
        self.runs.append(len(batch))
        if len(batch) > self.most:
            raise MemoryError
        if self.poison & set(ids):
            msg = "cannot compute"
            raise RuntimeError(msg)
        return [Score(NAN if i in self.nan else float(i)) for i in ids]


def test_a_batch_that_works_is_run_once() -> None:
    model = Model()
    assert isolated(model.run, inputs(5)) == [Score(float(i)) for i in range(5)]
    assert model.runs == [5]


@given(
    n=st.integers(1, 24),
    poison=st.sets(st.integers(0, 23)),
    nan=st.sets(st.integers(0, 23)),
    most=st.integers(1, 24),
    at_launch=st.booleans(),
)
def test_exactly_the_guilty_inputs_fail(n: int, poison: set[int], nan: set[int], most: int, at_launch: bool) -> None:
    outcomes = isolated(Model(list(poison), list(nan), most).run, inputs(n), at_launch=at_launch)
    for i, outcome in enumerate(outcomes):
        if i in poison:
            assert outcome is Failure.FAULT
        elif i in nan:
            assert outcome is Failure.NON_FINITE
        else:
            assert outcome == Score(float(i))
    assert len(outcomes) == n


def test_one_poisonous_input_is_found_in_few_runs() -> None:
    model = Model(poison=[77])
    outcomes = isolated(model.run, inputs(256))
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Failure)] == [77]
    assert len(model.runs) <= 1 + 2 * 8


def test_an_input_that_needs_too_much_memory_even_alone_fails_as_that() -> None:
    assert isolated(Model(most=0).run, inputs(2)) == [Failure.OUT_OF_MEMORY] * 2


def test_a_single_input_gets_a_second_chance() -> None:
    failed: list[bool] = []

    def fails_once(batch: Sequence[Rendered]) -> list[Score]:
        if not failed:
            failed.append(True)
            raise MemoryError
        return [Score(1.0)]

    assert isolated(fails_once, inputs(1)) == [Score(1.0)]


def test_a_nan_that_spreads_to_its_neighbours_is_blamed_on_its_source_only() -> None:
    def spreads(batch: Sequence[Rendered]) -> list[Score]:
        ill = any(one.token_ids == [2] for one in batch)
        return [Score(NAN if ill else float(one.token_ids[0])) for one in batch]

    assert isolated(spreads, inputs(4)) == [Score(0.0), Score(1.0), Failure.NON_FINITE, Score(3.0)]


def test_an_input_that_gave_a_nan_in_company_may_fail_otherwise_alone() -> None:
    def moody(batch: Sequence[Rendered]) -> list[Score]:
        if len(batch) == 1:
            raise MemoryError
        return [Score(1.0), Score(NAN)]

    assert isolated(moody, inputs(2)) == [Score(1.0), Failure.OUT_OF_MEMORY]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), NAN])
def test_an_attribute_that_is_not_finite_fails_its_input(value: float) -> None:
    assert isolated(lambda _: [Score(1.0, {"honest": value})], inputs(1)) == [Failure.NON_FINITE]


def test_a_wrong_number_of_scores_is_never_matched_to_inputs() -> None:
    outcomes = isolated(lambda batch: [Score(1.0)] * (len(batch) - 1), inputs(3))
    assert outcomes == [Failure.FAULT] * 3


@pytest.mark.parametrize("at_launch", [True, False])
def test_a_lost_device_is_nobodys_fault(at_launch: bool) -> None:
    def lost(_: Sequence[Rendered]) -> list[Score]:
        raise DeviceLost

    with pytest.raises(DeviceLost):
        isolated(lost, inputs(3), at_launch=at_launch)
