"""The soak runs in small: a server process keeps its promises, and a run that should fail fails."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.soak import answers, overload, proxies, replacement
from benchmarks.soak.plants import Plant
from benchmarks.soak.verdicts import Memory, Verdict

MEMORY = "resident memory"


def broken(verdicts: list[Verdict], *, but: str | tuple[str, ...]) -> list[str]:
    """What does not hold, apart from what a short run or a busy machine cannot show."""
    return [verdict.line() for verdict in verdicts if not verdict.holds and not verdict.name.startswith(but)]


def test_every_answer_is_right_while_clients_hang_up_and_the_model_fails() -> None:
    tally, verdicts = answers.soak(1000, 32, 0, None, 0)
    assert broken(verdicts, but=MEMORY) == []
    assert sum(tally.hang_ups.values()) > 100
    assert set(tally.hang_ups) == {"before the body", "mid-body", "while waiting"}
    assert sum(count for answer, count in tally.answers.items() if "fault" in answer) > 3


@pytest.mark.parametrize(("plant", "requests"), [(Plant.LEAK, 1200), (Plant.CROSSED, 400)])
def test_what_is_planted_is_found(plant: Plant, requests: int) -> None:
    _, verdicts = answers.soak(requests, 32, 0, plant, 32_768)
    assert answers.found(plant, verdicts)
    if plant is Plant.CROSSED:
        assert len(broken(verdicts, but=MEMORY)) == 1


def test_ten_times_the_load_costs_nobody_but_those_who_are_refused() -> None:
    seen, able, verdicts = overload.soak(None, 20, 10, 4, 1.5)
    assert set(seen.statuses) <= {200, 503, 504}
    assert seen.statuses[503] > 4 * seen.statuses[200]
    assert seen.statuses[504] <= seen.statuses[200] / 10
    assert seen.goodput() > able / 2
    assert set(seen.probes) == {200}
    assert broken(verdicts, but=(MEMORY, "what is let in", "99 of 100", "goodput")) == []


@pytest.mark.parametrize("proxy", list(proxies.PROXIES))
def test_nobody_notices_that_replicas_are_replaced(proxy: str) -> None:
    if not proxies.installed(proxy):
        pytest.skip(f"{proxy} is not on this machine: apt-get install {proxy}")
    seen, verdicts = replacement.soak(proxy, 2, 1, 30, drain=True)
    assert broken(verdicts, but=()) == []
    assert seen.right > 100


def test_a_killed_save_leaves_a_whole_checkpoint_and_a_killed_start_nothing(
    checkpoint_of: Callable[[str], Path],
) -> None:
    flags = ["--model", str(checkpoint_of("bert")), "--saves", "6", "--starts", "1"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak.kills", *flags],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("\nok ") == 4


def test_memory_that_is_steady_from_the_middle_on_may_have_grown_before() -> None:
    steady = [(i / 100, 100 + min(i, 40)) for i in range(101)]
    assert Memory(steady).verdict(0.02).holds
    assert not Memory([(done, size + int(10 * done)) for done, size in steady]).verdict(0.02).holds
    assert Memory([*steady[:97], (0.97, 1000), *steady[98:]]).verdict(0.02).holds
