r"""Averages the weights of reward models that were trained apart into one ordinary checkpoint (WARM).

    python -m training.average --model_name_or_path checkpoints/seed-1 checkpoints/seed-2 checkpoints/seed-3 \
        --dataset_name held_out.jsonl --output_dir checkpoints/warm

Weights that were fine-tuned from one point can be averaged, which gives about what an ensemble of all would, at the
price of one (Rame et al. 2024, arXiv 2401.12187). Whether it did is shown: each parent, their ensemble and the average
on the same held-out pairs, on which the average is then calibrated. Knows neither how parents were trained nor HTTP.
"""

import argparse
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reward_model.atomic import checked_target
from reward_model.checkpoint import load
from reward_model.errors import CheckpointRefused
from reward_model.manifest import Manifest
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.pretrained import load_network, load_tokenizer
from reward_model.rendering import Renderer
from reward_model.scores import Scalarisation
from training.data import NoPairs
from training.examples import SequencesOf
from training.finish import NO_SPREAD, calibration_of, prompts_of, write_checkpoint
from training.outcomes import Outcomes
from training.parents import Parent, read_parents
from training.report.verdicts import DataSet, Verdicts
from training.report.writer import write_beside
from training.rows import DataError
from training.scoring import score_groups
from training.source import Reading, Source, read_source
from training.standings import Standing, ensemble, table
from training.weights import average_weights

logger = logging.getLogger(__name__)

#: Exit status for checkpoints that must not be used, or not together; the same as the service's.
REFUSED = 3


@dataclass(frozen=True, slots=True)
class Options:
    """How to go about it.

    Attributes:
        weights: one for each checkpoint, positive; None for the plain mean.
        max_pairs: use only the first so many pairs.
        device: see `reward_model.precision`.
        batch_tokens: see `score_groups`.
    """

    weights: tuple[float, ...] | None = None
    max_pairs: int | None = None
    device: str = "auto"
    batch_tokens: int | None = None


