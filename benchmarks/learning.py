r"""What a recipe learns from more and more pairs, on pairs that nobody trained on: a learning curve, or variants.

    python -m benchmarks.learning --model_name_or_path M --dataset_name train.jsonl.gz --test_dataset_name test.jsonl \
        --sizes 1000 2000 4000 --plot curve.svg -- --max_length 512 --bf16 true
    python -m benchmarks.learning ... --sizes 4000 --variant plain --variant "smoothed: --label_smoothing 0.1"
    python -m benchmarks.learning ... --sizes 1000 --plant " I hope this helps."

Smaller subsets are parts of larger ones, drawn once by seed. Every run is `training.train` and `training.evaluate` as
anybody would call them; what is finished is not run again, so that a curve can be interrupted, unless flags or the
content of a data set have changed (a model is told by its name alone). `--plant` adds a sentence to one response of
every pair, drawn by a coin, and calls that response the better one: what does not learn that learns nothing else. Knows
commands, not models.
"""

import argparse
import hashlib
import json
import random
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from training.rows import DataError, read_rows

_HEADER = """\
| variant | rows | accuracy [95 % by prompt] | longer wins | not scored | ECE | NLL | minutes |
|---|---|---|---|---|---|---|---|"""
#: Of a run: what was asked, and what came of it.
_FINISHED = "finished.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One training run.

    Attributes:
        variant: what is different about it; "" in a plain curve.
        size: rows to train on.
        flags: for `training.train`.
    """

    variant: str
    size: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """A directory's name."""
        return "-".join(
            part for part in ("".join(c if c.isalnum() else "_" for c in self.variant), str(self.size)) if part
        )


@dataclass(frozen=True, slots=True)
class Experiment:
    """What all runs have in common.

    Attributes:
        rows: to train on, in the order in which subsets take them.
        evaluation, test: names for the commands; without an evaluation set prompts are held out.
        asked: all that a result depends on, beside its run; data sets by name and content.
    """

    rows: list[Any]
    evaluation: str | None
    test: str
    asked: dict[str, Any]

    def subset(self, size: int) -> list[Any]:
        """So many rows, those of smaller subsets among them."""
        return self.rows[:size]


def main() -> None:
    """Runs what is missing, and prints a table."""
    parser = parser_of_flags()
    flags = parser.parse_args()
    try:
        figures = measure(flags)
    except DataError as error:
        parser.error(str(error))
    if flags.output_file:
        flags.output_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if flags.plot:
        from benchmarks.plots import draw_learning  # noqa: PLC0415 - only who draws needs matplotlib

        draw_learning(figures, flags.plot)


def parser_of_flags() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="base model")
    parser.add_argument("--dataset_name", required=True, help="pairs to train on")
    parser.add_argument(
        "--eval_dataset_name", help="pairs for the calibration; default: a share of the training prompts"
    )
    parser.add_argument("--test_dataset_name", required=True, help="pairs that decide")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000], help="rows to train on")
    parser.add_argument("--variant", action="append", default=[], help='"name: flags"; may be given several times')
    parser.add_argument("--plant", help="a sentence that makes the response better which ends with it")
    parser.add_argument("--reference", action="append", default=[], help="name=accuracy, drawn as a line")
    parser.add_argument("--seed", type=int, default=0, help="of the subsets")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".work" / "learning", help="for all files")
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw them there")
    parser.add_argument("flags", nargs="*", help="after --: flags for training.train")
    return parser


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """All runs, those that are finished read again.

    Raises:
        DataError: a data set cannot be used, or has fewer rows than are to be trained on.
    """
    flags.work.mkdir(parents=True, exist_ok=True)
    experiment = experiment_of(flags)
    described = machine.describe()
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    print(f"\n{_HEADER}")
    results = []
    for run in _runs(flags):
        result = _result(run, experiment, flags)
        print(table_row(run, result), flush=True)
        results.append(asdict(run) | result)
    references = {name: float(value) for name, _, value in (one.partition("=") for one in flags.reference)}
    return {"machine": described, "results": results, "references": references}


def experiment_of(flags: argparse.Namespace) -> Experiment:
    """What the flags ask for; planted copies of the data sets are written to `flags.work`."""
    rows = rows_of(flags.dataset_name)
    for size in flags.sizes:
        if not 1 <= size <= len(rows):
            msg = f"{flags.dataset_name} has {len(rows)} rows, of which --sizes {size} cannot be trained on"
            raise DataError(msg)
    random.Random(flags.seed).shuffle(rows)
    names = {"eval_dataset_name": flags.eval_dataset_name, "test_dataset_name": flags.test_dataset_name}
    used: dict[str, str | None] = dict(names)
    if flags.plant:
        rows = planted(rows, flags.plant)
        for flag, name in names.items():
            if name:
                used[flag] = str(_written(planted(rows_of(name), flags.plant), flags.work / f"{flag}.jsonl"))
    asked = {"model": flags.model_name_or_path, "plant": flags.plant, "seed": flags.seed}
    for flag, name in {"dataset_name": flags.dataset_name, **names}.items():
        asked[flag] = [name, _digest(rows_of(name))] if name else None
    return Experiment(rows, used["eval_dataset_name"], str(used["test_dataset_name"]), asked)


