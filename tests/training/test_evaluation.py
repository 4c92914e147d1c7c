"""The result says the same to people and to machines."""

from reward_model.calibration import RewardStatistics
from training.data import RowReport
from training.evaluation import Comparison, Evaluation, Provenance
from training.paired import paired_difference
from training.pairs import BadRow
from training.probabilities import ProbabilityQuality
from training.statistics import Accuracy, Correlation


def result(*, lines_without_score: tuple[int, ...] = ()) -> Evaluation:
    part = Accuracy(4, 0.75, (0.3, 0.95))
    report = RowReport(rows=10)
    for line in lines_without_score:
        report.add(line, BadRow("too_long", "the response alone does not fit"))
    return Evaluation(
        overall=Accuracy(10, 0.65, (0.45, 0.8)),
        outcomes=[1.0] * 6 + [0.5] + [0.0] * 3,
        prompts=8,
        by_category={"helpful": part},
        by_source={},
        by_subset={},
        longer_wins=0.55,
        length_balanced=Accuracy(9, 0.6, (0.4, 0.8)),
        probabilities=ProbabilityQuality(0.05, 0.07, 0.61, 0.62, 0.65, 0.21),
        length_correlation=Correlation(0.2, None),
        reward=RewardStatistics(0.1, 1.2, tuple(float(i) for i in range(9)), 20),
        truncated=3,
        not_scored=report,
        provenance=Provenance("demo", "sha256:aa", "sha256:bb", 512, "cpu", "float32", 1.3, calibrated=True),
    )


def test_document_has_the_promised_keys() -> None:
    document = result(lines_without_score=(7,)).to_json()
    assert document["n"] == 10
    assert document["accuracy"] == 0.65
    assert tuple(document["accuracy_interval"]) == (0.45, 0.8)
    assert document["by_category"] == {"helpful": {"n": 4, "accuracy": 0.75, "accuracy_interval": (0.3, 0.95)}}
    assert document["by_source"] == {}
    assert document["not_scored"] == 1
    assert document["not_scored_rows"]["too_long"]["first_lines"] == [7]
    assert set(document) >= {
        *("ece", "nll", "brier", "longer_wins", "length_correlation", "truncated", "temperature", "calibrated"),
        *("model", "model_fingerprint", "dataset_fingerprint", "max_length", "dtype", "device", "prompts", "reward"),
    }


def test_table_shows_what_matters_and_only_the_groups_there_are() -> None:
    table = result().table()
    assert "accuracy         65.0% [45.0%, 80.0%]" in table
    assert "helpful" in table
    assert "Pearson +0.200, Spearman undefined" in table
    assert "source" not in table
    assert "Without a score" not in table


def test_a_comparison_says_the_same_to_people_and_to_machines() -> None:
    one = result()
    comparison = Comparison(one, paired_difference([1.0] * 8 + [0.0] * 2, one.outcomes, range(10)))
    document, table = comparison.to_json(), comparison.table()
    assert (document["model"], document["accuracy"]) == ("demo", 0.65)
    assert (document["better"], document["worse"]) == (2, 0)
    assert document["difference"] == 0.15
    assert "difference      +15.0 points [" in table
    assert "better on 2, worse on 0" in table


def test_table_says_which_pairs_have_no_score() -> None:
    assert "at 3, 7: the response alone does not fit" in result(lines_without_score=(3, 7)).table()
