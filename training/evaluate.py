r"""Evaluates a checkpoint or a service on preference pairs, with the same rendering and scores.

    python -m training.evaluate --model_name_or_path checkpoints/demo --dataset_name test.jsonl \
        --output_file metrics.json [--baseline checkpoints/before]
    python -m training.evaluate --url http://127.0.0.1:8000 --dataset_name test.jsonl

Does not know how the model was trained.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from transformers.utils import logging as transformers_logging

from reward_model.checkpoint import Checkpoint, load
from reward_model.errors import CheckpointRefused
from reward_model.precision import DtypeName
from training.benchmarks.catalogue import BENCHMARKS
from training.benchmarks.items import read_items
from training.benchmarks.scored import BenchmarkFailed, run
from training.data import read_preferences
from training.documents import write_document
from training.evaluation import Evaluation
from training.pair_scorer import EvaluationFailed
from training.pairs import PreferencePair
from training.pairwise import compare, evaluate, evaluate_with
from training.rows import DataError
from training.service_scorer import service_at

#: Exit status for a checkpoint that must not be used, the same as the service's.
REFUSED = 3
#: Flags of a checkpoint that is loaded here.
_IN_PROCESS = ("max_length", "device", "dtype", "batch_tokens", "chat_template", "score_label")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = f"{value} is not positive"
        raise argparse.ArgumentTypeError(msg)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    evaluated = parser.add_mutually_exclusive_group(required=True)
    evaluated.add_argument("--model_name_or_path", help="checkpoint: a directory or a hub name")
    evaluated.add_argument("--url", help="a running service, such as http://127.0.0.1:8000")
    add("--api_key_file", type=Path, help="file with the API key for --url in its first line")
    add("--dataset_name", required=True, help="pairs: .json, .jsonl, .jsonl.gz, .parquet, hub name or name:split")
    add("--baseline", help="a second checkpoint, compared pair by pair on the same data")
    add("--benchmark", choices=list(BENCHMARKS), help="score the rows by the rules of this benchmark")
    add("--output_file", type=Path, help="where the result goes as JSON")
    add("--max_length", type=_positive, help="read fewer tokens than the checkpoint's own limit")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--dtype", default="auto", choices=get_args(DtypeName), help="number format of the backbone")
    add("--batch_tokens", type=_positive, help="tokens per forward pass; default: 4096 on a CPU, else 16384")
    add("--max_pairs", type=_positive, help="use only the first so many pairs (of a benchmark: rows)")
    add("--chat_template", type=Path, help="a Jinja file, for a foreign checkpoint without a template")
    add("--score_label", help="which label of a foreign head with several is the reward")
    return parser


def _check(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Refuses flags that would change nothing."""
    if flags.benchmark and flags.baseline:
        parser.error("--baseline compares pairs: leave it out with --benchmark, or evaluate each checkpoint by itself")
    if flags.benchmark and flags.url is not None:
        parser.error("--benchmark needs a checkpoint (--model_name_or_path), not --url")
    if flags.output_file and flags.output_file.is_dir():
        parser.error(f"--output_file {flags.output_file} is a directory: name a file")
    loaded = flags.url is None or flags.baseline
    for name in () if loaded else _IN_PROCESS:
        if getattr(flags, name) != parser.get_default(name):
            parser.error(f"--{name} changes nothing with --url")
    if flags.url is None and flags.api_key_file:
        parser.error("--api_key_file changes nothing without --url")


def _run_benchmark(flags: argparse.Namespace) -> None:
    """The same as `_run` by the rules of a benchmark."""
    benchmark = BENCHMARKS[flags.benchmark]
    items = read_items(benchmark, flags.dataset_name, limit=flags.max_pairs)
    report = run(benchmark, items, _load(flags.model_name_or_path, flags), batch_tokens=flags.batch_tokens)
    _hand_over(report.table(), report.to_json() | {"dataset": flags.dataset_name}, flags.output_file)


def _run(flags: argparse.Namespace) -> None:
    """Evaluates, writes the result and shows it."""
    preferences = read_preferences(flags.dataset_name, limit=flags.max_pairs)
    evaluation = _evaluated(flags, preferences.pairs)
    rejected = preferences.rejected_rows
    document: dict[str, Any] = evaluation.to_json() | {"dataset": flags.dataset_name}
    blocks = [evaluation.table()]
    if flags.baseline:
        baseline = evaluate(_load(flags.baseline, flags), preferences.pairs, batch_tokens=flags.batch_tokens)
        comparison = compare(evaluation, baseline, preferences.pairs)
        document["baseline"] = comparison.to_json()
        blocks.append(comparison.table())
    if rejected.rejected:
        blocks.append(rejected.table())
    _hand_over("\n\n".join(blocks), document | {"rejected_rows": rejected.to_json()}, flags.output_file)


def _hand_over(table: str, document: dict[str, Any], path: Path | None) -> None:
    """Writes and shows a result that may have taken hours: neither a full disk nor a closed pipe costs the other."""
    try:
        if path:
            write_document(document, path)
    finally:
        print(table)


def _evaluated(flags: argparse.Namespace, pairs: Sequence[PreferencePair]) -> Evaluation:
    if flags.url is not None:
        with service_at(flags.url, flags.api_key_file) as service:
            return evaluate_with(service, pairs)
    # Let go of afterwards: a baseline may not fit beside it.
    return evaluate(_load(flags.model_name_or_path, flags), pairs, batch_tokens=flags.batch_tokens)


def _load(name: str, flags: argparse.Namespace) -> Checkpoint:
    """Raises CheckpointRefused, whose message begins with the checkpoint's name."""
    try:
        return load(
            name,
            device=flags.device,
            dtype=flags.dtype,
            max_length=flags.max_length,
            chat_template=flags.chat_template,
            score_label=flags.score_label,
        )
    except CheckpointRefused as error:
        msg = f"{name}: {error}"
        raise CheckpointRefused(msg) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    flags = parser.parse_args(argv)
    _check(parser, flags)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    try:
        _run_benchmark(flags) if flags.benchmark else _run(flags)
    except CheckpointRefused as error:
        print(error, file=sys.stderr)
        return REFUSED
    except (DataError, EvaluationFailed, BenchmarkFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
