r"""What a recipe learns from more and more pairs, on pairs that nobody trained on: a learning curve, or variants.

    python -m benchmarks.learning --model_name_or_path M --dataset_name train.jsonl.gz --test_dataset_name test.jsonl \
        --sizes 1000 2000 4000 --plot curve.svg -- --max_length 512 --bf16 true
    python -m benchmarks.learning ... --sizes 4000 --variant plain --variant "smoothed: --label_smoothing 0.1"
    python -m benchmarks.learning ... --sizes 1000 --plant " I hope this helps."

Smaller subsets are parts of larger ones, drawn once by seed. Every run is `training.train` and `training.evaluate` as
anybody would call them; what is finished is not run again, so that a curve can be interrupted. `--plant` adds a
sentence to one response of every pair, drawn by a coin, and calls that response the better one: what does not learn
that learns nothing else. Knows commands, not models.
"""

import argparse
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
from training.rows import read_rows


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


def main() -> None:
    """Runs what is missing, and prints a table."""
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
    flags = parser.parse_args()
    figures = measure(flags)
    if flags.output_file:
        flags.output_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if flags.plot:
        from benchmarks.plots import draw_learning  # noqa: PLC0415 - only who draws needs matplotlib

        draw_learning(figures, flags.plot)


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """All runs, those that are finished read again."""
    flags.work.mkdir(parents=True, exist_ok=True)
    rows = [row for _, row in read_rows(flags.dataset_name)]
    random.Random(flags.seed).shuffle(rows)
    test = flags.test_dataset_name
    if flags.plant:
        rows = [_planted(row, flags.plant, i) for i, row in enumerate(rows)]
        planted = [_planted(row, flags.plant, i) for i, (_, row) in enumerate(read_rows(test))]
        test = str(_written(planted, flags.work / "test.jsonl"))
    described = machine.describe()
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    print("\n| variant | rows | accuracy [95 % by prompt] | longer wins | not scored | ECE | NLL | minutes |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for run in _runs(flags):
        result = _result(run, rows, test, flags)
        low, high = result["accuracy_interval"]
        print(
            f"| {run.variant} | {run.size} | {result['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
            f" | {result['longer_wins']:.1%} | {result['not_scored']} of {result['n']}"
            f" | {result['ece']:.3f} | {result['nll']:.4f}"
            f" | {result['minutes']:.1f} |",
            flush=True,
        )
        results.append(asdict(run) | result)
    references = {name: float(value) for name, _, value in (one.partition("=") for one in flags.reference)}
    return {"machine": described, "results": results, "references": references}


def _runs(flags: argparse.Namespace) -> list[Run]:
    variants = [(name.strip(), own) for name, _, own in (one.partition(":") for one in flags.variant)] or [("", "")]
    sizes = sorted(set(flags.sizes))
    return [Run(name, size, (*flags.flags, *shlex.split(own))) for name, own in variants for size in sizes]


def _result(run: Run, rows: list[Any], test: str, flags: argparse.Namespace) -> dict[str, Any]:
    directory: Path = flags.work / run.name
    finished = directory / "finished.json"
    asked = asdict(run) | {"model": flags.model_name_or_path, "plant": flags.plant, "seed": flags.seed}
    known: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8")) if finished.is_file() else {}
    if known.get("asked") == json.loads(json.dumps(asked)):
        result: dict[str, Any] = known["result"]
        return result
    directory.mkdir(exist_ok=True)
    train = _written(rows[: run.size], directory / "train.jsonl")
    held_out = ["--eval_dataset_name", flags.eval_dataset_name] if flags.eval_dataset_name and not flags.plant else []
    common = ["--model_name_or_path", flags.model_name_or_path, "--output_dir", str(directory / "checkpoint")]
    started = time.monotonic()
    _call(directory, "training.train", *common, "--dataset_name", str(train), *held_out, *run.flags)
    minutes = (time.monotonic() - started) / 60
    metrics = directory / "metrics.json"
    trained = ["--model_name_or_path", str(directory / "checkpoint")]
    _call(directory, "training.evaluate", *trained, "--dataset_name", test, "--output_file", str(metrics))
    result = json.loads(metrics.read_text(encoding="utf-8")) | {"minutes": minutes}
    finished.write_text(json.dumps({"asked": asked, "result": result}, indent=1), encoding="utf-8")
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


def _planted(row: dict[str, Any], sentence: str, place: int) -> dict[str, Any]:
    """`row` with a sentence at the end of one response, which is then the chosen one."""
    sides = [row["chosen"], row["rejected"]]
    random.Random(place).shuffle(sides)
    return row | {"chosen": _ending(sides[0], sentence), "rejected": sides[1]}


def _ending(response: Any, sentence: str) -> Any:
    if isinstance(response, str):
        return response + sentence
    return [*response[:-1], response[-1] | {"content": response[-1]["content"] + sentence}]


if __name__ == "__main__":
    main()
