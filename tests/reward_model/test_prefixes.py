"""Shared runs against what they stand for: every sequence is the tokens of the runs that lead to its end."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from reward_model.prefixes import FEWEST, PrefixMeter, Runs, separate_runs, shared_runs

#: Sequences put together from few pieces, so that they share prefixes of many depths, and are equal now and then.
PIECES = st.lists(
    st.lists(st.integers(0, 2), max_size=6).map(lambda parts: [token for part in parts for token in [part] * 9] + [7]),
    min_size=1,
    max_size=12,
)


def tokens_of(runs: Runs, sequences: list[list[int]], index: int) -> list[int]:
    tokens: list[int] = []
    at: int | None = runs.ends[index]
    while at is not None:
        run = runs.runs[at]
        assert run.parent is None or run.parent < at, "a run comes after the one it continues"
        assert run.start == (0 if run.parent is None else runs.runs[run.parent].stop)
        tokens[:0] = sequences[run.sequence][run.start : run.stop]
        at = run.parent
    return tokens


@settings(max_examples=300)
@given(sequences=PIECES)
def test_the_runs_that_lead_to_a_sequences_end_are_its_tokens(sequences: list[list[int]]) -> None:
    for runs in (shared_runs(sequences), separate_runs(sequences)):
        for i, sequence in enumerate(sequences):
            assert tokens_of(runs, sequences, i) == sequence
        assert all(run.stop > run.start for run in runs.runs), "no run is empty"


@settings(max_examples=300)
@given(sequences=PIECES)
def test_no_two_runs_that_continue_the_same_one_start_alike_for_long(sequences: list[list[int]]) -> None:
    distinct = [list(one) for one in {tuple(sequence) for sequence in sequences}]
    runs = shared_runs(distinct).runs
    heads = sorted(
        (-1 if run.parent is None else run.parent, *distinct[run.sequence][run.start : run.stop][:FEWEST])
        for run in runs
        if run.stop - run.start >= FEWEST
    )
    assert all(a != b for a, b in pairwise(heads))


@settings(max_examples=300)
@given(sequences=PIECES)
def test_every_computed_token_is_somebodys_own_and_all_others_are_reused(sequences: list[list[int]]) -> None:
    runs = shared_runs(sequences)
    lengths = [len(sequence) for sequence in sequences]
    reused = runs.reused(lengths)
    assert sum(lengths) - sum(reused) == sum(run.stop - run.start for run in runs.runs)
    assert reused[0] == 0, "the first sequence finds nothing computed"
    assert all(0 <= tokens <= length for tokens, length in zip(reused, lengths, strict=True))


def test_nested_prefixes_are_a_tree() -> None:
    a, b, c, d = [1] * 20, [2] * 20, [3] * 20, [4] * 20
    runs = shared_runs([[*a, *b, *c], [*a, *b, *d], [*a, *d], [*a, *b]])
    assert sum(run.stop - run.start for run in runs.runs) == 5 * 20
    assert runs.reused([60, 60, 40, 40]) == [0, 40, 20, 40]


def test_a_common_start_of_a_few_tokens_is_not_worth_sharing() -> None:
    head = list(range(FEWEST - 1))
    assert len(shared_runs([[*head, 90], [*head, 91, 92]]).runs) == 2
    assert len(shared_runs([[*head, 89, 90], [*head, 89, 91, 92]]).runs) == 3


def test_thousands_of_nested_prefixes_need_no_deep_recursion() -> None:
    whole = [i % 50 for i in range(1100 * FEWEST)]
    sequences = [whole[: FEWEST * (i + 1)] for i in range(1100)]
    runs = shared_runs(sequences)
    assert sum(run.stop - run.start for run in runs.runs) == len(whole)


def test_equally_long_sequences_stand_side_by_side() -> None:
    runs = separate_runs([[1] * 5, [2] * 3, [3] * 5, [4] * 3])
    assert [run.stop for run in runs.runs] == [3, 3, 5, 5]
    assert runs.ends == (2, 0, 3, 1)


@settings(max_examples=200)
@given(sequences=PIECES)
def test_the_meter_adds_up_to_about_what_is_computed(sequences: list[list[int]]) -> None:
    meter = PrefixMeter()
    metered = sum(meter.add(sequence) for sequence in sequences)
    distinct = [list(one) for one in dict.fromkeys(map(tuple, sequences))]
    computed = sum(run.stop - run.start for run in shared_runs(distinct).runs)
    assert abs(metered - computed) <= FEWEST * len(distinct)


def test_the_meter_counts_an_identical_sequence_and_a_shared_prefix_once() -> None:
    meter = PrefixMeter()
    prompt = list(range(100))
    assert [meter.add(one) for one in ([*prompt, 7], [*prompt, 8, 9], [*prompt, 7], [5], [5])] == [101, 2, 0, 1, 0]
