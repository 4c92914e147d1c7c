"""Trains the demo reward model in a few minutes on two CPU cores.

    python -m training.demo --output_dir checkpoints/demo

Everything is fixed but the place: it shows the pipeline, it is no recipe.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from transformers.utils import logging as transformers_logging

from reward_model.errors import CheckpointRefused
from training.arguments import RewardTrainingArguments
from training.demo.backbone import copy_backbone
from training.rows import DataError
from training.train import train
from training.trainer import TrainingFailed

_HERE = Path(__file__).parent


def main() -> int:
    """Parses the command line, trains, and says where the checkpoint is."""
    parser = argparse.ArgumentParser(
        prog="python -m training.demo", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--output_dir", type=Path, default=Path("checkpoints/demo"), help="where the checkpoint goes")
    output_dir: Path = parser.parse_args().output_dir
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as directory:
        try:
            train(demo_arguments(copy_backbone(Path(directory)), output_dir))
        except (CheckpointRefused, DataError, TrainingFailed, OSError) as error:
            sys.stderr.write(f"training.demo: {error}\n")
            return 1
    return 0


def demo_arguments(backbone: Path, output_dir: Path) -> RewardTrainingArguments:
    """The demo's flags: those with the best held-out likelihood among a few tried on the held-out pairs."""
    return RewardTrainingArguments(
        model_name_or_path=str(backbone),
        dataset_name=str(_HERE / "train.jsonl"),
        eval_dataset_name=str(_HERE / "heldout.jsonl"),
        output_dir=str(output_dir),
        learning_rate=1e-4,
        num_train_epochs=3,
        seed=0,
    )


if __name__ == "__main__":
    sys.exit(main())
