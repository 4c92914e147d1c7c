"""Examples come back from the disk as they were, and train a model as those in memory do."""

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_model.model import RewardModel
from reward_model.precision import Precision
from reward_model.rendering import Rendered, Renderer
from training.arguments import RewardTrainingArguments
from training.base import load_base
from training.data import RowReport
from training.examples import Comparison, Example, render_examples
from training.pairs import to_pair
from training.store import ExampleStore, kept_while_used, write
from training.trainer import RewardTrainer


def example(line: int, lengths: list[int], *, ratings: bool = False, segments: bool = False) -> Example:
    cut = line % 2 == 0
    sequences = tuple(
        Rendered(None, list(range(70_000, 70_000 + n)), [0, 1] * (n // 2) if segments else None, cut) for n in lengths
    )
    last = len(lengths) - 1
    comparisons = (Comparison(0, last), Comparison(last, 0, -0.1, 0.7)) if last else ()
    rated = tuple((float(i), 0.1) for i in range(len(lengths))) if ratings else ()
    return Example(
        sequences, comparisons, line, bytes([line % 250]) * 15 + b"\0", rated, 2, "é" if rated else None, "\n"
    )


EXAMPLES = [
    example(1, [4, 6]),
    example(2, [2]),
    example(900, [4, 2, 8], segments=True),
    example(2**40, [2, 4], ratings=True),
]


def test_examples_come_back_as_they_were(tmp_path: Path) -> None:
    store = write(iter(EXAMPLES), tmp_path / "store")
    assert list(store) == EXAMPLES
    assert store[-1] == EXAMPLES[-1]
    assert list(store[1:3]) == EXAMPLES[1:3]
    with pytest.raises(IndexError):
        store[len(EXAMPLES)]


def test_the_text_is_not_kept(tmp_path: Path) -> None:
    one = replace(EXAMPLES[0], sequences=(Rendered("text", [1]), Rendered("more", [2])))
    assert [sequence.text for sequence in write([one], tmp_path / "store")[0].sequences] == [None, None]


def test_a_part_of_a_store_is_a_store_and_counts_its_own(tmp_path: Path) -> None:
    store = write(EXAMPLES, tmp_path / "store")
    part = store.those(np.array([False, True, True, False]))
    assert list(part) == EXAMPLES[1:3]
    assert list(part.prompts()) == [one.prompt for one in EXAMPLES[1:3]]
    assert list(part.those(np.array([False, True]))) == EXAMPLES[2:3]
    for one in (store, part, part[:0]):
        assert one.count_comparisons() == sum(len(each.comparisons) for each in one)
        assert one.count_truncated() == sum(each.sequences[0].truncated for each in one)


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    part = write(EXAMPLES, tmp_path / "store")[1:]
    sent = pickle.dumps(part)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert isinstance(received, ExampleStore)
    assert list(received) == EXAMPLES[1:]


def test_a_store_of_nothing_is_empty(tmp_path: Path) -> None:
    store = write([], tmp_path / "store")
    assert not store
    assert (list(store.prompts()), store.count_comparisons(), store.count_truncated()) == ([], 0, 0)


numbers = st.floats(allow_nan=False, allow_infinity=False)
comparisons = st.builds(Comparison, st.integers(0, 9), st.integers(0, 9), st.none() | numbers, st.floats(0.5, 1))


@given(st.lists(st.lists(comparisons, max_size=4), max_size=5))
def test_margins_and_labels_are_kept_to_the_last_bit(drawn: list[list[Comparison]]) -> None:
    given = [replace(EXAMPLES[0], comparisons=tuple(one)) for one in drawn]
    with tempfile.TemporaryDirectory() as directory:
        assert list(write(given, Path(directory) / "store")) == given


def test_the_directory_is_removed_even_after_an_error(tmp_path: Path) -> None:
    place = tmp_path / "examples"
    place.mkdir()
    (place / "tokens").write_text("left by a run that was killed")
    unfit = replace(EXAMPLES[0], prompt_tokens=2**40)
    with kept_while_used(place) as directory:
        write(EXAMPLES, directory)
        assert (place / "tokens").stat().st_size > 100
    assert not place.exists()
    with pytest.raises(OverflowError), kept_while_used(place) as directory:
        write([*EXAMPLES, unfit], directory)
    assert not place.exists()


def test_what_a_run_uses_is_not_taken_from_it(tmp_path: Path) -> None:
    place = tmp_path / "new" / "examples"
    with kept_while_used(place) as directory:
        store = write(EXAMPLES, directory)
        with pytest.raises(BlockingIOError, match="is in use by a run that has not ended"), kept_while_used(place):
            pass
        assert list(store) == EXAMPLES
    with kept_while_used(place) as directory:
        write(EXAMPLES, directory)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_lock_that_a_killed_run_left_is_nobodys(tmp_path: Path) -> None:
    place = tmp_path / "examples"
    (tmp_path / "examples.lock").touch()
    with kept_while_used(place) as directory:
        assert list(write(EXAMPLES, directory)) == EXAMPLES
    assert list(tmp_path.iterdir()) == []


def test_a_store_trains_the_weights_that_a_list_does(tmp_path: Path) -> None:
    base = tiny.tiny_base(tmp_path / "base", "llama")
    words = ("red", "blue", "green", "small", "large")
    rows = [{"prompt": f"Which {i}?", "chosen": f"Gladly {words[i % 5]}", "rejected": "no " * i} for i in range(30)]
    trained = []
    for name in ("list", "store"):
        args = RewardTrainingArguments(
            output_dir=str(tmp_path / name),
            model_name_or_path=str(base),
            dataset_name="rows",
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            disable_tqdm=True,
        )
        torch.manual_seed(5)
        loaded = load_base(str(base))
        renderer = Renderer(loaded.tokenizer, rendering="chat_template", max_length=200, vocab_size=300)
        pairs = [to_pair(row, line) for line, row in enumerate(rows, start=1)]
        examples = list(render_examples(pairs, renderer, RowReport()))
        model = RewardModel(loaded.network, Precision(torch.device("cpu"), torch.float32, "training"))
        train = examples if name == "list" else write(examples, tmp_path / "examples")
        RewardTrainer(model, args, args.objective, train, ()).train()
        trained.append(model.state_dict())
    assert all(tensor.equal(trained[1][key]) for key, tensor in trained[0].items())
