"""The data of a run: what is learned from, what is held out, and what the record says of both."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import tiny

from reward_model.rendering import Renderer
from reward_model.template import DECODER_TEMPLATE
from training.arguments import RewardTrainingArguments
from training.data import NoPairs
from training.prepare import Data, check_readable, prepare
from training.rows import DataError


def row(i: int, size: int) -> dict[str, Any]:
    return {"prompt": f"p{i}", "chosen": f"a{i} " * size, "rejected": f"b{i} " * size}


def rows(n: int, *, first: int = 0, size: int = 1) -> list[dict[str, Any]]:
    return [row(i, size) for i in range(first, first + n)]


def arguments(tmp_path: Path, train: list[Any], evaluation: list[Any] | None = None, **flags: Any) -> Any:
    files = {"dataset_name": train} | ({"eval_dataset_name": evaluation} if evaluation is not None else {})
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in content))
    names = {name: str(tmp_path / f"{name}.jsonl") for name in files}
    return RewardTrainingArguments(
        **{"model_name_or_path": "m", "output_dir": str(tmp_path / "out"), **names, **flags}  # type: ignore[arg-type]
    )


def renderer() -> Renderer:
    tokenizer = tiny.tiny_tokenizer("decoder", chat_template=DECODER_TEMPLATE)
    return Renderer(tokenizer, rendering="chat_template", max_length=2000, vocab_size=len(tokenizer))


def prepared(tmp_path: Path, train: list[Any], evaluation: list[Any] | None = None, **flags: Any) -> Data:
    return prepare(arguments(tmp_path, train, evaluation, **flags), renderer(), tmp_path / "examples")


def lines(examples: Any) -> list[int]:
    return [one.line for one in examples]


def test_whole_prompts_are_held_out(tmp_path: Path) -> None:
    data = prepared(tmp_path, [*rows(20), *rows(20, size=2)], eval_fraction=0.2)
    assert sorted(lines(data.train) + lines(data.validation)) == list(range(1, 41))
    assert len(data.validation) == 8
    assert not {one.prompt for one in data.train} & {one.prompt for one in data.validation}
    assert (data.record["pairs"], data.record["eval_pairs"]) == (32, 8)


def test_repeats_and_leaks_are_left_out_of_training_only(tmp_path: Path) -> None:
    evaluation = [*rows(2, first=8), *rows(2, first=8)]
    data = prepared(tmp_path, [*rows(10), *rows(3)], evaluation)
    assert lines(data.train) == list(range(1, 9))
    assert lines(data.validation) == [1, 2, 3, 4]
    bad = data.record["bad_rows"]["reasons"]
    assert bad["duplicate"]["first_lines"] == [11, 12, 13]
    assert bad["in_evaluation"]["first_lines"] == [9, 10]
    assert data.record["eval_bad_rows"]["remarks"]["duplicate"]["first_lines"] == [3, 4]


def test_repeats_and_leaks_are_kept_where_that_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = prepared(tmp_path, [*rows(10), *rows(3)], rows(2, first=8), keep_duplicates=True, keep_leaks=True)
    assert lines(data.train) == list(range(1, 14))
    assert data.record["bad_rows"]["rejected"] == 0
    assert data.record["bad_rows"]["remarks"].keys() == {"duplicate", "in_evaluation"}
    assert "2 training rows have a prompt of the evaluation set and are kept" in caplog.text


def test_a_set_whose_prompts_are_all_evaluated_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match=r"(?s)dataset_name.jsonl: nothing is left to use.*in_evaluation +5"):
        prepared(tmp_path, rows(5), rows(5, size=3))


def test_one_file_cannot_be_both(tmp_path: Path) -> None:
    args = arguments(tmp_path, rows(2))
    args.eval_dataset_name = str(tmp_path / "." / "dataset_name.jsonl")
    with pytest.raises(DataError, match="is also the training set"):
        check_readable(args)


def test_a_file_without_rows_is_noticed_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match=r"eval_dataset_name.jsonl: there are no rows"):
        check_readable(arguments(tmp_path, rows(2), []))


def test_near_identical_responses_and_lengths_are_on_record(tmp_path: Path) -> None:
    near = {"prompt": "Which one?", "chosen": "word " * 60 + "end", "rejected": "word " * 60 + "stop"}
    far = {"prompt": "Which one?", "chosen": "word " * 60, "rejected": "so " * 60}
    record = prepared(tmp_path, [near, far, *rows(3), {**near, "chosen": "long " * 500}], eval_fraction=0.0).record
    assert record["bad_rows"]["remarks"]["near_identical"]["first_lines"] == [1]
    assert record["lengths"]["too_long"] == 1
    # Of the first the rejected response is longer by a byte, of the others the chosen one is, or they are equal.
    assert record["lengths"]["longer_wins"] == pytest.approx((0 + 1 + 3 * 0.5) / 5)
    assert record["lengths"]["chosen"]["max"] > 200


def test_ratings_are_read_through_the_same_checks(tmp_path: Path) -> None:
    rated = [{"prompt": f"p{i // 2}", "response": f"r{i}", "good": i} for i in range(8)]
    flags = {"loss_type": "regression", "attributes": ["good"]}
    data = prepared(tmp_path, [*rated, rated[0]], rated[:2], **flags)
    assert lines(data.train) == [3, 5, 7]
    assert data.record["bad_rows"]["reasons"].keys() == {"in_evaluation", "duplicate"}
    assert data.train[0].ratings == ((2.0,), (3.0,))


def test_memory_does_not_grow_with_the_data_but_for_a_digest_of_each_row(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        place = tmp_path / str(n)
        place.mkdir()
        args = arguments(place, [], eval_fraction=0.1)
        with Path(args.dataset_name).open("w") as file:
            file.writelines(f"{json.dumps(row(i, 200))}\n" for i in range(n))
        tracemalloc.start()
        data = prepare(args, renderer(), place / "examples")
        assert len(data.train) + len(data.validation) == n
        # Looking at every example keeps none of them.
        tokens = sum(len(one.token_ids) for example in data.train for one in example.sequences)
        assert tokens > 1000 * len(data.train)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(20)  # what is made once, whatever the size
    assert (peak(600) - peak(100)) / 500 < 500
