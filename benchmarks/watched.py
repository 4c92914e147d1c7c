"""`training.train` as anybody runs it, with a `Watch` that looks on.

    python -m benchmarks.watched RECORD.json --model_name_or_path M --dataset_name D --output_dir O ...

Knows nothing of what it is compared with.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import trainer

from benchmarks.watch import Watch
from training.train import main as train


def main(argv: Sequence[str]) -> int:
    """Trains; the record is written whether that went well or not.

    Returns:
        The exit status of `training.train`.
    """
    record, *flags = argv
    watch = Watch()
    callbacks: list[Any] = trainer.DEFAULT_CALLBACKS  # classes or instances
    callbacks.append(watch)
    try:
        return train(flags)
    finally:
        watch.write(Path(record))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
