"""What a user can get wrong, and what is said then: a table of exit statuses and of how the first line begins.

The last rows take away the disk while the checkpoint is written: the one that was there stays as it was.
"""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny

from training.train import main

GOOD = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(24)]
FORMS = (
    "expected are `chosen` and `rejected`, with or without `prompt`, or `prompt`, `responses` and `ranks` or `scores`"
)


def lines(rows: list[Any]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def every(**columns: Any) -> bytes:
    return lines([row | columns for row in GOOD])


#: What a set of this name holds.
SETS: dict[str, bytes] = {
    "good.jsonl": lines(GOOD),
    "columns.jsonl": lines([{"question": "q", "good": "a", "bad": "b"}]),
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n",
    "empty.parquet": b"",
    "table.csv": b"prompt,chosen,rejected\np,a,b\n",
    "array.jsonl": json.dumps(GOOD).encode(),
    "binary.jsonl": b"PAR1\xff\xfe\n",
    "text.jsonl.gz": b"no gzip\n",
    "nan.jsonl": every(margin=float("nan")),
    "label.jsonl": every(label=1.5),
    "same.jsonl": every(rejected="good", chosen="good"),
    "long.jsonl": every(chosen="long " * 500),
    "ratings.jsonl": lines([{"prompt": "p", "response": "r", "quality": 1}]),
}


def base_without(*patterns: str) -> Callable[[Path], None]:
    def remove(base: Path) -> None:
        for pattern in patterns:
            for path in base.glob(pattern):
                path.unlink()

    return remove


def pickled(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


NO_TOKENIZER = "there is no tokenizer beside the model: save it there (tokenizer.json or what it is made from)"
REGRESSION = "--loss_type regression --attributes help"


@pytest.mark.parametrize(
    ("data", "flags", "status", "message"),
    [
        ("good.jsonl", "--learning_rat 1", 2, "there is no flag --learning_rat; did you mean --learning_rate?"),
        ("good.jsonl", "--qqq", 2, "there is no flag --qqq; --help lists all"),
        ("good.jsonl", "--label_smoothing 0.7", 2, "--label_smoothing must be within [0, 0.5), not 0.7"),
        ("good.jsonl", "--label_noise_file {dir}", 2, "--label_noise_file {dir} is a directory: name a file"),
        ("absent.jsonl", "", 1, "{data}: there is no such file"),
        (
            "columns.jsonl",
            "",
            1,
            "{data}: no row can be used: there is no `chosen` but `question`, `good`, `bad`; " + FORMS,
        ),
        ("empty.jsonl", "", 1, "{data}: there are no rows"),
        ("blank.jsonl", "", 1, "{data}: there are no rows"),
        ("empty.parquet", "", 1, "{data}: not a readable Parquet file ("),
        ("table.csv", "", 1, "{data}: of files, only .jsonl, .jsonl.gz, .json and .parquet are read"),
        (
            "array.jsonl",
            "",
            1,
            "{data}: no row can be used: a row must be an object with `chosen` and `rejected`, not list",
        ),
        ("binary.jsonl", "", 1, "{data}: no row can be used: not a line of JSON in UTF-8: "),
        ("text.jsonl.gz", "", 1, "{data}: damaged after line 0 ("),
        ("nan.jsonl", "", 1, "{data}: no row can be used: `margin` must be a finite number, not nan"),
        (
            "label.jsonl",
            "",
            1,
            "{data}: no row can be used: `label` must be the probability, within [0, 1], that `chosen` is better",
        ),
        ("same.jsonl", "", 1, "{data}: no row can be used: both responses are the same"),
        (
            "long.jsonl",
            "",
            1,
            "{data}: nothing is left to use: 2503 tokens are left when all of the prompt that may go ",
        ),
        (
            "ratings.jsonl",
            REGRESSION,
            1,
            "{data}: no row can be used: it has none of the attributes help but `prompt`, `response`, `quality`",
        ),
        (
            "good.jsonl",
            REGRESSION,
            1,
            "{data}: no row can be used: it has none of the attributes help but `prompt`, `chosen`, `rejected`",
        ),
        (
            "good.jsonl",
            "--loss_type scaled_bradley_terry",
            1,
            "{data}: scaled_bradley_terry needs margins of 0 or more; at line 1: none",
        ),
        (
            "good.jsonl",
            "--eval_dataset_name {data}",
            1,
            "{data} is also the training set: what is measured on it would be memory. Name another one, or leave ",
        ),
        ("good.jsonl", "--max_length 9999", 1, "--max_length 9999 is more than the 256 tokens the base model can read"),
    ],
)
def test_bad_data_and_flags_end_with_a_status_and_a_sentence(
    data: str, flags: str, status: int, message: str, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"data": str(tmp_path / data), "dir": str(tmp_path)}
    if data in SETS:
        (tmp_path / data).write_bytes(SETS[data])
    assert command(base, tmp_path / data, tmp_path / "out", *flags.format(**names).split()) == status
    assert first_line(capsys).startswith(message.format(**names))
    assert not [*tmp_path.glob("out/*"), *tmp_path.glob(".*")]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (base_without("tok*"), NO_TOKENIZER),
        (base_without("*.safetensors"), "spoiled holds no *.safetensors weights"),
        (base_without("config.json"), "config.json is missing: this is not a transformers checkpoint"),
        (
            pickled,
            "the weights are pickled (pytorch_model.bin), which can execute code: convert them to safetensors",
        ),
    ],
)
def test_a_base_model_that_lacks_something_says_what(
    spoil: Callable[[Path], None], message: str, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base, tmp_path / "spoiled")
    spoil(tmp_path / "spoiled")
    (tmp_path / "good.jsonl").write_bytes(SETS["good.jsonl"])
    assert command(tmp_path / "spoiled", tmp_path / "good.jsonl", tmp_path / "out") == 1
    assert first_line(capsys) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        # The weights do not fit, then the examples do not.
        (60_000, "{out} cannot be written, what was there before is as it was: "),
        (100, "[Errno 27] File too large: '{examples}/"),
    ],
)
def test_a_full_disk_leaves_the_previous_checkpoint_as_it_was(
    size: int, message: str, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tiny.tiny_checkpoint(tmp_path / "out", "bert")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "good.jsonl").write_bytes(SETS["good.jsonl"])
    with full_disk(size):
        assert command(base, tmp_path / "good.jsonl", out) == 1
    assert first_line(capsys).startswith(message.format(out=out, examples=tmp_path / ".out.examples-0"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "out.trainer", "good.jsonl"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_base(tmp_path_factory.mktemp("base") / "bert", "bert")


def command(base: Path, data: Path, out: Path, *flags: str) -> int | str | None:
    names = ["--model_name_or_path", str(base), "--dataset_name", str(data), "--output_dir", str(out)]
    try:
        return main([*names, "--disable_tqdm", "true", *flags])
    except SystemExit as ended:
        return ended.code


def first_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Of what the command has to say at the end."""
    _, _, said = capsys.readouterr().err.partition("training.train: ")
    return said.partition("\n")[0]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