def rows_of(name: str) -> list[Any]:
    """All rows of a data set.

    Raises:
        DataError: it cannot be read, or has a line that is none.
    """
    rows = []
    for line, row in read_rows(name):
        if not isinstance(row, dict):
            msg = f"{name}: line {line} is not a row ({row}): subsets are made of rows that can be written again"
            raise DataError(msg)
        rows.append(row)
    return rows


def _digest(rows: list[Any]) -> str:
    return hashlib.sha256("\n".join(map(json.dumps, rows)).encode()).hexdigest()


def table_row(run: Run, result: dict[str, Any]) -> str:
    """A line under `_HEADER`."""
    low, high = result["accuracy_interval"]
    return (
        f"| {run.variant} | {run.size} | {result['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
        f" | {result['longer_wins']:.1%} | {result['not_scored']} of {result['n']}"
        f" | {result['ece']:.3f} | {result['nll']:.4f}"
        f" | {result['minutes']:.1f} |"
    )


def _runs(flags: argparse.Namespace) -> list[Run]:
    variants = [(name.strip(), own) for name, _, own in (one.partition(":") for one in flags.variant)] or [("", "")]
    sizes = sorted(set(flags.sizes))
    return [Run(name, size, (*flags.flags, *shlex.split(own))) for name, own in variants for size in sizes]


def finished(directory: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The result in `directory`; None unless it is the answer to the very same."""
    path = directory / _FINISHED
    if not path.is_file():
        return None
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    result: dict[str, Any] | None = known["result"] if known["asked"] == json.loads(json.dumps(asked)) else None
    return result


def finish(directory: Path, asked: dict[str, Any], result: dict[str, Any]) -> None:
    """Keeps a result for `finished`."""
    (directory / _FINISHED).write_text(json.dumps({"asked": asked, "result": result}, indent=1), encoding="utf-8")


def _result(run: Run, experiment: Experiment, flags: argparse.Namespace) -> dict[str, Any]:
    directory: Path = flags.work / run.name
    asked = experiment.asked | asdict(run)
    if (known := finished(directory, asked)) is not None:
        return known
    directory.mkdir(exist_ok=True)
    train = _written(experiment.subset(run.size), directory / "train.jsonl")
    held_out = ["--eval_dataset_name", experiment.evaluation] if experiment.evaluation else []
    common = ["--model_name_or_path", flags.model_name_or_path, "--output_dir", str(directory / "checkpoint")]
    started = time.monotonic()
    _call(directory, "training.train", *common, "--dataset_name", str(train), *held_out, *run.flags)
    minutes = (time.monotonic() - started) / 60
    metrics = directory / "metrics.json"
    trained = ["--model_name_or_path", str(directory / "checkpoint")]
    _call(directory, "training.evaluate", *trained, "--dataset_name", experiment.test, "--output_file", str(metrics))
    result: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8")) | {"minutes": minutes}
    finish(directory, asked, result)
    return result


def _call(directory: Path, module: str, *flags: str) -> None:
    with (directory / f"{module}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run([sys.executable, "-m", module, *flags], stdout=log, stderr=subprocess.STDOUT, check=False)  # noqa: S603
    if done.returncode:
        msg = f"{module} ended with status {done.returncode}: see {log.name}"
        raise RuntimeError(msg)


def _written(rows: list[Any], path: Path) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def planted(rows: list[Any], sentence: str) -> list[Any]:
    """`rows` with a sentence at the end of one response of each, drawn by a coin, which is then the chosen one.

    Raises:
        DataError: a row is no pair.
    """
    return [_planted(row, sentence, i) for i, row in enumerate(rows)]


def _planted(row: dict[str, Any], sentence: str, place: int) -> dict[str, Any]:
    if not {"chosen", "rejected"} <= row.keys():
        msg = f"row {place + 1} has {', '.join(row)}: --plant needs pairs (chosen, rejected)"
        raise DataError(msg)
    sides = [row["chosen"], row["rejected"]]
    random.Random(place).shuffle(sides)
    # How sure people were, and by how much, was said of other responses.
    kept = {name: value for name, value in row.items() if name not in {"label", "margin"}}
    return kept | {"chosen": _ending(sides[0], sentence), "rejected": sides[1]}


def _ending(response: Any, sentence: str) -> Any:
    if isinstance(response, str):
        return response + sentence
    return [*response[:-1], response[-1] | {"content": response[-1]["content"] + sentence}]


if __name__ == "__main__":
    main()
