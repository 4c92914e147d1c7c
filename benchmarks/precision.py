"""How far bf16 scores lie from fp32 ones, on real texts: the figures in docs/checkpoint.md.

    python -m benchmarks.precision --model checkpoints/demo [--dataset_name pairs.jsonl]

Prints one Markdown row per checkpoint. The reference is the same checkpoint in fp32, which the golden vectors tie to
plain transformers.
"""

import argparse
import platform
from pathlib import Path

import torch
import transformers

from reward_model import checkpoint
from training.data import RowReport, read_preferences
from training.examples import Example, render_examples
from training.scoring import score_groups

HELD_OUT = Path(__file__).parent.parent / "training" / "demo" / "heldout.jsonl"


def main() -> None:
    """Measures every checkpoint named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoint directories")
    parser.add_argument("--dataset_name", default=str(HELD_OUT), help="pairs to score")
    flags = parser.parse_args()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()}"
    print(f"{versions}, {torch.cpu.get_capabilities().get('cpu_name', 'unknown CPU')}\n")
    print("| checkpoint | texts | max error / std | mean error / std | golden max error / std | rankings changed |")
    print("|---|---|---|---|---|---|")
    for directory in flags.model:
        print(row(directory, flags.dataset_name))


def row(directory: Path, dataset_name: str) -> str:
    """One line of the table."""
    exact, rounded = (checkpoint.load(directory, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert exact.reward is not None
    examples = list(render_examples(read_preferences(dataset_name).pairs, exact.renderer, RowReport()))
    reference, measured = _scores(exact, examples), _scores(rounded, examples)
    errors = (reference - measured).abs() / exact.reward.std
    changed = ((reference[0] > reference[1]) != (measured[0] > measured[1])).sum()
    return (
        f"| {exact.name} ({exact.model.model.config.model_type}) | {errors.numel()} | {errors.max():.4f} |"
        f" {errors.mean():.4f} | {rounded.golden_max_error / exact.reward.std:.4f} | {changed} of {len(examples)} |"
    )


def _scores(loaded: checkpoint.Checkpoint, examples: list[Example]) -> torch.Tensor:
    """[2, n]: chosen and rejected rewards."""
    return torch.tensor(score_groups(loaded.model, [one.sequences for one in examples]), dtype=torch.float64).T


if __name__ == "__main__":
    main()
