"""Candidates in turns."""

from benchmarks.timing import Sample, alternate


def test_a_sample_is_told_by_its_median_and_its_ends() -> None:
    sample = Sample((3.0, 1.0, 10.0, 2.0))
    assert (sample.median, sample.low, sample.high) == (2.5, 1.0, 10.0)


def test_every_candidate_is_measured_once_a_round_and_none_always_first() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = alternate({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert samples == {"a": Sample((3.0, 6.0, 7.0)), "b": Sample((4.0, 5.0, 8.0))}
