"""What a report shows are the figures that training and evaluation compute."""

import json
import math
import random
from itertools import combinations
from pathlib import Path

import pytest
import subjects
from hypothesis import given
from hypothesis import strategies as st

from reward_model.calibration import margin_quality
from training.report.best_of import best_of
from training.report.confidence import confidence_histogram, reliability_figure
from training.report.curves import loss_curve, smoothed
from training.report.figure import Figure, Missing
from training.report.gain import best_of_figure
from training.report.log import TrainingLog, read_log
from training.report.markup import element, number, words
from training.report.plot import Axis, Plot
from training.report.reliability import reliability
from training.report.rewards import length_figure, reward_histograms
from training.report.scale import Scale, labels, linear, logarithmic, share
from training.report.verdicts import DataSet, Verdict, Verdicts, read_verdicts
from training.rows import DataError
from training.statistics import correlation


def drawn(figure: Figure | Missing) -> Figure:
    assert isinstance(figure, Figure)
    return figure


@pytest.mark.parametrize("n", [3, 10, 57, 400])
@pytest.mark.parametrize("temperature", [1.0, 0.37])
def test_the_bins_of_the_diagram_add_up_to_the_calibration_error(n: int, temperature: float) -> None:
    scored = subjects.verdicts(n).scored
    bins = reliability(scored, temperature)
    gap = sum(one.n * abs(one.confidence - one.agreement) for one in bins) / len(scored)
    labels_ = [one.label for one in scored]
    expected = margin_quality([one.margin / temperature for one in scored], labels_)["ece"]
    # Within a bin differences may cancel, so that they are summed up first in both.
    assert gap == pytest.approx(expected, abs=1e-12)
    assert len(bins) == min(10, len(scored))
    assert all(one.interval[0] <= one.agreement <= one.interval[1] for one in bins)


def test_histograms_count_everything_once() -> None:
    found = subjects.verdicts()
    scored = len(found.scored)
    rewards, confidences = drawn(reward_histograms(found)), drawn(confidence_histogram(found, 0.8))
    chosen, rejected = ([int(row[side]) for row in rewards.table.rows] for side in (1, 2))
    assert (sum(chosen), sum(rejected)) == (scored, scored)
    assert sum(int(row[1]) for row in confidences.table.rows) == scored


def test_the_length_figure_says_what_evaluation_says() -> None:
    found = subjects.verdicts()
    rewards = [reward for one in found.scored for reward in one.rewards or ()]
    expected = correlation(rewards, [length for one in found.scored for length in one.lengths])
    assert expected.pearson is not None
    text = drawn(length_figure(found)).text.replace("\N{MINUS SIGN}", "-")
    assert f"Pearson {expected.pearson:+.3f}" in text
    assert f"{found.longer_wins:.1%}"[:-1] in text


@pytest.mark.parametrize(("n", "shape"), [(40, "<circle"), (400, "<rect")])
def test_few_responses_are_points_and_many_a_density(n: int, shape: str) -> None:
    found = subjects.verdicts(n)
    svg = drawn(length_figure(found)).drawing
    assert svg.count(shape) > 30
    if shape == "<circle":
        assert svg.count('class="dot first faint"') == 2 * len(found.scored)


def test_the_best_of_n_is_what_all_draws_give_on_average() -> None:
    draw = random.Random(0)
    rewards = [draw.choice([0.0, 1.0, 2.0]) for _ in range(6)]  # with ties
    pairs = tuple(
        Verdict(1, 1, (a, b), (rewards[a], rewards[b]), (1, 1), 1.0, None, None) for a, b in combinations(range(6), 2)
    )
    found = best_of(pairs)
    assert found is not None
    worth = [(5 - place) / 5 for place in range(6)]
    for n, value in enumerate(found.worth, start=1):
        means = []
        for some in combinations(range(6), n):
            best = [i for i in some if rewards[i] == max(rewards[j] for j in some)]
            means.append(sum(worth[i] for i in best) / len(best))
        assert value == pytest.approx(sum(means) / len(means))
    assert found.worth[0] == pytest.approx(0.5)
    assert found.ceiling[-1] == 1.0


def test_rankings_that_are_too_short_for_n_or_not_whole_are_left_out() -> None:
    found = subjects.ranked((5, 5, 4, 5, 3))
    result = best_of(found.pairs)
    assert result is not None
    assert (result.rankings, len(result.worth)) == (3, 5)
    assert best_of(found.pairs[:9]) is None  # of ten pairs
    assert best_of(subjects.verdicts().pairs) is None
    assert "over 3 rankings of 5" in drawn(best_of_figure(found)).text.lower()


