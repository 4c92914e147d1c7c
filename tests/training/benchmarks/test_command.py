"""`training.evaluate --benchmark` scores a file as the service would and applies the benchmark's rules."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reward_model.checkpoint import Checkpoint, load
from reward_model.records import as_prompt
from training.benchmarks import scored
from training.benchmarks.items import fingerprint, read_items
from training.benchmarks.rewardbench import REWARDBENCH, SECTIONS
from training.benchmarks.rewardbench2 import REWARDBENCH2, SUBSETS
from training.benchmarks.scored import BenchmarkFailed, run
from training.evaluate import main
from training.rows import DataError

#: Tokens are bytes: longer than the max_length here.
TOO_LONG = "never " * 100


@pytest.fixture(scope="module")
def gpt2(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("gpt2")


@pytest.fixture(scope="module")
def loaded(gpt2: Path) -> Checkpoint:
    return load(gpt2, device="cpu", dtype="float32", max_length=100)


def pair(i: int, subset: str = "hep-go", **changes: str) -> dict[str, Any]:
    return {"prompt": f"question {i}", "chosen": f"yes {i * i}", "rejected": f"no {i}", "subset": subset, **changes}


def choice(i: int, subset: str, right: int = 1, identity: str = "") -> dict[str, Any]:
    chosen = [f"right {i} {j}" for j in range(right)]
    row = {"id": identity or str(i), "prompt": f"question {i}", "subset": subset, "num_correct": right}
    return {**row, "chosen": chosen, "rejected": [f"wrong {i * j}" for j in range(3)]}


def styled(i: int, domain: str) -> dict[str, Any]:
    sides = {side: [f"{side} {i}", f"{side} {i} long", f"**{side}** {i}"] for side in ("chosen", "rejected")}
    return {"id": i, "prompt": f"question {i}", "domain": domain, **sides}


def judged(i: int, source: str) -> dict[str, Any]:
    sides = {"response_A": f"it is {i}", "response_B": f"it is {i + 1}", "label": "B>A" if i % 3 else "A>B"}
    return {"question": f"question {i}", "source": source, "response_model": "gpt-4o-2024-05-13", **sides}


def drawn(i: int) -> dict[str, Any]:
    return {"prompt": f"question {i}", "responses": [f"{i} {j}" for j in range(4)], "scores": [1, i, 2, 0]}


ROWS = {
    "rewardbench": [pair(i, name) for i, name in enumerate(n for part in SECTIONS.values() for n in part)],
    "rewardbench2": [
        *(choice(i, name) for i, name in enumerate(name for name in SUBSETS if name != "Ties")),
        choice(7, "Ties", 1, "ref:1"),
        choice(8, "Ties", 2, "tied:1"),
    ],
    "rm_bench": [styled(i, d) for i, d in enumerate(["chat", "code", "math", "safety-refuse", "safety-response"])],
    "judgebench": [
        judged(i, s) for i, s in enumerate(["mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"])
    ],
    "best_of_n": [drawn(i) for i in range(5)],
}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def command(checkpoint: Path, dataset: str, benchmark: str, *flags: str) -> int:
    required = ("--model_name_or_path", str(checkpoint), "--dataset_name", dataset, "--benchmark", benchmark)
    return main([*required, "--device", "cpu", "--dtype", "float32", *flags])


@pytest.mark.parametrize("name", ROWS)
def test_command_writes_the_document_and_shows_the_table(
    gpt2: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "metrics.json"
    assert command(gpt2, write(tmp_path / "rows.jsonl", ROWS[name]), name, "--output_file", str(output)) == 0
    document = json.loads(output.read_text())
    low, high = document["accuracy_interval"]
    assert low <= document["accuracy"] <= high
    assert (document["benchmark"], document["n"], document["prompts"]) == (name, len(ROWS[name]), len(ROWS[name]))
    assert (document["not_scored"], document["truncated"], document["dtype"]) == (0, 0, "float32")
    assert document["model_fingerprint"] == load(gpt2).fingerprint
    assert document["dataset"].endswith("rows.jsonl")
    shown = capsys.readouterr().out
    if name == "best_of_n":
        assert [point["n"] for point in document["curve"]] == [1, 2, 3, 4]
        assert "5 prompts with 4 candidates" in shown
    else:
        low, high = document["score_interval"]
        assert low <= document["score"] <= high
        assert not document["complete"]
        assert f"score          {document['score']:6.1%}" in shown
        assert "NOT the published benchmark" in shown


def test_scores_are_those_of_candidates_taken_one_by_one(loaded: Checkpoint, tmp_path: Path) -> None:
    rows = [pair(i, "hep-go" if i % 2 else "math-prm") for i in range(12)]
    items = read_items(REWARDBENCH, write(tmp_path / "rows.jsonl", rows))
    report = run(REWARDBENCH, items, loaded, batch_tokens=150)

    def alone(row: dict[str, Any], side: str) -> float:
        (rendered,) = loaded.renderer.render_group(as_prompt(row["prompt"]), [row[side]], truncate=True)
        return loaded.model.score([rendered])[0].value

    expected = [(alone(row, "chosen"), alone(row, "rejected")) for row in rows]
    for i, scores in enumerate(expected):
        assert report.scored.scores[i] == pytest.approx(scores, abs=1e-5)
    wins = [chosen > rejected for chosen, rejected in expected]
    assert 0 < sum(wins) < 12
    assert report.to_json()["accuracy"] == pytest.approx(sum(wins) / 12)
    assert report.to_json()["by_subset"]["hep-go"]["accuracy"] == pytest.approx(sum(wins[1::2]) / 6)


def test_items_that_are_scored_in_several_windows_keep_their_scores(
    loaded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = read_items(REWARDBENCH2, write(tmp_path / "rows.jsonl", ROWS["rewardbench2"]))
    usual = run(REWARDBENCH2, items, loaded).scored.scores
    monkeypatch.setattr(scored, "_WINDOW", 3)
    windowed = run(REWARDBENCH2, items, loaded).scored.scores
    assert windowed.keys() == usual.keys() == set(range(len(items)))
    for i, scores in usual.items():
        assert windowed[i] == pytest.approx(scores, abs=1e-5)


def test_an_item_that_does_not_fit_counts_as_one_whose_candidates_are_all_the_same(
    loaded: Checkpoint, tmp_path: Path
) -> None:
    pairs = read_items(REWARDBENCH, write(tmp_path / "pairs.jsonl", [pair(1), pair(2, "hep-js", chosen=TOO_LONG)]))
    report = run(REWARDBENCH, pairs, loaded)
    document = report.to_json()
    assert document["by_subset"]["hep-js"] == {"n": 1, "accuracy": 0, "accuracy_interval": (0, 1)}
    assert document["not_scored"] == 1
    assert document["not_scored_rows"]["too_long"]["first_lines"] == [2]
    assert document["reward"]["n"] == 2
    assert "Without scores, counted as if all candidates had the same" in report.table()
    rows = [choice(1, "Math"), {**choice(2, "Focus"), "rejected": ["a", "b", TOO_LONG]}]
    four = run(REWARDBENCH2, read_items(REWARDBENCH2, write(tmp_path / "four.jsonl", rows)), loaded)
    assert four.to_json()["by_subset"]["Focus"]["accuracy"] == 0.25


def test_the_same_response_twice_is_a_tie_to_the_last_bit(loaded: Checkpoint, tmp_path: Path) -> None:
    rows = [pair(i, chosen=f"the same {i}", rejected=f"the same {i}") for i in range(20)]
    report = run(REWARDBENCH, read_items(REWARDBENCH, write(tmp_path / "rows.jsonl", rows)), loaded)
    assert (report.to_json()["ties"], report.to_json()["accuracy"]) == (20, 0)
    assert all(one == other for one, other in report.scored.scores.values())


def test_a_long_prompt_is_cut_once_for_all_candidates_and_counted(loaded: Checkpoint, tmp_path: Path) -> None:
    rows = [{**choice(1, "Math"), "prompt": TOO_LONG}, choice(2, "Math")]
    report = run(REWARDBENCH2, read_items(REWARDBENCH2, write(tmp_path / "rows.jsonl", rows)), loaded)
    assert (report.scored.truncated, report.scored.not_scored.rejected) == (1, 0)


def test_what_cannot_be_scored_at_all_is_an_error(gpt2: Path, loaded: Checkpoint, tmp_path: Path) -> None:
    items = read_items(REWARDBENCH, write(tmp_path / "rows.jsonl", [pair(1, chosen=TOO_LONG)]))
    with pytest.raises(BenchmarkFailed, match=r"(?s)not one item.*too_long"):
        run(REWARDBENCH, items, loaded)
    broken = load(gpt2, device="cpu", dtype="float32")
    with torch.no_grad():
        broken.model.get_parameter("model.score.weight").fill_(math.nan)
    with pytest.raises(BenchmarkFailed, match=r"the item at line 1 scores \(nan, nan\)"):
        run(REWARDBENCH, read_items(REWARDBENCH, write(tmp_path / "rows.jsonl", [pair(1)])), broken)


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_an_error_that_names_its_line(
    gpt2: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS[name][:2], {"subset": "hep-go"}, *ROWS[name][2:], ["not", "an", "object"]]
    assert command(gpt2, write(tmp_path / "rows.jsonl", rows), name) == 1
    error = capsys.readouterr().err
    assert f"these rows are not {name}'s" in error
    assert f"at 3, {len(rows)}: there is no `" in error


def test_rows_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    rows = [choice(1, "Ties", 1, "ref:1"), choice(2, "Ties", 1, "ref:1")]
    with pytest.raises(DataError, match=r"rows\.jsonl: the rows at 1 and 2 both have the `id` ref:1"):
        read_items(REWARDBENCH2, write(tmp_path / "rows.jsonl", rows))


def test_an_empty_file_is_an_error_and_a_limit_counts_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no rows"):
        read_items(REWARDBENCH, write(tmp_path / "empty.jsonl", []))
    rows = [pair(1), pair(2), {"bad": "row"}]
    assert [item.line for item in read_items(REWARDBENCH, write(tmp_path / "rows.jsonl", rows), limit=2)] == [1, 2]


def test_the_fingerprint_is_of_all_that_an_item_says(tmp_path: Path) -> None:
    def of(row: dict[str, Any]) -> str:
        return fingerprint(read_items(REWARDBENCH, write(tmp_path / "rows.jsonl", [row])))

    assert of(pair(1)) == of({**pair(1), "id": 7})
    assert len({of(pair(1)), of(pair(2)), of(pair(1, "hep-js")), of(pair(1, chosen="x"))}) == 4
