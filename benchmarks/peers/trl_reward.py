"""TRL's `RewardTrainer` on a file of preference pairs, with a `Watch` that looks on.

    python -m benchmarks.peers.trl_reward --record RECORD.json --model DIR --pairs PAIRS.jsonl --output_dir O ...

Takes TRL's own flags (`RewardConfig`) as they are; a model directory, a file in TRL's conversational format and where
the record goes are named besides.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import HfArgumentParser
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from benchmarks.watch import Watch


@dataclass
class Run:
    """What `RewardConfig` does not name."""

    record: str = field(metadata={"help": "where the record goes"})
    model: str = field(metadata={"help": "directory of a sequence classifier with one label"})
    pairs: str = field(metadata={"help": "JSON lines with prompt, chosen and rejected, each a list of messages"})
    attn_implementation: str = field(default="sdpa", metadata={"help": "transformers' name of the attention"})


#: transformers annotates its parser for instances of dataclasses, and means the classes.
_FLAGS: Any = (Run, RewardConfig)


class Counting:
    """TRL's collator, and how many tokens it gave out, padding included."""

    def __init__(self, pad_token_id: int) -> None:
        self._collate = DataCollatorForPreference(pad_token_id=pad_token_id)
        self.tokens = 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch, padded."""
        batch: dict[str, torch.Tensor] = self._collate(examples)
        self.tokens += batch["input_ids"].numel()
        return batch


def main() -> None:
    """Trains, and writes the model and the record."""
    run, config = HfArgumentParser(_FLAGS).parse_args_into_dataclasses()
    config.model_init_kwargs = {"attn_implementation": run.attn_implementation}
    rows = [json.loads(line) for line in Path(run.pairs).read_text(encoding="utf-8").splitlines()]
    watch = Watch()
    trainer = RewardTrainer(model=run.model, args=config, train_dataset=Dataset.from_list(rows), callbacks=[watch])
    trainer.data_collator = counting = Counting(trainer.processing_class.pad_token_id)
    trainer.train()
    trainer.save_model(config.output_dir)
    ids = [[row["chosen_ids"], row["rejected_ids"]] for row in trainer.train_dataset]
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    watch.write(Path(run.record), ids=digest, pairs=len(ids), tokens=counting.tokens)


if __name__ == "__main__":
    main()