def test_a_moving_average_of_a_line_is_the_line_within_it() -> None:
    line = [(float(x), 2.0 * x) for x in range(50)]
    assert [y for _, y in smoothed(line)][2:-2] == pytest.approx([y for _, y in line][2:-2])
    assert smoothed(line[:1]) == line[:1]


def test_a_loss_in_another_unit_is_not_drawn_beside_the_held_out_one() -> None:
    same, other = (drawn(loss_curve(subjects.log(), name)) for name in ("bradley_terry", "regression"))
    assert "second" in same.drawing
    assert "second" not in other.drawing
    assert any(row[2] for row in other.table.rows)


def test_a_long_log_is_drawn_and_listed_in_part_and_says_so() -> None:
    figure = drawn(loss_curve(subjects.log(5000), "bradley_terry"))
    assert len(figure.drawing) < 30_000
    assert len(figure.table.rows) < 60
    assert "one in 125; all are in training_log.json" in figure.table.head[0]


@pytest.mark.parametrize(
    "figure", [reward_histograms, length_figure, best_of_figure, lambda v: reliability_figure(v, 1.0)]
)
def test_a_figure_without_data_says_why(figure: object) -> None:
    assert callable(figure)
    for nothing in (
        None,
        Verdicts(DataSet("x", None), "tokens", (Verdict(1, 0, (0, 1), None, (1, 1), 1.0, None, None),)),
    ):
        missing = figure(nothing)
        assert isinstance(missing, Missing)
        assert missing.why.endswith(".")


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=8))
def test_a_scale_holds_all_values_between_marks_that_can_be_told_apart(values: list[float]) -> None:
    check(linear(values), values)


@given(st.lists(st.integers(1, 10**7).map(float), min_size=1, max_size=8))
def test_a_logarithmic_scale_does_as_well(values: list[float]) -> None:
    check(logarithmic(values), values)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_scale_of_shares_does_as_well(a: float, b: float) -> None:
    check(share(min(a, b), max(a, b)), [a, b])


def check(scale: Scale, values: list[float]) -> None:
    slack = 1e-8 * max(1.0, abs(scale.low), abs(scale.high))
    assert scale.low - slack <= min(values)
    assert max(values) <= scale.high + slack
    assert scale.ticks == tuple(sorted(set(scale.ticks)))
    assert (scale.place(scale.low), scale.place(scale.high)) == (0, 1)
    assert 2 <= len(scale.ticks) <= 9
    assert len(set(labels(scale))) == len(scale.ticks)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_has_no_place_on_paper_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="no place on paper"):
        number(value)
    with pytest.raises(ValueError, match="no place on paper"):
        Plot(Axis(linear([0, 1]), "x"), Axis(linear([0, 1]), "y")).dots([(0.5, value)], "first", value)


def test_words_are_never_markup() -> None:
    hostile = "<script>\"'&\x00\x1b\u202e</script>"
    assert words(hostile) == "&lt;script&gt;&quot;&#x27;&amp;\u2400\u241b\ufffd&lt;/script&gt;"
    assert element("a", words("<"), title='"') == '<a title="&quot;">&lt;</a>'


def test_scores_and_log_are_read_back_as_they_were(tmp_path: Path) -> None:
    found, log = subjects.verdicts(), subjects.log()
    found.write(tmp_path / "held_out.json")
    log.write(tmp_path / "training_log.json")
    assert read_verdicts(tmp_path / "held_out.json") == found
    assert read_log(tmp_path / "training_log.json") == log
    assert read_verdicts(tmp_path / "absent") is None
    assert read_log(tmp_path / "absent") is None


@pytest.mark.parametrize("damage", ["nonsense", "[]", "{}", '{"format_version": 2}', '{"format_version": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(damage)
    for read in (read_verdicts, read_log):
        with pytest.raises(DataError, match=r"file\.json cannot be read"):
            read(path)


def test_numbers_that_are_not_finite_are_no_points() -> None:
    history = [
        {"loss": 0.5, "grad_norm": math.nan, "step": 1},
        {"eval_loss": 0.4, "step": 1},
        {"train_runtime": 3.5, "step": 1},
    ]
    log = TrainingLog.of_history(history, hardware="h", processes=1)
    assert log.points == ({"loss": 0.5, "step": 1}, {"eval_loss": 0.4, "step": 1})
    assert log.seconds == 3.5
    assert json.dumps(log.points, allow_nan=False)
