"""A launched batch: its scores are those of `score`, and it says how many tokens were not computed again."""

import threading
import weakref
from concurrent.futures import Future

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_model import division, lanes
from reward_model.model import RewardModel
from reward_model.pending import PendingScores, ScoresInLanes
from reward_model.precision import choose_precision
from reward_model.prefixes import shared_runs
from reward_model.rendering import Rendered
from reward_model.scores import Score

PROMPT = [5 + i % 60 for i in range(40)]


def model_of(architecture: str, *, deterministic: bool = False) -> RewardModel:
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer("encoder" if architecture == "bert" else "decoder"))
    return RewardModel(network, choose_precision("cpu", "float32"), deterministic=deterministic).eval()


CAUSAL = model_of("llama")


def test_with_one_core_a_launch_has_computed() -> None:
    inputs = [Rendered(None, [7, 8, 9]), Rendered(None, [7, 8])]
    launched = CAUSAL.launch(inputs)
    assert launched.done()
    assert launched.result() == launched.result() == CAUSAL.score(inputs)


def test_with_two_cores_a_launch_returns_before_and_what_is_launched_next_has_its_own_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(division, "FEWEST_TOKENS", 30)
    model = model_of("llama").freeze()
    batches = [[Rendered(None, [10 * i + j] * size) for j in range(4)] for i, size in enumerate([20, 9, 2, 15])]
    expected = [[score.value for score in model.score(batch)] for batch in batches]
    torch.set_num_threads(2)
    try:
        go_on = threading.Event()
        held = lanes.of_caller().start(go_on.wait, [20.0, 20.0])
        launched = [model.launch(batch) for batch in batches]
        assert not any(one.done() for one in launched)
        go_on.set()
        assert lanes.collect(held) == [True, True]
        for one in launched:
            one.wait_for_room()
        scores = [[score.value for score in one.result()] for one in launched]
        assert all(one.done() for one in launched)
        assert [[score.value for score in one.result()] for one in launched] == scores
    finally:
        torch.set_num_threads(1)
    assert scores == [pytest.approx(values, abs=1e-5) for values in expected]


def test_what_a_lane_could_not_compute_is_told_and_not_kept() -> None:
    class Held(Exception):
        pass

    failed: Future[int] = Future()
    failed.set_exception(Held())
    pending = ScoresInLanes(lanes.of_caller(), [failed], lambda parts: [Score(float(sum(parts)))])
    held = weakref.ref(failed)
    del failed
    assert pending.done()
    with pytest.raises(Held):
        pending.result()
    assert held() is None


def test_a_shared_prefix_counts_for_the_first_that_has_it_however_long() -> None:
    inputs = [Rendered(None, [*PROMPT, *[70 + i] * size]) for i, size in enumerate([9, 2, 5])]
    repeated = Rendered(None, inputs[1].token_ids)
    scores = CAUSAL.score([Rendered(None, [99, 98]), *inputs, repeated])
    assert [score.reused_tokens for score in scores] == [0, 0, 40, 40, 42]
    alone = [CAUSAL.score([one])[0].value for one in inputs]
    assert [score.value for score in scores[1:4]] == pytest.approx(alone, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8))
def test_what_is_not_reused_is_what_was_computed(parts: list[list[int]]) -> None:
    inputs = [Rendered(None, [token for part in one for token in [10 + part] * 9]) for one in parts]
    scores = CAUSAL.score(inputs)
    own = sum(len(one.token_ids) - score.reused_tokens for one, score in zip(inputs, scores, strict=True))
    distinct = [list(ids) for ids in dict.fromkeys(tuple(one.token_ids) for one in inputs)]
    assert own == sum(run.stop - run.start for run in shared_runs(distinct).runs)
    assert scores[0].reused_tokens == 0


@pytest.mark.parametrize(("architecture", "deterministic"), [("llama", True), ("bert", False)])
def test_where_no_prefix_is_shared_only_repeats_are_reused(architecture: str, deterministic: bool) -> None:
    model = model_of(architecture, deterministic=deterministic)
    inputs = [Rendered(None, [*PROMPT, 70]), Rendered(None, [*PROMPT, 71]), Rendered(None, [*PROMPT, 70])]
    meter = model.meter()
    assert [score.reused_tokens for score in model.score(inputs)] == [0, 0, 41]
    assert [meter.add(one) for one in inputs] == [41, 41, 0]


def test_the_meter_of_a_causal_model_knows_shared_prefixes() -> None:
    meter = CAUSAL.meter()
    assert [meter.add(Rendered(None, [*PROMPT, last])) for last in (70, 71, 70)] == [41, 1, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_launch_returns_before_the_device_is_done() -> None:
    busy = torch.zeros(1, device="cuda")
    torch.cuda._sleep(2_000_000_000)
    pending = PendingScores(busy, lambda values: [Score(float(values[0]))])
    assert not pending.done()
    assert pending.result() == [Score(0.0)]
    assert pending.done()
