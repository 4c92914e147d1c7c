"""The stub behaves like a model as far as a service can tell: own scores, limits, truncation, and faults on demand."""

import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_model.errors import BadTokenId, NoTokens, TooLong
from reward_model.records import Conversation, Message, Text, TokenIds
from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.scorer import Scorer
from service.stub import BOS, END, VOCABULARY, StubScorer, tokenize


def ask(question: str, answer: str, *, finished: bool = True) -> Conversation:
    return Conversation((Message("user", question),), answer, finished)


def score_through(scorer: Scorer, record: Conversation) -> Score:
    """What the service does with any scorer; the type checker sees that the stub is one."""
    return scorer.run([scorer.render(record, truncate=False)])[0]


def test_it_is_a_scorer_and_deterministic() -> None:
    record = ask("Is 57 prime?", "No.")
    assert score_through(StubScorer(), record) == score_through(StubScorer(), record)


def test_it_needs_no_model_library() -> None:
    code = "import sys, service.stub; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_scores_do_not_change_from_one_process_to_the_next() -> None:
    scorer = StubScorer()
    assert scorer.score(scorer.render(Text("hello world"))) == Score(-0.7279984745372503)


@given(st.lists(st.text(max_size=40), unique=True, max_size=20))
def test_every_text_has_a_score_of_its_own(texts: list[str]) -> None:
    scorer = StubScorer()
    rendered = [scorer.render(ask("?", text)) for text in texts if END not in text]
    scores = [score.value for score in scorer.run(rendered)]
    assert len(set(scores)) == len(scores)


@given(st.text(max_size=60))
def test_tokens_cover_the_text_and_are_in_the_vocabulary(text: str) -> None:
    ids = tokenize(text)
    assert all(0 <= one < VOCABULARY for one in ids)
    assert bool(ids) == bool(text)


def test_an_unfinished_response_scores_differently_from_a_finished_one() -> None:
    scorer = StubScorer()
    finished, cut_off = scorer.render(ask("?", "well")), scorer.render(ask("?", "well", finished=False))
    assert finished.token_ids[:-1] == cut_off.token_ids
    assert scorer.score(finished) != scorer.score(cut_off)


def test_an_end_of_turn_that_the_caller_sent_is_not_doubled() -> None:
    scorer = StubScorer()
    assert scorer.render(ask("?", "well" + END)).token_ids == scorer.render(ask("?", "well")).token_ids


def test_a_text_gets_its_start_once_and_no_end() -> None:
    scorer = StubScorer()
    plain, started = scorer.render(Text("hello there")), scorer.render(Text(BOS + "hello there"))
    assert plain == started
    assert len(plain.token_ids) == 3


def test_token_ids_stay_as_they_are() -> None:
    assert StubScorer().render(TokenIds((5, 7, 5))) == Rendered(None, [5, 7, 5])


def test_special_tokens_in_content_are_counted() -> None:
    assert StubScorer().render(ask(f"a{BOS}b{END}", "c")).special_in_content == 2


def test_what_cannot_be_scored_is_refused() -> None:
    scorer = StubScorer(max_length=8)
    with pytest.raises(NoTokens):
        scorer.render(TokenIds(()))
    with pytest.raises(BadTokenId):
        scorer.render(TokenIds((VOCABULARY,)))
    with pytest.raises(TooLong) as too_long:
        scorer.render(Text("w " * 20))
    assert too_long.value.limit == 8
    assert too_long.value.num_tokens > 8
    with pytest.raises(TooLong) as alone:
        scorer.render_group((Message("user", "?"),), ["short", "w " * 20], truncate=True)
    assert alone.value.response == 1


def test_truncation_keeps_the_response_and_says_so() -> None:
    scorer = StubScorer(max_length=12)
    cut = scorer.render(ask("one two three four five six seven eight nine ten", "the answer"), truncate=True)
    assert cut.truncated
    assert len(cut.token_ids) <= 12
    assert cut.text is not None
    assert cut.text.endswith(f"the answer{END}")
    assert cut.token_ids == tokenize(cut.text)


def test_a_text_is_cut_from_the_left_after_its_start() -> None:
    cut = StubScorer(max_length=4).render(Text("one two three four five six"), truncate=True)
    assert (cut.text, cut.truncated) == (f"{BOS} four five six", True)
    assert cut.token_ids == tokenize(f"{BOS} four five six")


def test_ids_are_cut_from_the_left() -> None:
    cut = StubScorer(max_length=2).render(TokenIds((9, 8, 7)), truncate=True)
    assert cut == Rendered(None, [8, 7], truncated=True)


def test_responses_of_a_group_share_one_cut_prompt() -> None:
    prompt = (Message("user", "one two three four five six seven eight nine ten"),)
    short, long = StubScorer(max_length=14).render_group(prompt, ["yes", "a much longer answer"], truncate=True)
    assert short.text is not None
    assert long.text is not None
    assert short.text.partition("yes")[0] == long.text.partition("a much")[0]
    assert short.truncated
    assert len(long.token_ids) <= 14


def test_capacity_is_kept_by_sleeping() -> None:
    scorer = StubScorer(tokens_per_second=100, inputs_per_second=1000)
    started = time.perf_counter()
    scorer.run([Rendered(None, [1, 2, 3, 4, 5])])
    assert time.perf_counter() - started >= 0.05


def test_identical_inputs_of_a_batch_cost_nothing_more() -> None:
    scorer = StubScorer(tokens_per_second=100)
    started = time.perf_counter()
    scores = scorer.run([Rendered(None, [1] * 5)] * 100)
    assert 0.05 <= time.perf_counter() - started < 2
    assert [one.reused_tokens for one in scores] == [0, *[5] * 99]


@pytest.mark.parametrize(("shares", "reused"), [(True, 20), (False, 0)])
def test_prefixes_are_shared_on_demand(shares: bool, reused: int) -> None:
    inputs = [Rendered(None, [*range(20), last]) for last in (50, 60)]
    scorer = StubScorer(shares_prefixes=shares)
    meter = scorer.meter()
    assert [one.reused_tokens for one in scorer.run(inputs)] == [0, reused]
    assert [meter.add(one) for one in inputs] == [21, 21 - reused]


def test_attributes_average_to_the_reward() -> None:
    scorer = StubScorer(attributes=("helpful", "honest"))
    score = scorer.run([scorer.render(Text("hello"))])[0]
    assert score.attributes is not None
    assert list(score.attributes) == ["helpful", "honest"]
    assert score.value == pytest.approx(sum(score.attributes.values()) / 2)
    assert scorer.info.attributes == ("helpful", "honest")


def test_a_fault_has_the_last_word() -> None:
    def refuse_big_batches(batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        if len(batch) > 1:
            raise MemoryError
        return [Score(float("inf"))]

    scorer = StubScorer(fault=refuse_big_batches)
    one = Rendered(None, [1])
    assert scorer.run([one]) == [Score(float("inf"))]
    with pytest.raises(MemoryError):
        scorer.run([one, one])


def test_its_scores_have_the_distribution_it_states() -> None:
    scorer = StubScorer()
    reward = scorer.info.reward
    assert reward is not None
    values = [scorer.score(Rendered(None, [i])).value for i in range(2000)]
    assert sum(values) / 2000 == pytest.approx(reward.mean, abs=0.15)
    below = sum(value < reward.deciles[2] for value in values) / 2000
    assert below == pytest.approx(0.3, abs=0.04)