def average(names: Sequence[str], output_dir: Path, dataset: str, options: Options | None = None) -> Manifest:
    """Runs the whole stage and writes the checkpoint to `output_dir`.

    Args:
        names: two or more checkpoints: directories or hub names, in any order.
        output_dir: a directory of its own.
        dataset: held-out pairs, or responses rated on the attributes of checkpoints that have some.
        options: see there.

    Raises:
        CheckpointRefused: the checkpoints cannot be averaged, or the average is no good; nothing is written.
        DataError: the rows cannot be used, or a checkpoint was trained on the very data set they are.
    """
    options = options or Options()
    target = checked_target(output_dir)
    parents = read_parents(names, options.weights or [1.0] * len(names))
    if target in [parent.directory.resolve() for parent in parents]:
        msg = f"{output_dir} is one of the checkpoints to average: name another directory"
        raise FileExistsError(msg)
    tokenizer = load_tokenizer(parents[0].directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
        held_out = _read(dataset, parents, tokenizer, options, Path(staging, "examples"))
        members = [_outcomes(_loaded(parent, options), held_out, options) for parent in parents]
        model = _averaged(parents, Path(staging), options)
        outcomes = _outcomes(model, held_out, options)
        _check_usable(outcomes)
        manifest = write_checkpoint(
            model,
            tokenizer,
            target,
            max_length=parents[0].manifest.max_length,
            outcomes=outcomes,
            calibration=calibration_of(outcomes, held_out.examples),
            record=_record(parents, members, outcomes, held_out) | _record_of(dataset, held_out),
        )
        data = DataSet.named(dataset, held_out.fingerprint)
        write_beside(target, manifest, None, Verdicts.of_examples(data, held_out.examples, outcomes))
        return manifest


def _read(
    dataset: str, parents: Sequence[Parent], tokenizer: PreTrainedTokenizerBase, options: Options, directory: Path
) -> Source:
    """The held-out examples, rendered as all parents render them; one comparison or more."""
    manifest = parents[0].manifest
    renderer = Renderer(
        tokenizer, rendering=manifest.rendering, max_length=manifest.max_length, vocab_size=len(tokenizer)
    )
    scalarisation = _scalarisation(parents)
    # A head with the one label of the default is taught by comparisons, and judged on them.
    rated = scalarisation.names != Scalarisation().names
    how = Reading(options.max_pairs, keep_repeats=True, ratings=scalarisation if rated else None)
    held_out = read_source(dataset, renderer, directory, how)
    if not held_out.examples.count_comparisons():
        msg = f"{dataset}: no two responses to compare are left\n{held_out.report.table()}"
        raise NoPairs(msg)
    for parent in parents:
        if parent.manifest.training.get("dataset_fingerprint") == held_out.fingerprint:
            msg = f"{dataset}: {parent.name} was trained on this very data set; name one that nothing was trained on"
            raise DataError(msg)
    logger.warning(
        "%s is not the data set that a member was trained on; whether one has seen some of its pairs cannot be told"
        " from checkpoints, and figures on such pairs would be better than elsewhere",
        dataset,
    )
    return held_out


def _loaded(parent: Parent, options: Options) -> RewardModel:
    try:
        # In fp32, as the average is judged: bf16 would move both by more than they differ.
        model = load(parent.name, device=options.device, dtype="float32").model
    except CheckpointRefused as error:
        msg = f"{parent.name}: {error}"
        raise CheckpointRefused(msg) from error
    if model.length_calibration is not None:
        again = "training.calibrate --length_calibration gives it one"
        logger.warning("%s is calibrated by length, which the average is not; %s", parent.name, again)
        model.length_calibration = None
    return model


def _averaged(parents: Sequence[Parent], staging: Path, options: Options) -> RewardModel:
    """The model of the mean weights, which are written to `staging` on the way."""
    shutil.copy(parents[0].directory / "config.json", staging)
    directories, weights = [parent.directory for parent in parents], [parent.weight for parent in parents]
    average_weights(directories, weights, staging / "model.safetensors")
    network = load_network(staging, dtype=torch.float32)
    precision = choose_precision(options.device, "float32")
    return RewardModel(network, precision, scalarisation=_scalarisation(parents)).eval()


def _scalarisation(parents: Sequence[Parent]) -> Scalarisation:
    return Scalarisation(parents[0].manifest.attributes, parents[0].manifest.scalarisation)


def _outcomes(model: RewardModel, held_out: Source, options: Options) -> Outcomes:
    groups = SequencesOf(held_out.examples)
    rewards = score_groups(model, groups, options.batch_tokens)
    return Outcomes.of(held_out.examples, rewards, model.scalarisation.weights)


def _check_usable(outcomes: Outcomes) -> None:
    metrics = outcomes.metrics()
    if not all(map(math.isfinite, metrics.values())) or metrics["reward_std"] < NO_SPREAD:
        msg = (
            "the average gives every response the same reward, or none that is finite (standard deviation"
            f" {metrics['reward_std']:.1e}): the checkpoints were trained too far apart"
        )
        raise CheckpointRefused(msg)


def _record(
    parents: Sequence[Parent], members: Sequence[Outcomes], outcomes: Outcomes, held_out: Source
) -> dict[str, Any]:
    """What the checkpoint says of its parents; also shown."""
    prompts, weights = prompts_of(held_out.examples), [parent.weight for parent in parents]
    standings = [Standing.of(one.name, made, prompts) for one, made in zip(parents, members, strict=True)]
    together = Standing.of("ensemble of the rewards", ensemble(members, weights), prompts)
    mean = Standing.of("average of the weights", outcomes, prompts)
    logger.info("%s", table([*sorted(standings, key=lambda one: one.name), together, mean]))
    if mean.accuracy.accuracy < min(one.accuracy.accuracy for one in standings):
        logger.warning("the average is worse than each of its parents: they were trained too far apart")
    bases = sorted({base for parent in parents for base in parent.bases})
    if len(bases) > 1:
        logger.warning("trained from %s: averaging needs bases that share their pre-training", " and ".join(bases))
    return {
        "method": "average of weights",
        "bases": bases,
        "head_initialisation": parents[0].head_initialisation,
        "parents": [
            {
                "name": parent.name,
                "fingerprint": parent.manifest.fingerprint,
                "seed": parent.manifest.training.get("seed"),
                "weight": parent.weight / sum(weights),
                "accuracy": standing.accuracy.accuracy,
                "loss": standing.loss,
            }
            for parent, standing in zip(parents, standings, strict=True)
        ],
        "ensemble": {"accuracy": together.accuracy.accuracy, "loss": together.loss},
        "reward_from": "held-out pairs",
    }


def _record_of(dataset: str, held_out: Source) -> dict[str, Any]:
    return {
        "eval_dataset": dataset,
        "eval_pairs": held_out.examples.count_comparisons(),
        "eval_bad_rows": held_out.report.to_json(),
        "eval_lengths": held_out.lengths_record(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.average", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model_name_or_path", required=True, nargs="+", help="two or more checkpoints: directories or hub names")
    add("--output_dir", required=True, type=Path, help="where the average goes")
    add(
        "--dataset_name",
        required=True,
        help="held-out pairs: .json, .jsonl, .jsonl.gz, .parquet, hub name or name:split",
    )
    add("--weights", nargs="+", type=_positive, help="what each checkpoint counts for; default: all the same")
    add("--max_pairs", type=int, help="use only the first so many pairs")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--batch_tokens", type=int, help="tokens per forward pass; default: 4096 on a CPU, else 16384")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        msg = f"{text} is not positive"
        raise argparse.ArgumentTypeError(msg)
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.weights and len(flags.weights) != len(flags.model_name_or_path):
        parser.error(f"{len(flags.weights)} --weights for {len(flags.model_name_or_path)} checkpoints")
    for name in ("max_pairs", "batch_tokens"):
        if (value := getattr(flags, name)) is not None and value < 1:
            parser.error(f"--{name} must be positive, not {value}")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    weights = tuple(flags.weights) if flags.weights else None
    options = Options(weights, flags.max_pairs, flags.device, flags.batch_tokens)
    try:
        average(flags.model_name_or_path, flags.output_dir, flags.dataset_name, options)
    except CheckpointRefused as error:
        sys.stderr.write(f"training.average: {error}\n")
        return REFUSED
    except (DataError, OSError) as error:
        sys.stderr.write(f"training.average: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
